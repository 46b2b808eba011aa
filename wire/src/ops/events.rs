//! What the server says to the client: answers, completions, errors, credit.

crate::events! {
    /// The answer of a synchronous operation. The reply's fixed part and its variable part follow.
    0x8001 Reply {
        /// Number of the operation that is answered.
        number: u64,
        /// `CUresult`.
        status: u32,
        /// Bytes of the tail, padding not counted.
        tail_bytes: u32,
    }

    /// A marked point of a stream (an event record, a host-function slot, an unmapping) has been
    /// reached.
    0x8002 Done {
        number: u64,
        /// `CUresult`: 0, or the error that the context met before the point was reached.
        status: u32,
        reserved: u32,
    }

    /// An asynchronous operation was refused by the driver, or its context met a fault.
    0x8003 Failed {
        number: u64,
        /// Context concerned; 0 when the operation named none.
        context: u64,
        status: u32,
        /// 1: the context is lost, and every later call on it gives `status`.
        sticky: u32,
    }

    /// Host-to-device chunks with numbers below `upto` may be sent.
    0x8004 Credit { upto: u64 }

    /// Events after this one must not be seen by the program before all device-to-host chunks with numbers
    /// below `chunks` have landed.
    0x8005 Barrier { chunks: u64 }

    /// Payload of a small device-to-host copy; the data follow.
    0x8006 Data {
        /// Number of the copy.
        number: u64,
        /// Byte offset in the copy's packed destination.
        offset: u64,
        bytes: u32,
        reserved: u32,
    }

    /// A stream has reached a host function: run it, then say `HostFuncDone`.
    0x8007 HostCall { number: u64 }

    /// What device code printed; UTF-8 as far as the program made it so.
    0x8008 Print {
        /// 1 standard output, 2 standard error.
        descriptor: u32,
        bytes: u32,
    }

    /// A word of host-mapped memory was written by a stream.
    0x8009 Word {
        address: u64,
        value: u64,
        /// 4 or 8.
        bytes: u32,
        reserved: u32,
    }
}

//! What each driver function cost the program: `FUSEWIRE_STATS=1` prints it when the program ends.
//!
//! Every API function owns a static [`Counter`]. While a call runs, the thread remembers what it did —
//! nothing that left the client, something published, or a wait for the server — and the counter takes
//! the dearest of them.

use std::cell::Cell;
use std::fmt::Write as _;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use fusewire_wire::ops::Kind;

static HEAD: AtomicPtr<Counter> = AtomicPtr::new(ptr::null_mut());

/// Calls of one driver function.
pub(crate) struct Counter {
    name: &'static str,
    registered: AtomicBool,
    next: AtomicPtr<Counter>,
    local: AtomicU64,
    published: AtomicU64,
    waited: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    waited_ns: AtomicU64,
}

#[derive(Clone, Copy)]
struct Current {
    kind: Kind,
    bytes_out: u64,
    bytes_in: u64,
    waited_ns: u64,
}

const NOTHING: Current = Current { kind: Kind::Local, bytes_out: 0, bytes_in: 0, waited_ns: 0 };

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(NOTHING) };
}

impl Counter {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            registered: AtomicBool::new(false),
            next: AtomicPtr::new(ptr::null_mut()),
            local: AtomicU64::new(0),
            published: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Starts counting a call on this thread.
    #[inline]
    pub(crate) fn begin(&'static self) -> Counted {
        if !self.registered.load(Relaxed) {
            self.register();
        }
        // A call may come from a thread whose storage is being torn down: then it is not counted.
        let _ = CURRENT.try_with(|current| current.set(NOTHING));
        Counted(self)
    }

    #[cold]
    fn register(&'static self) {
        if self.registered.swap(true, Relaxed) {
            return;
        }
        let me = ptr::from_ref(self).cast_mut();
        let mut head = HEAD.load(Relaxed);
        loop {
            self.next.store(head, Relaxed);
            match HEAD.compare_exchange(head, me, std::sync::atomic::Ordering::Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

/// A call being counted; the count is made when it is dropped.
pub(crate) struct Counted(&'static Counter);

impl Drop for Counted {
    #[inline]
    fn drop(&mut self) {
        let current = CURRENT.try_with(Cell::get).unwrap_or(NOTHING);
        let counter = self.0;
        match current.kind {
            Kind::Local => counter.local.fetch_add(1, Relaxed),
            Kind::Async => counter.published.fetch_add(1, Relaxed),
            Kind::Sync => {
                counter.waited_ns.fetch_add(current.waited_ns, Relaxed);
                counter.waited.fetch_add(1, Relaxed)
            }
        };
        if current.bytes_out != 0 {
            counter.bytes_out.fetch_add(current.bytes_out, Relaxed);
        }
        if current.bytes_in != 0 {
            counter.bytes_in.fetch_add(current.bytes_in, Relaxed);
        }
    }
}

/// The running call has published something of `bytes` bytes.
#[inline]
pub(crate) fn published(bytes: usize) {
    let _ = CURRENT.try_with(|cell| {
        let mut current = cell.get();
        if current.kind == Kind::Local {
            current.kind = Kind::Async;
        }
        current.bytes_out += bytes as u64;
        cell.set(current);
    });
}

/// The running call has waited for the server since `since`, and got `bytes` bytes.
pub(crate) fn waited(since: Instant, bytes: usize) {
    let _ = CURRENT.try_with(|cell| {
        let mut current = cell.get();
        current.kind = Kind::Sync;
        current.bytes_in += bytes as u64;
        current.waited_ns += u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        cell.set(current);
    });
}

/// The running call has asked for `bytes` bytes that arrive later.
pub(crate) fn awaits(bytes: usize) {
    let _ = CURRENT.try_with(|cell| {
        let mut current = cell.get();
        current.bytes_in += bytes as u64;
        cell.set(current);
    });
}

/// Bytes of memory that went over bulk lanes, and what they were on the link: out, then in.
static BULK: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// A bulk chunk of `bytes` bytes of memory leaves as `sent`.
pub(crate) fn carried(bytes: u32, sent: u32) {
    BULK[0].fetch_add(bytes.into(), Relaxed);
    BULK[1].fetch_add(sent.into(), Relaxed);
}

/// A bulk chunk of `bytes` bytes of memory has come as `received`.
pub(crate) fn landed(bytes: u32, received: u32) {
    BULK[2].fetch_add(bytes.into(), Relaxed);
    BULK[3].fetch_add(received.into(), Relaxed);
}

/// Batches of records sent, and received.
static BATCHES: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// The I/O thread sends a batch.
pub(crate) fn sent_batch() {
    BATCHES[0].fetch_add(1, Relaxed);
}

/// The I/O thread has received `count` batches so far.
pub(crate) fn received_batches(count: u64) {
    BATCHES[1].store(count, Relaxed);
}

struct Row {
    name: &'static str,
    local: u64,
    published: u64,
    waited: u64,
    out: u64,
    back: u64,
    ns: u64,
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut at = HEAD.load(std::sync::atomic::Ordering::Acquire);
    // SAFETY: the list holds statics alone, linked before they were published.
    while let Some(counter) = unsafe { at.as_ref() } {
        rows.push(Row {
            name: counter.name,
            local: counter.local.load(Relaxed),
            published: counter.published.load(Relaxed),
            waited: counter.waited.load(Relaxed),
            out: counter.bytes_out.load(Relaxed),
            back: counter.bytes_in.load(Relaxed),
            ns: counter.waited_ns.load(Relaxed),
        });
        at = counter.next.load(Relaxed);
    }
    rows.sort_by_key(|row| std::cmp::Reverse((row.waited, row.published, row.local)));
    rows
}

/// The table of all calls so far, or the same as JSON.
pub(crate) fn report(json: bool) -> String {
    let rows = rows();
    let mut text = String::new();
    if json {
        text.push_str("{\"functions\":[");
        for (n, row) in rows.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            let _ = write!(
                text,
                "{comma}{{\"name\":\"{}\",\"local\":{},\"async\":{},\"sync\":{},\"bytes_out\":{},\"bytes_in\":{},\"waited_ns\":{}}}",
                row.name, row.local, row.published, row.waited, row.out, row.back, row.ns
            );
        }
        let [out, sent, back, received] = BULK.each_ref().map(|count| count.load(Relaxed));
        let [batches_out, batches_in] = BATCHES.each_ref().map(|count| count.load(Relaxed));
        let _ = writeln!(
            text,
            "],\"bulk\":{{\"out\":{out},\"sent\":{sent},\"in\":{back},\"received\":{received}}},\"batches\":{{\"out\":{batches_out},\"in\":{batches_in}}}}}"
        );
        return text;
    }
    let sum = |of: fn(&Row) -> u64| rows.iter().map(of).sum::<u64>();
    let (local, published, waited) = (sum(|r| r.local), sum(|r| r.published), sum(|r| r.waited));
    let total = (local + published + waited).max(1);
    let _ = writeln!(
        text,
        "fusewire: {total} driver calls: {local} answered in the client ({:.1} %), {published} published without waiting, {waited} waited for the server; {} batches sent",
        100.0 * local as f64 / total as f64,
        BATCHES[0].load(Relaxed)
    );
    let [out, sent, back, received] = BULK.each_ref().map(|count| count.load(Relaxed));
    if sent != out || received != back {
        let _ = writeln!(
            text,
            "fusewire: bulk data: {out} bytes out as {sent} on the link, {back} bytes in as {received}"
        );
    }
    let _ = writeln!(
        text,
        "fusewire: {:<46} {:>9} {:>9} {:>9} {:>12} {:>12} {:>10}",
        "function", "local", "async", "sync", "bytes out", "bytes in", "waited ms"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "fusewire: {:<46} {:>9} {:>9} {:>9} {:>12} {:>12} {:>10.3}",
            row.name,
            row.local,
            row.published,
            row.waited,
            row.out,
            row.back,
            row.ns as f64 / 1e6
        );
    }
    text
}

/// Makes the counter of the function it stands in.
macro_rules! counter {
    ($name:literal) => {{
        static COUNTER: $crate::runtime::stats::Counter = $crate::runtime::stats::Counter::new($name);
        &COUNTER
    }};
}
pub(crate) use counter;

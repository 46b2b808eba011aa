//! The hot paths of the protocol, so many times over: what `fusewire-perf gate` counts the instructions of.
//!
//! `fusewire-instructions encode|parse|dispatch COUNT` handles COUNT launches and prints nothing. The gate runs it with two
//! counts and takes the difference, so that what happens once does not matter.

use std::hint::black_box;
use std::process::ExitCode;

use fusewire_wire::error::ProtocolError;
use fusewire_wire::frame::{FRAME_HEADER_BYTES, Frame, record_at};
use fusewire_wire::ops::table::{Launch, RefuseAll, dispatch};
use fusewire_wire::ops::{Call, Dim3, Record};
use fusewire_wire::session::{Outbox, OutboxConfig};
use zerocopy::IntoBytes;

/// Launches in a batch: about what gathers while another one travels.
const BATCH: u64 = 64;
/// A kernel with eight pointers.
const PARAMETERS: [u8; 64] = [0x5a; 64];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let (what, count) = match words.as_slice() {
        [_, what, count] => (what.as_str(), count.parse::<u64>().unwrap_or(0)),
        _ => ("", 0),
    };
    let done = match what {
        "encode" => encode(count),
        "parse" => parse(count),
        "dispatch" => decode(count),
        _ => {
            eprintln!("usage: fusewire-instructions encode|parse|dispatch COUNT");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fusewire-instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn launch() -> Launch {
    let (grid, block) = (Dim3 { x: 128, y: 1, z: 1 }, Dim3 { x: 256, y: 1, z: 1 });
    Launch { function: 0x1000, stream: 0x2000, grid, block, shared_bytes: 0, parameter_bytes: 64 }
}

fn push(outbox: &mut Outbox) -> Result<(), ProtocolError> {
    outbox.push(Launch::CODE, 0, black_box(&launch()).as_bytes(), &[black_box(&PARAMETERS)]).map(drop)
}

/// Launches into batches, which are sealed and acknowledged as they would be.
fn encode(count: u64) -> Result<(), ProtocolError> {
    let mut outbox = Outbox::new(OutboxConfig::default());
    for number in 1..=count {
        push(&mut outbox)?;
        if number.is_multiple_of(BATCH) {
            let sealed = outbox.seal(0);
            black_box(&sealed);
            drop(sealed);
            outbox.ack(number / BATCH)?;
        }
    }
    Ok(())
}

/// A batch as it lies on the wire.
fn batch() -> Result<Vec<u8>, ProtocolError> {
    let mut outbox = Outbox::new(OutboxConfig::default());
    for _ in 0..BATCH {
        push(&mut outbox)?;
    }
    Ok(outbox.seal(0).map(|sealed| sealed.to_vec()).unwrap_or_default())
}

/// The header of a batch, and where its records are.
fn parse(count: u64) -> Result<(), ProtocolError> {
    let batch = batch()?;
    for _ in 0..count / BATCH {
        let bytes = black_box(batch.as_slice());
        let Some(frame) = Frame::parse(bytes)? else { continue };
        let payload = bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default();
        let mut offset = 0;
        for index in 0..frame.records {
            let (header, body, next) = record_at(payload, offset, frame.seq, index)?;
            black_box((header, body));
            offset = next;
        }
    }
    Ok(())
}

/// One record to its handler's method.
fn decode(count: u64) -> Result<(), ProtocolError> {
    let mut body = launch().as_bytes().to_vec();
    body.extend(PARAMETERS);
    let mut handler = RefuseAll;
    for number in 1..=count {
        let outcome =
            dispatch(&mut handler, black_box(Launch::CODE), Call { number, flags: 0 }, black_box(&body));
        let _ = black_box(outcome);
    }
    Ok(())
}

//! How long things take, printed: for a real GPU and an optimised build, by `worker --ignored how_long_things_take`.

use std::time::Instant;

use fusewire_server::control::Staging;
use fusewire_wire::ops::table::*;

use crate::Test;
use crate::client::{Client, Setup};
use crate::thin::ADD;

/// Not run unless asked for.
pub const MEASUREMENTS: &[Test] = &[("how_long_things_take", how_long_things_take)];

fn how_long_things_take() {
    let staging = Staging { slot_bytes: 1 << 20, h2d_slots: 64, d2h_slots: 64, reserved: 0 };
    let begin = Instant::now();
    let mut client = Client::open(&Setup { staging, lanes: 4, ..Setup::default() });
    println!("session open, worker's start included: {:?}", begin.elapsed());
    let begin = Instant::now();
    let context = client.context();
    println!("first context: {:?}", begin.elapsed());
    let stream = client.stream(context);
    let bytes = 256 << 20;
    let block = client.block(context, bytes);
    let module = client.module(context, ADD.as_bytes());
    let (add, _) = client.function(module, "add");
    let mut times: Vec<_> = (0..2000)
        .map(|_| {
            let begin = Instant::now();
            client.launch(add, stream, 32, &[block, block]);
            client.synchronize(stream).unwrap();
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!("launch and synchronise: median {:?}, 99 % {:?}", times[1000], times[1980]);
    let begin = Instant::now();
    for _ in 0..10_000 {
        client.launch(add, stream, 32, &[block, block]);
    }
    client.synchronize(stream).unwrap();
    println!("10,000 launches in one batch: {:?} each", begin.elapsed() / 10_000);
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let begin = Instant::now();
            let address = client.block(context, 2 << 20);
            client.send(BlockUnmap { context, address, bytes: 2 << 20 });
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!("map and unmap 2 MiB: median {:?}", times[100]);
    let data = vec![1; bytes as usize];
    for _ in 0..3 {
        let begin = Instant::now();
        client.copy_in(stream, block, &data);
        client.synchronize(stream).unwrap();
        println!("256 MiB to the device: {:.2} GB/s", bytes as f64 / begin.elapsed().as_secs_f64() / 1e9);
        let begin = Instant::now();
        client.copy_out(stream, block, bytes).unwrap();
        println!("256 MiB from the device: {:.2} GB/s", bytes as f64 / begin.elapsed().as_secs_f64() / 1e9);
    }
}

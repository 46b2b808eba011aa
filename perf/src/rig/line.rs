//! What a network link gives to plain TCP, without Fusewire: its round trip and its goodput, so that a result
//! says what there was to be had.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Context, Error, Result};
use crate::rig::shaped::{SERVER, Shaped};
use crate::stats::Spread;

const STREAMS: usize = 4;
const TIME: Duration = Duration::from_millis(500);
const BLOCK: usize = 256 << 10;

/// Measures from the client to the server, in their namespaces if they have such.
pub(crate) fn measure(shaped: Option<&Shaped>) -> Result<Value> {
    let address = IpAddr::V4(if shaped.is_some() { SERVER } else { Ipv4Addr::LOCALHOST });
    let tried = || "plain TCP over the link".to_owned();
    let listen = || TcpListener::bind((address, 0)).failed(tried);
    let listener = match shaped {
        Some(shaped) => shaped.server.within(listen)?,
        None => listen()?,
    };
    let to = listener.local_addr().failed(tried)?;
    // Sockets belong to the namespace in which they were made, and can be used anywhere.
    let pair = || -> Result<(TcpStream, TcpStream)> {
        let connect = || TcpStream::connect(to).failed(tried);
        let client = match shaped {
            Some(shaped) => shaped.client.within(connect)?,
            None => connect()?,
        };
        let (server, _) = listener.accept().failed(tried)?;
        for socket in [&client, &server] {
            socket.set_nodelay(true).failed(tried)?;
            socket.set_read_timeout(Some(Duration::from_secs(10))).failed(tried)?;
            socket.set_write_timeout(Some(Duration::from_secs(10))).failed(tried)?;
        }
        Ok((client, server))
    };
    let (client, server) = pair()?;
    let round_trip = round_trips(client, server).failed(tried)?;
    let goodput = |streams: usize| -> Result<f64> {
        let pairs = (0..streams).map(|_| pair()).collect::<Result<Vec<_>>>()?;
        flood(pairs).failed(tried)
    };
    // Of the sender's namespace, as everything under /proc/sys/net.
    let name = || Ok(fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default());
    let congestion_control = match shaped {
        Some(shaped) => shaped.client.within(name)?,
        None => name()?,
    };
    Ok(json!({
        "congestion_control": congestion_control.trim(),
        "round_trip_us": { "p50": round_trip.median, "min": round_trip.min },
        "gbit_one_stream": goodput(1)?,
        "gbit_four_streams": goodput(STREAMS)?,
    }))
}

/// Microseconds for 64 bytes there and back, with both ends asleep in between.
fn round_trips(mut client: TcpStream, mut server: TcpStream) -> Result<Spread> {
    let echo = thread::spawn(move || {
        let mut message = [0; 64];
        while server.read_exact(&mut message).and_then(|()| server.write_all(&message)).is_ok() {}
    });
    let mut times = Vec::new();
    let begin = Instant::now();
    let mut message = [7; 64];
    while begin.elapsed() < TIME / 2 {
        let start = Instant::now();
        client
            .write_all(&message)
            .and_then(|()| client.read_exact(&mut message))
            .failed(|| "a round trip".into())?;
        times.push(start.elapsed().as_nanos() as f64 / 1000.0);
    }
    drop(client);
    let _ = echo.join();
    Spread::of(&times).ok_or_else(|| Error::Failed("no round trip".into()))
}

/// Decimal gigabits a second that arrive, over all streams together.
fn flood(pairs: Vec<(TcpStream, TcpStream)>) -> io::Result<f64> {
    let begin = Instant::now();
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for (mut client, mut server) in pairs {
        senders.push(thread::spawn(move || {
            let block = vec![1; BLOCK];
            while begin.elapsed() < TIME && client.write_all(&block).is_ok() {}
            let _ = client.shutdown(Shutdown::Write);
        }));
        receivers.push(thread::spawn(move || {
            let (mut block, mut bytes) = (vec![0; BLOCK], 0_u64);
            loop {
                match server.read(&mut block)? {
                    0 => return Ok::<u64, io::Error>(bytes),
                    read => bytes += read as u64,
                }
            }
        }));
    }
    let mut bytes = 0;
    for receiver in receivers {
        bytes += receiver.join().map_err(|_| io::Error::other("a receiving thread"))??;
    }
    let took = begin.elapsed();
    for sender in senders {
        let _ = sender.join();
    }
    Ok(bytes as f64 * 8.0 / took.as_nanos() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_a_round_trip_and_carries_something() {
        let found = measure(None).unwrap();
        assert!(found["round_trip_us"]["p50"].as_f64().unwrap() > 1.0, "{found}");
        assert!(found["gbit_four_streams"].as_f64().unwrap() > 0.1, "{found}");
    }
}

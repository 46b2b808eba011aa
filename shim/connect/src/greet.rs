//! The greeting: what is said on each connection before frames flow.

use std::fs;

use fusewire_wire::hello::{Hello, Lines, Role, Welcome};
use fusewire_wire::inventory::{self, DeviceInfo, Inventory};

use crate::stream::{Greeting, Stream};
use crate::{Config, ConnectError};

/// The connections of a session that has just been opened.
#[derive(Debug)]
pub struct Opened {
    /// Carries frames, from the first byte after the Welcome.
    pub command: Stream,
    /// The bulk lanes, in order.
    pub bulk: Vec<Stream>,
    /// What was agreed.
    pub welcome: Welcome,
    /// The Welcome's tail: the device snapshot.
    pub tail: Vec<u8>,
}

/// Opens a session: the command connection, then the bulk lanes the server agreed to.
///
/// # Errors
/// [`ConnectError`]; nothing stays open.
pub fn open_session(config: &Config) -> Result<Opened, ConnectError> {
    let mut command = Greeting::connect(config)?;
    let hello = Hello { role: Role::Command as u32, lanes: config.lanes, ..Hello::blank() };
    let (welcome, tail) = greet(&mut command, config, hello)?;
    // All lanes are greeted before the first answer is awaited: one round trip, not one for each.
    let lanes = welcome.bulk_lanes.min(config.lanes);
    let mut greetings = Vec::new();
    for lane in 0..lanes {
        let mut greeting = Greeting::connect(config)?;
        let hello =
            Hello { role: Role::Bulk as u32, session: welcome.session, lane, lanes, ..Hello::blank() };
        say(&mut greeting, config, hello)?;
        greetings.push(greeting);
    }
    let mut bulk = Vec::new();
    for mut greeting in greetings {
        hear(&mut greeting)?;
        bulk.push(greeting.finish()?);
    }
    Ok(Opened { command: command.finish()?, bulk, welcome, tail })
}

/// The server's devices.
///
/// # Errors
/// [`ConnectError`].
pub fn query(config: &Config) -> Result<Vec<DeviceInfo>, ConnectError> {
    Ok(query_server(config)?.devices)
}

/// The server's devices, with what it says about itself.
///
/// # Errors
/// [`ConnectError`].
pub fn query_server(config: &Config) -> Result<Inventory, ConnectError> {
    let mut greeting = Greeting::connect(config)?;
    let (_, tail) = greet(&mut greeting, config, Hello { role: Role::Query as u32, ..Hello::blank() })?;
    inventory::parse(&tail)
        .map_err(|error| ConnectError::NotFusewire { server: config.server.clone(), what: error.to_string() })
}

fn greet(
    greeting: &mut Greeting<'_>,
    config: &Config,
    hello: Hello,
) -> Result<(Welcome, Vec<u8>), ConnectError> {
    say(greeting, config, hello)?;
    hear(greeting)
}

fn say(greeting: &mut Greeting<'_>, config: &Config, hello: Hello) -> Result<(), ConnectError> {
    let bytes = hello.with_tail(&lines(config)).map_err(|error| greeting.protocol(error))?;
    greeting.send(&bytes)
}

fn hear(greeting: &mut Greeting<'_>) -> Result<(Welcome, Vec<u8>), ConnectError> {
    let (welcome, tail) = greeting.receive::<Welcome>()?;
    welcome.accept(&tail, 0).map_err(|error| greeting.protocol(error))?;
    Ok((welcome, tail))
}

/// What a client says about itself.
fn lines(config: &Config) -> Lines {
    let mut lines = Lines::default();
    if let Some(token) = &config.token {
        lines = lines.with("token", token.reveal());
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    lines
        .with("program", &program())
        .with("pid", &std::process::id().to_string())
        .with("compress", config.compress)
        .with("host", clip(host.trim(), 128))
        // How long the client will wait, so that the server refuses with a reason before it gives up.
        .with("patience", &config.timeout.as_millis().to_string())
}

/// The program's name, and its first argument when that looks like a script:
/// enough for a server's log. No other argument is sent, for it may be a secret.
fn program() -> String {
    let cmdline = fs::read("/proc/self/cmdline").unwrap_or_default();
    let text = String::from_utf8_lossy(&cmdline);
    let mut words = text.split('\0');
    let name = |word: &str| clip(word.rsplit('/').next().unwrap_or(word), 100).to_owned();
    let mut program = name(words.next().unwrap_or_default());
    if let Some(script) = words.next()
        && !script.starts_with('-')
        && [".py", ".sh", ".jl"].iter().any(|end| script.ends_with(end))
    {
        program = format!("{program} {}", name(script));
    }
    program
}

fn clip(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

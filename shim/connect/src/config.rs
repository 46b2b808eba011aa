//! Settings, from the environment.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `FUSEWIRE_SERVER` | `HOST:PORT`; `:PORT` may be left out. Or `unix:/PATH`, on the GPU host | required |
//! | `FUSEWIRE_TOKEN`, `FUSEWIRE_TOKEN_FILE` | what the server wants to see | none |
//! | `FUSEWIRE_LANES` | bulk connections, 1 to 8 | half as many as there are cores, 4 at least |
//! | `FUSEWIRE_COMPRESS` | bulk data: auto (where that is faster), off, always | auto |
//! | `FUSEWIRE_CONNECT_TIMEOUT` | seconds to wait for the server | 5 |
//! | `FUSEWIRE_LOG` | what to report on stderr | none |
//! | `FUSEWIRE_QUIET` | 1: nothing on stderr | 0 |
//! | `FUSEWIRE_STATS` | call statistics at exit: 1 as text, json, or /PATH to append JSON to | 0 |

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use fusewire_wire::bulk::MAX_LANES;

use crate::ConnectError;

/// The port when none is named.
pub const DEFAULT_PORT: u16 = 7543;
/// Bulk connections when nothing else is said: one carries some 40 Gbit/s, and keeps a core busy with that.
const LANES: std::ops::RangeInclusive<u32> = 4..=8;
/// When bulk data and images may be compressed; the first is the default.
const COMPRESS: [&str; 3] = ["auto", "off", "always"];
/// How long to wait for a server when nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the name of a server on this host starts with.
const UNIX: &str = "unix:";

/// Longest token, in bytes.
const MAX_TOKEN: usize = 1024;

/// What a client needs to know to reach its server.
#[derive(Clone, Debug)]
pub struct Config {
    /// `HOST:PORT` or `unix:/PATH`.
    pub server: String,
    /// What the server wants to see, if it wants anything.
    pub token: Option<Token>,
    /// Bulk connections to open, 1 to 8; the server may agree to fewer.
    pub lanes: u32,
    /// When bulk data and images are compressed: auto, off or always.
    pub compress: &'static str,
    /// How long the server may take to answer.
    pub timeout: Duration,
    /// `FUSEWIRE_LOG`, as it is.
    pub log: Option<String>,
    /// Whether to stay silent on stderr.
    pub quiet: bool,
    /// Whether to print call statistics at exit.
    pub stats: bool,
}

fn default_lanes() -> u32 {
    let cores = std::thread::available_parallelism()
        .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    (cores / 2).clamp(*LANES.start(), *LANES.end())
}

impl Config {
    /// The settings in this process's environment.
    ///
    /// # Errors
    /// [`ConnectError::NoServer`] when `FUSEWIRE_SERVER` is not set, and
    /// [`ConnectError::Setting`] or [`ConnectError::TokenFile`] for a value that
    /// cannot be used.
    pub fn from_env() -> Result<Self, ConnectError> {
        Self::from_lookup(env::var_os)
    }

    /// The settings that `lookup` finds.
    ///
    /// # Errors
    /// As for [`Config::from_env`].
    pub fn from_lookup(lookup: impl Fn(&'static str) -> Option<OsString>) -> Result<Self, ConnectError> {
        let text = |name: &'static str| -> Result<Option<String>, ConnectError> {
            match lookup(name).map(OsString::into_string) {
                None => Ok(None),
                Some(Ok(value)) if value.is_empty() => Ok(None),
                Some(Ok(value)) => Ok(Some(value)),
                Some(Err(_)) => Err(setting(name, "?", "is not UTF-8")),
            }
        };
        let flag = |name| Ok::<bool, ConnectError>(text(name)?.is_some_and(|value| value != "0"));
        let mut config = Self::for_server(&text("FUSEWIRE_SERVER")?.ok_or(ConnectError::NoServer)?)?;
        config.token = match (text("FUSEWIRE_TOKEN")?, text("FUSEWIRE_TOKEN_FILE")?) {
            (Some(token), _) => Some(Token::new(&token)?),
            (None, Some(file)) => Some(Token::from_file(Path::new(&file))?),
            (None, None) => None,
        };
        if let Some(lanes) = text("FUSEWIRE_LANES")? {
            config.lanes = lanes
                .parse()
                .ok()
                .filter(|count| (1..=MAX_LANES as u32).contains(count))
                .ok_or_else(|| setting("FUSEWIRE_LANES", &lanes, "is not a number from 1 to 8"))?;
        }
        if let Some(when) = text("FUSEWIRE_COMPRESS")? {
            config.compress = COMPRESS
                .into_iter()
                .find(|known| *known == when)
                .ok_or_else(|| setting("FUSEWIRE_COMPRESS", &when, "is not auto, off or always"))?;
        }
        if let Some(seconds) = text("FUSEWIRE_CONNECT_TIMEOUT")? {
            config.timeout = seconds
                .parse::<f64>()
                .ok()
                .filter(|seconds| (0.001..=3600.0).contains(seconds))
                .map(Duration::from_secs_f64)
                .ok_or_else(|| {
                    setting("FUSEWIRE_CONNECT_TIMEOUT", &seconds, "is not a number of seconds up to 3600")
                })?;
        }
        config.log = text("FUSEWIRE_LOG")?;
        config.quiet = flag("FUSEWIRE_QUIET")?;
        config.stats = flag("FUSEWIRE_STATS")?;
        Ok(config)
    }

    /// The path of the server's socket, if it is on this host and named by one.
    #[must_use]
    pub fn socket_path(&self) -> Option<&Path> {
        // A host may be called so, and have a port.
        self.server.strip_prefix(UNIX).filter(|path| path.starts_with('/')).map(Path::new)
    }

    /// Defaults for a server given as `HOST:PORT`, `HOST`, `[V6]:PORT`, `[V6]` or `unix:/PATH`.
    ///
    /// # Errors
    /// [`ConnectError::Setting`] when it is none of these.
    pub fn for_server(server: &str) -> Result<Self, ConnectError> {
        Ok(Self {
            server: with_port(server)?,
            token: None,
            lanes: default_lanes(),
            compress: COMPRESS[0],
            timeout: DEFAULT_TIMEOUT,
            log: None,
            quiet: false,
            stats: false,
        })
    }
}

/// A token. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token: one non-empty line of at most 1024 bytes; blanks around it do not count.
    ///
    /// # Errors
    /// [`ConnectError::Setting`] when it is something else.
    pub fn new(text: &str) -> Result<Self, ConnectError> {
        let token = text.trim();
        let wrong = |why| Err(setting("the token", "(not shown)", why));
        match token {
            "" => wrong("is empty"),
            _ if token.len() > MAX_TOKEN => wrong("is longer than 1024 bytes"),
            _ if token.contains(char::is_control) => wrong("is not one line of text"),
            _ => Ok(Self(token.to_owned())),
        }
    }

    /// The token in a file.
    ///
    /// # Errors
    /// [`ConnectError::TokenFile`] when the file cannot be read or holds no token.
    pub fn from_file(path: &Path) -> Result<Self, ConnectError> {
        let failed = |why: String| ConnectError::TokenFile { path: path.display().to_string(), why };
        let mut text = String::new();
        // Bounded, so that a mistyped /dev/zero is an error and not a hang.
        File::open(path)
            .and_then(|file| file.take(4 * MAX_TOKEN as u64).read_to_string(&mut text))
            .map_err(|error| failed(error.to_string()))?;
        Self::new(&text).map_err(|error| failed(error.to_string()))
    }

    /// The token itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

fn with_port(server: &str) -> Result<String, ConnectError> {
    let wrong = |why| setting("FUSEWIRE_SERVER", server, why);
    let server = server.trim();
    if let Some(path) = server.strip_prefix(UNIX)
        && path.parse::<u16>().is_err()
    {
        // A program may change its directory before it starts to use CUDA.
        return match path.starts_with('/') && !path.contains('\0') {
            true => Ok(server.to_owned()),
            false => Err(wrong("names no absolute path")),
        };
    }
    let (host, port) = if let Some(rest) = server.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or_else(|| wrong("lacks a closing bracket"))?;
        (format!("[{inside}]"), after.strip_prefix(':'))
    } else if server.matches(':').count() > 1 {
        // A bare IPv6 address; with a port it would need brackets.
        (format!("[{server}]"), None)
    } else {
        match server.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (server.to_owned(), None),
        }
    };
    if host.is_empty() || host == "[]" {
        return Err(wrong("names no host"));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => {
            port.parse().ok().filter(|&port| port != 0).ok_or_else(|| wrong("has no usable port"))?
        }
    };
    Ok(format!("{host}:{port}"))
}

fn setting(name: &'static str, value: &str, why: &'static str) -> ConnectError {
    ConnectError::Setting { name, value: value.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &str)]) -> Result<Config, ConnectError> {
        Config::from_lookup(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn servers_with_and_without_ports() {
        for (given, expected) in [
            ("gpu1:99", "gpu1:99"),
            ("gpu1", "gpu1:7543"),
            ("[::1]:99", "[::1]:99"),
            ("[::1]", "[::1]:7543"),
            ("unix:/run/fusewire.sock", "unix:/run/fusewire.sock"),
            ("unix:99", "unix:99"),
            ("fe80::1", "[fe80::1]:7543"),
        ] {
            assert_eq!(of(&[("FUSEWIRE_SERVER", given)]).unwrap().server, expected);
        }
        for bad in ["gpu1:", "gpu1:x", "gpu1:0", "gpu1:70000", ":99", "[::1", "[]:9", "unix:", "unix:here"] {
            assert!(matches!(of(&[("FUSEWIRE_SERVER", bad)]), Err(ConnectError::Setting { .. })), "{bad}");
        }
        assert_eq!(Config::for_server("unix:/a").unwrap().socket_path(), Some(Path::new("/a")));
        assert_eq!(Config::for_server("unix").unwrap().socket_path(), None);
        assert!(matches!(of(&[]), Err(ConnectError::NoServer)));
        assert!(matches!(of(&[("FUSEWIRE_SERVER", "")]), Err(ConnectError::NoServer)));
    }

    #[test]
    fn values_are_checked() {
        let server = ("FUSEWIRE_SERVER", "a:1");
        let config = of(&[
            server,
            ("FUSEWIRE_LANES", "8"),
            ("FUSEWIRE_COMPRESS", "off"),
            ("FUSEWIRE_CONNECT_TIMEOUT", "0.5"),
            ("FUSEWIRE_STATS", "1"),
            ("FUSEWIRE_QUIET", "0"),
            ("FUSEWIRE_TOKEN", " s3cret \n"),
        ])
        .unwrap();
        assert_eq!((config.lanes, config.stats, config.quiet), (8, true, false));
        assert_eq!((config.timeout, config.compress), (Duration::from_millis(500), "off"));
        assert_eq!(config.token.as_ref().unwrap().reveal(), "s3cret");
        assert!(!format!("{config:?}").contains("s3cret"));
        for bad in [
            ("FUSEWIRE_LANES", "0"),
            ("FUSEWIRE_LANES", "9"),
            ("FUSEWIRE_LANES", "many"),
            ("FUSEWIRE_COMPRESS", "sometimes"),
            ("FUSEWIRE_CONNECT_TIMEOUT", "-1"),
            ("FUSEWIRE_CONNECT_TIMEOUT", "nan"),
            ("FUSEWIRE_CONNECT_TIMEOUT", "1e300"),
            ("FUSEWIRE_TOKEN", "two\nlines"),
        ] {
            assert!(matches!(of(&[server, bad]), Err(ConnectError::Setting { .. })), "{bad:?}");
        }
        let error = of(&[server, ("FUSEWIRE_TOKEN_FILE", "/nonexistent/token")]).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/token"), "{error}");
        let error = of(&[server, ("FUSEWIRE_TOKEN_FILE", "/dev/zero")]).unwrap_err().to_string();
        assert!(error.contains("1024"), "{error}");
    }
}

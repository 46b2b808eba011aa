//! How the client commands are told which server to use.

use std::path::PathBuf;

use fusewire_connect::{Config, ConnectError, Token};

/// Options common to all clients. Each has an environment variable, so that
/// what runs under `fusewire run` finds the same server.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Reach {
    /// The server [default: $FUSEWIRE_SERVER, else 127.0.0.1:7543]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) server: Option<String>,
    /// File with the token the server wants [default: $FUSEWIRE_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// The server on this machine.
const LOCAL: &str = "127.0.0.1:7543";

impl Reach {
    /// The environment's settings, overridden by the options.
    pub(crate) fn config(&self) -> Result<Config, ConnectError> {
        let mut config = Config::from_lookup(|name| match (name, &self.server, &self.token_file) {
            ("FUSEWIRE_SERVER", Some(server), _) => Some(server.into()),
            ("FUSEWIRE_SERVER", None, _) => std::env::var_os(name).or_else(|| Some(LOCAL.into())),
            // The option replaces both ways of giving a token in the environment.
            ("FUSEWIRE_TOKEN" | "FUSEWIRE_TOKEN_FILE", _, Some(_)) => None,
            _ => std::env::var_os(name),
        })?;
        if let Some(file) = &self.token_file {
            config.token = Some(Token::from_file(file)?);
        }
        Ok(config)
    }
}

//! The links that can be measured. A new one is a line in [`ALL`].

use std::path::Path;

use crate::error::Result;
use crate::rig::shaped::{self, Shaped};

/// How the client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A Unix-domain socket, over which the two agree to share memory.
    Unix,
    /// The loopback interface.
    Loopback,
    /// Two network namespaces, joined by a link of limited bandwidth.
    Shaped,
    /// No link: a second native process. What it differs from the first by is no link's doing.
    Native,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Link {
    pub(crate) name: &'static str,
    pub(crate) way: Way,
    /// Decimal gigabits a second each way, where the link has a limit of its own.
    pub(crate) gbit: Option<f64>,
}

pub(crate) const ALL: [Link; 6] = [
    Link { name: "shm", way: Way::Unix, gbit: None },
    Link { name: "tcp", way: Way::Loopback, gbit: None },
    Link { name: "100g", way: Way::Shaped, gbit: Some(100.0) },
    Link { name: "25g", way: Way::Shaped, gbit: Some(25.0) },
    Link { name: "10g", way: Way::Shaped, gbit: Some(10.0) },
    Link { name: "native", way: Way::Native, gbit: None },
];

impl Link {
    /// The network that this link needs, if it needs one made.
    pub(crate) fn network(&self) -> Result<Option<Shaped>> {
        match (self.way, self.gbit) {
            (Way::Shaped, Some(gbit)) => Shaped::new(gbit).map(Some),
            _ => Ok(None),
        }
    }

    /// What `fusewire serve --listen` is told. The port is the system's choice.
    pub(crate) fn listen(&self, work: &Path) -> String {
        match self.way {
            Way::Unix => format!("unix:{}", work.join(format!("{}.socket", self.name)).display()),
            Way::Loopback | Way::Native => "127.0.0.1:0".to_owned(),
            Way::Shaped => format!("{}:0", shaped::SERVER),
        }
    }
}

/// A link by its name, for the command line.
pub(crate) fn parse(name: &str) -> std::result::Result<Link, String> {
    ALL.into_iter().find(|link| link.name == name).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|link| link.name).collect();
        format!("there is no link {name}; there are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_known_by_name() {
        assert_eq!(parse("tcp").map(|link| link.way), Ok(Way::Loopback));
        assert!(parse("token-ring").unwrap_err().contains("shm, tcp"));
    }
}

//! The links that can be measured. A new one is a line in [`ALL`].

use std::path::Path;

/// How the client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A Unix-domain socket, over which the two agree to share memory.
    Unix,
    /// The loopback interface.
    Loopback,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Link {
    pub(crate) name: &'static str,
    pub(crate) way: Way,
    /// Decimal gigabits a second each way, where the link has a limit of its own.
    pub(crate) gbit: Option<f64>,
}

pub(crate) const ALL: [Link; 2] =
    [Link { name: "shm", way: Way::Unix, gbit: None }, Link { name: "tcp", way: Way::Loopback, gbit: None }];

impl Link {
    /// What `fusewire serve --listen` is told. The port is the system's choice.
    pub(crate) fn listen(&self, work: &Path) -> String {
        match self.way {
            Way::Unix => format!("unix:{}", work.join(format!("{}.socket", self.name)).display()),
            Way::Loopback => "127.0.0.1:0".to_owned(),
        }
    }
}

/// A link by its name, for the command line.
pub(crate) fn parse(name: &str) -> Result<Link, String> {
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

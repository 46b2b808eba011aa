//! The processes of one measuring run, native and one for each link, and their turns.
//!
//! Every round asks each side once, one after the other, and who is first changes from round to round: a
//! machine that grows slower or faster does so for all of them. While one measures, the others wait for their
//! next line and use nothing.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::rig::Rig;
use crate::rig::child::Child;
use crate::rig::line;
use crate::rig::link::{Link, Way};
use crate::rig::recorder::Recorder;
use crate::rig::server::Server;
use crate::rig::shaped::Shaped;

/// For a process to come up: Python, PyTorch, the driver.
const READY_LIMIT: Duration = Duration::from_secs(240);

#[derive(Debug)]
pub(crate) struct Session {
    native: Child,
    _baseline: Option<Place>,
    remotes: Vec<Remote>,
}

#[derive(Debug)]
struct Remote {
    link: Link,
    // Dropped in this order: the client goes before its server.
    child: Child,
    _place: Option<Place>,
}

/// A server at the end of a link.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) link: Link,
    pub(crate) server: Server,
    pub(crate) network: Option<Shaped>,
}

impl Place {
    /// What is measured against, if that is not native.
    pub(crate) fn baseline(rig: &Rig, recorder: &mut Recorder) -> Result<Option<Place>> {
        let Some(link) = rig.args.baseline else { return Ok(None) };
        recorder.about("baseline", link.name.into());
        Place::start(rig, link, recorder).map(Some)
    }

    /// Makes the link, measures what plain TCP gets of it, and starts a server at its end.
    pub(crate) fn start(rig: &Rig, link: Link, recorder: &mut Recorder) -> Result<Place> {
        if link.way == Way::Native {
            return Err(Error::Usage("native is not a link that this command can measure".into()));
        }
        let network = link.network()?;
        let name = format!("line_{}", link.name);
        if link.way != Way::Unix && !recorder.knows(&name) {
            recorder.about(&name, line::measure(network.as_ref())?);
        }
        let server = Server::start(rig, &link, network.as_ref())?;
        Ok(Place { link, server, network })
    }
}

/// What both sides answered, round by round, over one link.
#[derive(Debug)]
pub(crate) struct Rounds {
    pub(crate) link: Link,
    pub(crate) native: Vec<Value>,
    pub(crate) remote: Vec<Value>,
}

impl Session {
    /// Starts a server for each link and the program on every side. A link that cannot be had is left out,
    /// with a line that says why; an error if none is left.
    pub(crate) fn start(
        rig: &Rig,
        links: &[Link],
        program: &[OsString],
        recorder: &mut Recorder,
    ) -> Result<Session> {
        let baseline = Place::baseline(rig, recorder)?;
        let mut native = Child::start(rig, "baseline", program, baseline.as_ref())?;
        let ready = native.hear(READY_LIMIT)?;
        if let Some(about) = ready.as_object() {
            for (name, value) in about {
                recorder.about(name, value.clone());
            }
        }
        let mut remotes = Vec::new();
        let mut last = None;
        for link in links {
            match Remote::start(rig, *link, program, recorder) {
                Ok(remote) => remotes.push(remote),
                Err(error @ Error::Unsupported(_)) => {
                    recorder.say(&format!("{error}; it is left out"));
                    last = Some(error);
                }
                Err(error) => {
                    recorder.problem(link.name, &error.to_string());
                    last = Some(error);
                }
            }
        }
        match (remotes.is_empty(), last) {
            (true, Some(error)) => Err(error),
            _ => Ok(Session { native, _baseline: baseline, remotes }),
        }
    }

    pub(crate) fn links(&self) -> Vec<Link> {
        self.remotes.iter().map(|remote| remote.link).collect()
    }

    pub(crate) fn native_alive(&mut self) -> bool {
        self.native.alive()
    }

    /// Asks the native side alone.
    pub(crate) fn ask_native(&mut self, request: &Value, limit: Duration) -> Result<Value> {
        self.native.ask(request, limit)
    }

    /// Asks one link alone.
    pub(crate) fn ask_remote(&mut self, link: Link, request: &Value, limit: Duration) -> Result<Value> {
        match self.remotes.iter_mut().find(|remote| remote.link == link) {
            Some(remote) => remote.child.ask(request, limit),
            None => Err(Error::Failed(format!("link {} is gone", link.name))),
        }
    }

    /// Takes rounds of the same request, native and these links in turns. A link whose process fails is left
    /// out of what follows if it is dead; its failure is recorded. An error when the native side fails.
    pub(crate) fn turns(
        &mut self,
        links: &[Link],
        request: &Value,
        rounds: u32,
        limit: Duration,
        recorder: &mut Recorder,
    ) -> Result<Vec<Rounds>> {
        let mut native = Vec::new();
        let mut taken: Vec<Rounds> =
            links.iter().map(|link| Rounds { link: *link, native: Vec::new(), remote: Vec::new() }).collect();
        for round in 0..rounds as usize {
            let sides = taken.len() + 1;
            // The failed ones of this round; removed after it, so that places stay valid within.
            let mut failed = Vec::new();
            for turn in 0..sides {
                match (turn + round) % sides {
                    0 => native.push(self.native.ask(request, limit)?),
                    place => {
                        let rounds = &mut taken[place - 1];
                        match self.ask_remote(rounds.link, request, limit) {
                            Ok(answer) => rounds.remote.push(answer),
                            Err(error) => {
                                recorder.problem(rounds.link.name, &format!("{error} (at {request})"));
                                failed.push(rounds.link);
                            }
                        }
                    }
                }
            }
            taken.retain(|rounds| !failed.contains(&rounds.link));
            self.bury_the_dead();
            if taken.is_empty() {
                break;
            }
        }
        for rounds in &mut taken {
            rounds.native = native.clone();
        }
        Ok(taken)
    }

    fn bury_the_dead(&mut self) {
        self.remotes.retain_mut(|remote| remote.child.alive());
    }
}

impl Remote {
    fn start(rig: &Rig, link: Link, program: &[OsString], recorder: &mut Recorder) -> Result<Remote> {
        let place = match link.way {
            Way::Native => None,
            _ => Some(Place::start(rig, link, recorder)?),
        };
        let mut child = Child::start(rig, "child", program, place.as_ref())?;
        child.hear(READY_LIMIT)?;
        Ok(Remote { link, child, _place: place })
    }
}

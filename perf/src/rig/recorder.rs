//! The result of one command as it grows. It is written after every figure, so that a run that is stopped
//! leaves what it has.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::machine::{self, Machine};
use crate::result::{Figure, File, Problem, Run};
use crate::rig::RigArgs;

#[derive(Debug)]
pub(crate) struct Recorder {
    path: PathBuf,
    file: File,
    start: Instant,
    budget: Option<Duration>,
    suite: &'static str,
}

impl Recorder {
    pub(crate) fn new(args: &RigArgs, suite: &'static str) -> Recorder {
        let run = Run {
            command: command_line(),
            date: machine::date(),
            commit: args.commit.clone().or_else(machine::commit),
            machine: Machine::describe(),
            seconds: 0.0,
            about: Default::default(),
        };
        Recorder {
            path: args.out(suite),
            file: File { runs: vec![run], ..File::new() },
            start: Instant::now(),
            budget: args.budget,
            suite,
        }
    }

    /// Whether another measurement may begin.
    pub(crate) fn time_left(&self) -> bool {
        self.budget.is_none_or(|budget| self.start.elapsed() < budget)
    }

    /// Something that applies to all figures of this run.
    pub(crate) fn about(&mut self, name: &str, value: Value) {
        if let Some(run) = self.file.runs.first_mut() {
            if name == "gpu" && run.machine.gpu.is_none() {
                run.machine.gpu = value.as_str().map(str::to_owned);
            }
            run.about.insert(name.to_owned(), value);
        }
    }

    pub(crate) fn knows(&self, name: &str) -> bool {
        self.file.runs.iter().any(|run| run.about.contains_key(name))
    }

    /// Takes a figure, says it on stderr, and writes the file. An earlier one of the same thing goes.
    pub(crate) fn add(&mut self, mut figure: Figure) -> Result<()> {
        figure.run = 0;
        figure.suite = self.suite.to_owned();
        let figure = figure.with_ratio();
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
        let ratio = figure.ratio.map_or("-".to_owned(), |ratio| {
            format!("{:.3} ({:.3} to {:.3})", ratio.median, ratio.min, ratio.max)
        });
        eprintln!(
            "{:7.1} s  {:5}  {}: native {} {unit}, remote {} {unit}, ratio {ratio}",
            self.start.elapsed().as_secs_f64(),
            figure.link,
            figure.case,
            number(figure.native.median),
            number(figure.remote.median),
            unit = figure.unit,
        );
        self.file.figures.retain(|other| (&other.case, &other.link) != (&figure.case, &figure.link));
        self.file.figures.push(figure);
        self.save()
    }

    /// Takes note of something that could not be measured.
    pub(crate) fn problem(&mut self, link: &str, text: &str) {
        eprintln!("{:7.1} s  {link:5}  {text}", self.start.elapsed().as_secs_f64());
        self.file.problems.push(Problem {
            run: 0,
            suite: self.suite.to_owned(),
            link: link.to_owned(),
            text: text.to_owned(),
        });
    }

    /// Progress, for the one who waits.
    pub(crate) fn say(&self, text: &str) {
        eprintln!("{:7.1} s  {text}", self.start.elapsed().as_secs_f64());
    }

    fn save(&mut self) -> Result<()> {
        if let Some(run) = self.file.runs.first_mut() {
            run.seconds = (self.start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        }
        self.file.save(&self.path)
    }

    /// Writes the file for the last time. An error if something failed.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.save()?;
        println!("{}", self.path.display());
        match self.file.problems.as_slice() {
            [] => Ok(()),
            [first, ..] if self.file.figures.is_empty() => {
                Err(Error::Failed(format!("nothing was measured: {}", first.text)))
            }
            problems => Err(Error::Failed(format!(
                "{} of the measurements failed; {} has them under \"problems\"",
                problems.len(),
                self.path.display()
            ))),
        }
    }
}

/// This program's command line, as one would type it.
fn command_line() -> String {
    let mut words: Vec<String> = std::env::args().map(|word| quoted(&word)).collect();
    if let Some(first) = words.first_mut() {
        *first = "fusewire-perf".to_owned();
    }
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        assert_eq!(quoted("--links=tcp,shm"), "--links=tcp,shm");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}

//! The form of a result file, and how results are joined.
//!
//! A file has *runs* (a command with its machine, date, commit) and *figures*, each of which says of which run
//! it is. A figure is one thing measured natively and over one link. It keeps what every round gave: nothing
//! in a file is only derived.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::machine::Machine;
use crate::stats::{self, Spread};

/// What this version writes, and all it reads.
pub(crate) const FORMAT: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct File {
    pub(crate) format: u32,
    pub(crate) runs: Vec<Run>,
    pub(crate) figures: Vec<Figure>,
    /// What could not be measured, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) command: String,
    pub(crate) date: String,
    pub(crate) commit: Option<String>,
    pub(crate) machine: Machine,
    pub(crate) seconds: f64,
    /// What applies to all its figures, such as versions of libraries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) about: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// Index into the file's runs.
    pub(crate) run: usize,
    /// The command that measures it: `latency`, `train` …
    pub(crate) suite: String,
    /// What was measured, in words that are unique within suite and link.
    pub(crate) case: String,
    pub(crate) link: String,
    pub(crate) unit: String,
    pub(crate) larger_is_better: bool,
    pub(crate) native: Side,
    pub(crate) remote: Side,
    /// Of the rounds, in pairs: 1 is as good as native, larger is better.
    pub(crate) ratio: Option<Spread>,
    /// What the case is made of, and bounds that apply to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) about: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Side {
    pub(crate) median: Option<f64>,
    pub(crate) rounds: Vec<f64>,
    /// Percentiles and whatever else belongs to one side.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) detail: Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) run: usize,
    pub(crate) suite: String,
    pub(crate) link: String,
    pub(crate) text: String,
}

impl Side {
    pub(crate) fn of(rounds: Vec<f64>, detail: Value) -> Side {
        Side { median: Spread::of(&rounds).map(|spread| spread.median), rounds, detail }
    }
}

impl Figure {
    /// What makes two figures figures of the same thing.
    pub(crate) fn key(&self) -> (&str, &str, &str) {
        (&self.suite, &self.case, &self.link)
    }

    /// Computes the ratio from the rounds.
    pub(crate) fn with_ratio(mut self) -> Figure {
        self.ratio = stats::ratios(&self.native.rounds, &self.remote.rounds, self.larger_is_better);
        self
    }

    pub(crate) fn about_f64(&self, name: &str) -> Option<f64> {
        self.about.get(name).and_then(Value::as_f64)
    }
}

impl File {
    pub(crate) fn new() -> File {
        File { format: FORMAT, runs: Vec::new(), figures: Vec::new(), problems: Vec::new() }
    }

    pub(crate) fn load(path: &Path) -> Result<File> {
        let text = fs::read_to_string(path).usage(|| format!("{} cannot be read", path.display()))?;
        File::parse(&text).usage(|| format!("{} is not a result of fusewire-perf", path.display()))
    }

    fn parse(text: &str) -> std::result::Result<File, String> {
        let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if file.format != FORMAT {
            return Err(format!("it has format {}, this version reads {FORMAT}", file.format));
        }
        let named = file.figures.iter().map(|figure| figure.run);
        let named = named.chain(file.problems.iter().map(|problem| problem.run));
        match named.max() {
            Some(run) if run >= file.runs.len() => Err(format!("it names run {run}, which it does not have")),
            _ => Ok(file),
        }
    }

    /// Writes a new file and puts it in the old one's place, so that a reader never sees half of one.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let named = || format!("{} cannot be written", path.display());
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).failed(named)?;
        }
        let mut text = serde_json::to_string_pretty(self).failed(named)?;
        text.push('\n');
        let mut half = path.as_os_str().to_owned();
        half.push(".part");
        fs::write(&half, text).failed(named)?;
        fs::rename(&half, path).failed(named)
    }

    /// Joins results. Of two figures of the same thing that of the later run stays, whole: rounds of different
    /// runs are never pooled, since they were not measured in turns.
    pub(crate) fn merge(files: impl IntoIterator<Item = File>) -> Result<File> {
        let mut whole = File::new();
        for file in files {
            let offset = whole.runs.len();
            whole.runs.extend(file.runs);
            for mut figure in file.figures {
                figure.run += offset;
                whole.take(figure);
            }
            for mut problem in file.problems {
                problem.run += offset;
                whole.problems.push(problem);
            }
        }
        // What failed once and has been measured since is no problem any more.
        let File { figures, problems, runs, .. } = &mut whole;
        problems.retain(|problem| {
            !figures.iter().any(|figure| {
                figure.suite == problem.suite
                    && figure.link == problem.link
                    && runs[figure.run].date > runs[problem.run].date
            })
        });
        whole.forget_unused_runs();
        let machines: Vec<&Machine> = whole.runs.iter().map(|run| &run.machine).collect();
        match machines.windows(2).find(|pair| pair[0] != pair[1]) {
            Some(pair) => Err(Error::Usage(format!(
                "these were measured on different machines ({:?} and {:?}) and cannot be joined",
                pair[0], pair[1]
            ))),
            None => Ok(whole),
        }
    }

    fn take(&mut self, figure: Figure) {
        let earlier = self.figures.iter().position(|other| other.key() == figure.key());
        match earlier {
            None => self.figures.push(figure),
            Some(place) => {
                if self.runs[self.figures[place].run].date <= self.runs[figure.run].date {
                    self.figures[place] = figure;
                }
            }
        }
    }

    fn forget_unused_runs(&mut self) {
        let mut new_places = vec![None; self.runs.len()];
        let mut kept: Vec<Run> = Vec::new();
        let figures = self.figures.iter_mut().map(|figure| &mut figure.run);
        let problems = self.problems.iter_mut().map(|problem| &mut problem.run);
        for run in figures.chain(problems) {
            let place = match new_places[*run] {
                Some(place) => place,
                None => {
                    kept.push(self.runs[*run].clone());
                    kept.len() - 1
                }
            };
            new_places[*run] = Some(place);
            *run = place;
        }
        self.runs = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(date: &str) -> Run {
        Run {
            command: format!("fusewire-perf of {date}"),
            date: date.into(),
            commit: None,
            machine: Machine::default(),
            seconds: 1.0,
            about: BTreeMap::new(),
        }
    }

    fn figure(case: &str, native: &[f64]) -> Figure {
        Figure {
            run: 0,
            suite: "train".into(),
            case: case.into(),
            link: "tcp".into(),
            unit: "ms".into(),
            larger_is_better: false,
            native: Side::of(native.to_vec(), Value::Null),
            remote: Side::of(native.iter().map(|figure| figure * 2.0).collect(), Value::Null),
            ratio: None,
            about: BTreeMap::new(),
        }
        .with_ratio()
    }

    fn file(date: &str, figures: Vec<Figure>) -> File {
        File { runs: vec![run(date)], figures, ..File::new() }
    }

    #[test]
    fn slices_are_joined_and_keep_their_runs() {
        let whole = File::merge([
            file("2026-01-01", vec![figure("a", &[1.0])]),
            file("2026-01-02", vec![figure("b", &[2.0])]),
        ])
        .unwrap();
        assert_eq!(whole.runs.len(), 2);
        let dates: Vec<_> = whole.figures.iter().map(|figure| whole.runs[figure.run].date.as_str()).collect();
        assert_eq!(dates, ["2026-01-01", "2026-01-02"]);
    }

    #[test]
    fn the_later_figure_wins_in_whatever_order_they_come() {
        let early = || file("2026-01-01", vec![figure("a", &[1.0])]);
        let late = || file("2026-01-02", vec![figure("a", &[2.0])]);
        for files in [[early(), late()], [late(), early()]] {
            let whole = File::merge(files).unwrap();
            assert_eq!(whole.figures.len(), 1);
            assert_eq!(whole.figures[0].native.rounds, [2.0]);
            assert_eq!(whole.runs.iter().map(|run| run.date.as_str()).collect::<Vec<_>>(), ["2026-01-02"]);
        }
    }

    #[test]
    fn other_machines_are_not_mixed_in() {
        let mut other = file("2026-01-02", vec![figure("b", &[1.0])]);
        other.runs[0].machine.gpu = Some("another".into());
        let error = File::merge([file("2026-01-01", vec![figure("a", &[1.0])]), other]).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
    }

    #[test]
    fn a_problem_is_forgotten_once_it_was_measured() {
        let mut failed = file("2026-01-01", vec![]);
        failed.problems.push(Problem {
            run: 0,
            suite: "train".into(),
            link: "tcp".into(),
            text: "lost".into(),
        });
        let alone = File::merge([failed.clone()]).unwrap();
        assert_eq!(alone.problems.len(), 1);
        let whole = File::merge([failed, file("2026-01-02", vec![figure("a", &[1.0])])]).unwrap();
        assert!(whole.problems.is_empty());
        assert_eq!(whole.runs.len(), 1);
    }

    #[test]
    fn a_file_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/result.json");
        file("2026-01-01", vec![figure("a", &[1.0, 3.0])]).save(&path).unwrap();
        let read = File::load(&path).unwrap();
        assert_eq!(read.figures[0].native.rounds, [1.0, 3.0]);
        assert_eq!(read.figures[0].ratio.unwrap().median, 0.5);
    }

    #[test]
    fn what_is_not_a_result_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "EOF"),
            ("{}", "missing field"),
            (r#"{"format": 9, "runs": [], "figures": []}"#, "format 9"),
            (
                r#"{"format": 1, "runs": [], "figures": [], "problems": [{"run": 3, "suite": "", "link": "", "text": ""}]}"#,
                "run 3",
            ),
        ] {
            let error = File::parse(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}

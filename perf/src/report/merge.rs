//! `merge`: joins results of slices into one.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::result::File;

/// Join results, the later of two figures for the same thing winning.
///
/// Rounds of different runs are never pooled: they were not measured in turns. Results of different machines
/// are not joined.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Results to join
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where the whole goes; may be one of the files
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let files = args.files.iter().map(|path| File::load(path)).collect::<Result<Vec<File>>>()?;
    let figures: usize = files.iter().map(|file| file.figures.len()).sum();
    let whole = File::merge(files)?;
    if whole.figures.is_empty() {
        return Err(Error::Usage("there is no figure in these files".into()));
    }
    whole.save(&args.out)?;
    let replaced = figures - whole.figures.len();
    println!(
        "{}: {} figures of {} runs; {replaced} were replaced by later ones",
        args.out.display(),
        whole.figures.len(),
        whole.runs.len()
    );
    Ok(())
}

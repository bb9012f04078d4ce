//! `storyloom eval`: how consistent stories are, and how well they follow their prompts.

use std::path::{Path, PathBuf};

use clap::Args;
use storyloom_eval::{
    EvalError, Evaluation, evaluate, markdown, run_sheet, selected_csv, shots_csv, stories_csv,
    text,
};
use storyloom_training::error::TrainError;
use storyloom_training::reader::Reader;

use super::folder;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{print, print_json};

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Run folders; all after the first are compared with the first.
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Folder for eval.json, stories.csv, shots.csv and what networks chose, selected.csv; with one run, its `eval` folder if not given.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Weights of another reader than the one that is shipped.
    #[arg(long, value_name = "FILE")]
    reader: Option<PathBuf>,
    /// Also write the figures as a Markdown table, a column per run.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Also write a PNG with the pictures of the first stories, the runs below each other.
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// Stories on that sheet.
    #[arg(long, default_value_t = 4, value_name = "N")]
    sheet_stories: usize,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

/// Reads the pictures of the runs, writes the figures and prints them.
pub fn run(arguments: &Arguments) -> Outcome {
    let reader = match &arguments.reader {
        Some(path) => Reader::from_file(path),
        None => Reader::shipped(),
    };
    let reader = reader.map_err(|error| failure(error.into()))?;
    let (evaluation, readings) = evaluate(&reader, &arguments.folders).map_err(failure)?;
    let out = match (&arguments.out, arguments.folders.as_slice()) {
        (Some(out), _) => Some(out.clone()),
        (None, [folder]) => Some(folder.join("eval")),
        _ => None,
    };
    if let Some(out) = out {
        let details = [
            ("shots.csv", shots_csv(&readings)),
            ("selected.csv", selected_csv(&readings)),
        ];
        write(&out, &evaluation, &details)
            .map_err(|error| Failure::new(Exit::Storage, format!("{}: {error}", out.display())))?;
    }
    if let Some(path) = &arguments.table {
        std::fs::write(path, markdown(&evaluation))
            .map_err(|error| Failure::new(Exit::Storage, format!("{}: {error}", path.display())))?;
    }
    if let Some(path) = &arguments.sheet {
        let sheet = run_sheet(&arguments.folders, arguments.sheet_stories).map_err(failure)?;
        if let Some(sheet) = sheet {
            sheet
                .save_with_format(path, image::ImageFormat::Png)
                .map_err(|error| {
                    Failure::new(Exit::Storage, format!("{}: {error}", path.display()))
                })?;
        }
    }
    match arguments.json {
        true => print_json(&evaluation)?,
        false => print(&text(&evaluation))?,
    }
    Ok(Exit::Done)
}

fn write(
    folder: &Path,
    evaluation: &Evaluation,
    details: &[(&str, String)],
) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut json = serde_json::to_string_pretty(evaluation)?;
    json.push('\n');
    std::fs::write(folder.join("eval.json"), json)?;
    std::fs::write(
        folder.join("stories.csv"),
        stories_csv(&evaluation.all.runs),
    )?;
    for (name, csv) in details.iter().filter(|(_, csv)| !csv.is_empty()) {
        std::fs::write(folder.join(name), csv)?;
    }
    Ok(())
}

fn failure(error: EvalError) -> Failure {
    let exit = match error {
        EvalError::Run(error) => return folder::failure(error),
        EvalError::NoStories { .. }
        | EvalError::OtherWorld { .. }
        | EvalError::NothingInCommon { .. } => Exit::Input,
        EvalError::NoFfmpeg { .. } => Exit::Away,
        EvalError::Video { .. } => Exit::Unexpected,
        EvalError::Train(TrainError::Io { .. }) => Exit::Storage,
        EvalError::Train(_) => Exit::Config,
    };
    Failure::new(exit, error)
}

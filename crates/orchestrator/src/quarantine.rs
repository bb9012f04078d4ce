//! Stories that cannot be made: what they are, how to try one alone, and how to let them back.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;
use storyloom_story::{ShotId, StoryId};

use crate::config::RunConfig;
use crate::error::RunError;
use crate::run_folder::{RunFolder, StoryFile, StoryState};

/// A story in quarantine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quarantined {
    /// The story.
    pub story: StoryId,
    /// The shot that cannot be made.
    pub shot: Option<ShotId>,
    /// Why.
    pub reason: String,
    /// Tries the story alone, in a folder of its own.
    pub command: String,
}

/// The stories in quarantine.
pub fn list(folder: &RunFolder) -> Result<Vec<Quarantined>, RunError> {
    let mut list = Vec::new();
    for story in folder.run_file()?.stories {
        if let StoryState::Quarantined { shot, reason } = folder.story_file(&story)?.state {
            let command = command(folder, &story);
            list.push(Quarantined {
                story,
                shot,
                reason,
                command,
            });
        }
    }
    Ok(list)
}

/// Lets stories back that failed or are in quarantine: the given ones, or all. The next start
/// tries them again. Returns those that were let back.
pub fn release(folder: &RunFolder, stories: &[StoryId]) -> Result<Vec<StoryId>, RunError> {
    let mut released = Vec::new();
    for story in folder.run_file()?.stories {
        if !stories.is_empty() && !stories.contains(&story) {
            continue;
        }
        let mut file = folder.story_file(&story)?;
        if let StoryState::Failed { .. } | StoryState::Quarantined { .. } = file.state {
            file.state = StoryState::Running;
            folder.write_story(&file)?;
            released.push(story);
        }
    }
    Ok(released)
}

/// Writes a manifest of the one story and the settings of the run, for [`Quarantined::command`].
pub(crate) fn write_reproducer(
    folder: &RunFolder,
    config: &RunConfig,
    file: &StoryFile,
) -> Result<(), RunError> {
    let absolute = |name: &String| {
        let path = config.input_folder.join(name);
        std::path::absolute(&path).unwrap_or(path)
    };
    let mut line = match &file.brief {
        Some(brief) => {
            let mut line = json!(brief);
            if let Some(image) = &brief.product_image {
                line["product_image"] = json!(absolute(image));
            }
            line
        }
        None => {
            let images: Vec<PathBuf> = file.reference_images.iter().map(absolute).collect();
            json!({"id": file.id, "script": file.script, "reference_images": images})
        }
    };
    for (name, value) in [("seed", json!(file.seed)), ("tenant", json!(file.tenant))] {
        if !value.is_null() {
            line[name] = value;
        }
    }
    let place = place(folder, &file.id);
    let storage = folder.storage();
    storage.write(
        &place.join("manifest.jsonl"),
        format!("{line}\n").as_bytes(),
    )?;
    storage.write(&place.join("config.toml"), config.config_file.as_bytes())?;
    Ok(())
}

/// Keeps what a model had written of a brief that cannot be planned.
pub(crate) fn write_text(folder: &RunFolder, story: &StoryId, text: &str) -> Result<(), RunError> {
    if text.is_empty() {
        return Ok(());
    }
    let path = place(folder, story).join("text.txt");
    Ok(folder.storage().write(&path, text.as_bytes())?)
}

/// Ends a run that has more stories in quarantine than it accepts.
pub(crate) fn check_limit(
    folder: &RunFolder,
    config: &RunConfig,
    count: usize,
) -> Result<(), RunError> {
    match config.quarantine_limit {
        Some(limit) if count > limit => Err(RunError::Quarantine {
            path: folder.root().to_owned(),
            count,
            limit,
        }),
        _ => Ok(()),
    }
}

fn place(folder: &RunFolder, story: &StoryId) -> PathBuf {
    folder.root().join("quarantine").join(story.as_str())
}

/// The command that tries a story in quarantine alone, from wherever it is given.
pub(crate) fn command(folder: &RunFolder, story: &StoryId) -> String {
    let place = place(folder, story);
    let place = std::path::absolute(&place).unwrap_or(place);
    let [config, manifest, out] =
        ["config.toml", "manifest.jsonl", "out"].map(|name| quoted(&place.join(name)));
    format!("storyloom run --config {config} --manifest {manifest} --out {out}")
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use storyloom_memory::Disk;

    use super::*;

    #[test]
    fn the_command_can_be_given_from_anywhere() {
        let folder = RunFolder::new(".", Arc::new(Disk));
        let story = StoryId::new("a").unwrap();
        let here = std::env::current_dir().unwrap();
        let config = here.join("quarantine/a/config.toml");
        let wanted = format!("storyloom run --config '{}' --manifest '", config.display());
        let command = command(&folder, &story);
        assert!(command.starts_with(&wanted), "{command}");
        assert_eq!(quoted(Path::new("/it's")), "'/it'\\''s'");
    }
}

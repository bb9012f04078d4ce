//! Stories that cannot be made: what they are, how to try one alone, and how to let them back.
//!
//! ```text
//! DIR/quarantine/ID/manifest.jsonl   the story alone
//! DIR/quarantine/ID/picture-N.*      its pictures, and its ready-made first shot behind them
//! DIR/quarantine/ID/config.toml      the settings of the run
//! DIR/quarantine/ID/text.txt         what a model had written of a brief
//! ```

use std::path::{Path, PathBuf};

use serde::Serialize;
use storyloom_pictures::{Limits, read};
use storyloom_story::{Brief, Ground, Resolution, ShotId, StoryEntry, StoryId};

use crate::config::RunConfig;
use crate::error::RunError;
use crate::folder::records::references;
use crate::folder::run_folder::{RunFolder, StoryFile, StoryState};
use crate::run::inputs::own_size;

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
        if let StoryState::Quarantined { shot, reason } = folder.story_to_show(&story).state {
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
        let mut file = match folder.story_file(&story) {
            // The next start looks after it.
            Err(_) if stories.is_empty() => continue,
            file => file?,
        };
        if let StoryState::Failed { .. } | StoryState::Quarantined { .. } = file.state {
            file.state = StoryState::Running;
            folder.write_story(&file)?;
            released.push(story);
        }
    }
    Ok(released)
}

/// Writes a manifest of the one story, its pictures and the settings of the run, for
/// [`Quarantined::command`].
pub(crate) fn write_reproducer(
    folder: &RunFolder,
    config: &RunConfig,
    file: &StoryFile,
) -> Result<(), RunError> {
    let place = place(folder, &file.id);
    let copied = copy_pictures(folder, config, file, &place)?;
    let own_size = size_of(config, copied.first());
    let mut pictures: Vec<String> = copied.into_iter().map(|(name, _)| name).collect();
    let first_shot = file.first_shot.as_ref().and_then(|_| pictures.pop());
    let line = match (&file.script, &file.brief) {
        (Some(script), _) => {
            let entry = StoryEntry {
                notes: file.notes.clone(),
                method: file.method,
                seed: file.seed,
                tenant: file.tenant.clone(),
                size: file.size.filter(|size| *size != own_size),
                fit: file.fit,
                ground: file.ground,
                reference_images: pictures,
                first_shot,
                ..StoryEntry::new(file.id.clone(), script.clone())
            };
            entry.line()
        }
        (None, brief) => {
            let brief = brief.as_deref().map(|brief| Brief {
                method: file.method,
                product_image: pictures.first().cloned(),
                ..brief.clone()
            });
            // Plain data into memory: this does not fail.
            serde_json::to_string(&brief).unwrap_or_default()
        }
    };
    let storage = folder.storage();
    storage.write(
        &place.join("manifest.jsonl"),
        format!("{line}\n").as_bytes(),
    )?;
    storage.write(&place.join("config.toml"), config.config_file.as_bytes())?;
    Ok(())
}

/// The name of a picture beside a manifest, and what is in it; nothing of one that could not be read.
type Copied = (String, Option<Vec<u8>>);

/// Copies the pictures of a story beside its manifest, where briefs may name them and nobody changes
/// them. Of one that is gone what the story has in its memory is taken, in the film's shape. Names count
/// from there.
fn copy_pictures(
    folder: &RunFolder,
    config: &RunConfig,
    file: &StoryFile,
    place: &Path,
) -> Result<Vec<Copied>, RunError> {
    let remembered = references(folder, &file.id).unwrap_or_default();
    let mut copied = Vec::new();
    for (number, path) in file.begins_with().enumerate() {
        let own = config.input_folder.read(path, Limits::default().bytes);
        let found = own.and_then(|bytes| Ok((bytes, config.input_folder.resolve(path)?)));
        let found = found.ok().or_else(|| {
            let picture = remembered.get(number)?.picture.as_ref()?;
            let kept = folder.story(&file.id).join(&picture.file);
            Some((folder.storage().read(&kept).ok()?, kept))
        });
        copied.push(match found {
            Some((bytes, source)) => {
                let name = format!("picture-{}{}", number + 1, ending(&source));
                folder.storage().write(&place.join(&name), &bytes)?;
                (name, Some(bytes))
            }
            None => (path.clone(), None),
        });
    }
    Ok(copied)
}

/// The ending of a file's name with its dot, if it is a plain word.
fn ending(path: &Path) -> String {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let plain = ending.filter(|ending| ending.chars().all(|c| c.is_ascii_alphanumeric()));
    plain.map_or_else(String::new, |ending| format!(".{ending}"))
}

/// The size that a film with this first picture has if nobody says another.
fn size_of(config: &RunConfig, first: Option<&Copied>) -> Resolution {
    let bytes = first.and_then(|(_, bytes)| bytes.as_ref());
    let decode = |bytes: &Vec<u8>| read(bytes, &Limits::default(), Ground::default()).ok();
    own_size(config, bytes.and_then(decode).as_ref())
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

//! Stories that a start has set aside, since something else is asked for than what was made, or since
//! what they are made from cannot be read.
//!
//! ```text
//! DIR/changed/ID.json   which input of the story has changed or cannot be read
//! ```
//!
//! What was made of such a story is not touched: its files and records stay what they are. The mark
//! goes when a later start finds that the story is what is asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use storyloom_memory::storage::{UNFINISHED, make_way};
use storyloom_story::StoryId;
use storyloom_telemetry::{Event, Reporter};

use crate::error::RunError;
use crate::folder::folder_file::{FolderFile, Found};
use crate::folder::run_folder::{FOLDER_FORMAT, RunFolder};

#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    format: u32,
    story: StoryId,
    reason: String,
}

impl FolderFile for Mark {}

fn place(folder: &RunFolder) -> PathBuf {
    folder.root().join("changed")
}

fn path(folder: &RunFolder, story: &StoryId) -> PathBuf {
    place(folder).join(format!("{story}.json"))
}

/// The stories that are set aside, and why. A listing is where marks are found: they are for people, and
/// the program that takes a story finds out by itself whether it is what is asked for.
///
/// # Errors
/// They cannot be read.
pub fn marks(folder: &RunFolder) -> Result<BTreeMap<StoryId, String>, RunError> {
    let mut marks = BTreeMap::new();
    for name in folder.storage().list(&place(folder))? {
        if name.starts_with(UNFINISHED) || !name.ends_with(".json") {
            continue;
        }
        let path = place(folder).join(&name);
        // Another program may have removed it since.
        if !folder.storage().exists(&path) {
            continue;
        }
        match folder.find_json::<Mark>(&path)? {
            Found::Gone => {}
            Found::Sound(mark) => drop(marks.insert(mark.story, mark.reason)),
            Found::Damaged(reason) => {
                let story = name
                    .strip_suffix(".json")
                    .and_then(|name| StoryId::new(name).ok());
                let reason = format!("why is not known, {}: {reason}", path.display());
                marks.extend(story.map(|story| (story, reason)));
            }
        }
    }
    Ok(marks)
}

/// Whether a story is set aside.
pub(crate) fn is_marked(folder: &RunFolder, story: &StoryId) -> bool {
    folder.storage().exists(&path(folder, story))
}

/// Sets a story aside, and says so.
pub(crate) fn set_aside(
    folder: &RunFolder,
    reporter: &dyn Reporter,
    story: &StoryId,
    reason: &str,
) -> Result<(), RunError> {
    reporter.report(&Event::StorySetAside { story, reason });
    let mark = Mark {
        format: FOLDER_FORMAT,
        story: story.clone(),
        reason: reason.to_owned(),
    };
    let path = path(folder, story);
    make_way(folder.storage().as_ref(), &path)?;
    folder.write_json(&path, &mark)
}

/// The story is what is asked for again.
pub(crate) fn forget(folder: &RunFolder, story: &StoryId) -> Result<(), RunError> {
    Ok(folder.storage().remove(&path(folder, story))?)
}

/// What the reason says of a story of which something is another now.
const CHANGED: &str = "has changed since the story was begun";

/// Whether the `reason` for which a story is set aside is that something else is asked for than what was made,
/// and not that what it is made from cannot be used.
pub fn tells_of_change(reason: &str) -> bool {
    reason.contains(CHANGED)
}

/// Why a story is set aside of which `what` is another now, and what to do about it.
pub(crate) fn changed(folder: &RunFolder, story: &StoryId, what: &str) -> String {
    let made = folder.story(story);
    format!(
        "{what} {CHANGED}; what was made of it stays as it is. To have \
         it made anew, remove {made} and start again; to have both, give the changed one another id \
         or use another --out folder",
        made = Path::new(&made).display()
    )
}

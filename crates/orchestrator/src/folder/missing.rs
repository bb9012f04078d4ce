//! What of a finished story is not there any more.

use std::path::Path;

use storyloom_memory::{MemoryBank, Storage};
use storyloom_story::{Media, ShotId};

use crate::folder::output::WHOLE_VIDEO;
use crate::folder::run_folder::{RunFolder, StoryFile};

/// What of a story that says it is done is gone or has another size, if anything. Contents are `verify`'s
/// matter.
pub(crate) fn missing(bank: &MemoryBank, folder: &RunFolder, file: &StoryFile) -> Option<String> {
    let story = folder.story(&file.id);
    let storage = folder.storage().as_ref();
    let media = folder.method_of(file).profile().media;
    if file.script.is_none() {
        return Some("its script is gone".to_owned());
    }
    let is_there = |shot: ShotId| {
        bank.is_committed(&file.id, shot) && storage.exists(&story.join(media.file_name(shot)))
    };
    let found = match file.sizes.is_empty() {
        // Earlier builds have noted no sizes.
        true => file
            .shots()
            .find(|(shot, _)| !is_there(*shot))
            .map(|(shot, _)| format!("the record or the video of its shot {shot} is gone")),
        false => file.sizes.first_difference(storage, &story),
    };
    let film = || {
        (media == Media::Clip && !has_film(storage, &story, file))
            .then(|| format!("its {WHOLE_VIDEO} is gone or cut"))
    };
    let no_film = || {
        (media == Media::Picture && file.video.is_some())
            .then(|| "it notes a film, which its method does not make".to_owned())
    };
    found.or_else(film).or_else(no_film)
}

/// Whether a story has the whole video that it notes, or one that is as long.
fn has_film(storage: &dyn Storage, story: &Path, file: &StoryFile) -> bool {
    let bytes = file.video.as_ref().map(|video| video.content.bytes);
    let found = storage.metadata(&story.join(WHOLE_VIDEO));
    found.is_some_and(|found| found.is_file && bytes.is_none_or(|bytes| bytes == found.bytes))
}

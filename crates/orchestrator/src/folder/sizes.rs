//! How large the files of a finished story are: what a start can look at in a moment, of ten thousand
//! stories too. Contents are `verify`'s and `repair`'s matter.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use storyloom_memory::{MemoryBank, PictureRecord, Storage};
use storyloom_story::{Media, ShotId};

use crate::folder::output::WHOLE_VIDEO;
use crate::folder::run_folder::{RunFolder, StoryFile};

/// Bytes of each file of a finished story, by its path relative to the story's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileSizes(BTreeMap<String, u64>);

impl FileSizes {
    /// Whether nothing is known: of stories that earlier versions have finished.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes files as their records have them.
    pub(crate) fn note(&mut self, pictures: &[&PictureRecord]) {
        for picture in pictures {
            self.0.insert(picture.file.clone(), picture.content.bytes);
        }
    }

    /// Notes a file as it is; one that is not there has no size.
    pub(crate) fn measure(&mut self, storage: &dyn Storage, story: &Path, file: &str) {
        if let Some(found) = storage.metadata(&story.join(file)) {
            self.0.insert(file.to_owned(), found.bytes);
        }
    }

    /// The first file of the story in the folder `story` that has another size, and how.
    pub(crate) fn first_difference(&self, storage: &dyn Storage, story: &Path) -> Option<String> {
        self.0.iter().find_map(|(file, bytes)| {
            let path = story.join(file);
            let found = storage.metadata(&path).filter(|found| found.is_file);
            let found = found.map(|found| found.bytes);
            match found {
                Some(found) if found == *bytes => None,
                Some(found) => Some(format!(
                    "{} has {found} bytes instead of {bytes}",
                    path.display()
                )),
                None => Some(format!("{} is gone, or is no file", path.display())),
            }
        })
    }
}

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
    found.or_else(film)
}

/// Whether a story has the whole video that it notes, or one that is as long.
fn has_film(storage: &dyn Storage, story: &Path, file: &StoryFile) -> bool {
    let bytes = file.video.as_ref().map(|video| video.content.bytes);
    let found = storage.metadata(&story.join(WHOLE_VIDEO));
    found.is_some_and(|found| found.is_file && bytes.is_none_or(|bytes| bytes == found.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use storyloom_memory::Disk;

    #[test]
    fn a_file_that_is_gone_cut_or_a_folder_is_found() {
        let root = tempfile::tempdir().unwrap();
        let (story, file) = (root.path(), root.path().join("01_01.mp4"));
        fs::write(&file, b"video").unwrap();
        let mut sizes = FileSizes::default();
        sizes.measure(&Disk, story, "01_01.mp4");
        sizes.measure(&Disk, story, "never.mp4");
        assert_eq!(sizes.first_difference(&Disk, story), None);
        fs::write(&file, b"vid").unwrap();
        let told = sizes.first_difference(&Disk, story).unwrap();
        assert!(told.ends_with("has 3 bytes instead of 5"), "{told}");
        fs::remove_file(&file).unwrap();
        assert!(sizes.first_difference(&Disk, story).is_some());
        fs::create_dir(&file).unwrap();
        assert!(sizes.first_difference(&Disk, story).is_some());
    }
}

//! How large the files of a finished story are: what a start can look at in a moment, of ten thousand
//! stories too. Contents are `verify`'s and `repair`'s matter.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use storyloom_memory::{PictureRecord, Storage};

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

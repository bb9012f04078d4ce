//! Whether what records name is there, and is what they say.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{MemoryError, Result};
use crate::ledger::blobs::{BlobRef, BlobStore, check};
use crate::ledger::record::v1::KeyframeRecord;
use crate::ledger::record::{MemoryItem, PictureRecord};
use crate::ledger::storage::Storage;

/// What a record names.
#[derive(Debug, Clone, Default)]
pub struct Named<'a> {
    /// Files of the story.
    pub pictures: Vec<&'a PictureRecord>,
    /// Blobs of the run.
    pub blobs: Vec<&'a BlobRef>,
}

impl<'a> Named<'a> {
    /// With what keyframes name.
    pub(super) fn with_keyframes(mut self, keyframes: &'a [KeyframeRecord]) -> Self {
        for keyframe in keyframes {
            self.pictures.push(&keyframe.picture);
            self.blobs.extend([&keyframe.latents, &keyframe.embedding]);
        }
        self
    }

    /// With what items of a memory name.
    pub(super) fn with_items(mut self, items: &'a [MemoryItem]) -> Self {
        for item in items {
            let picture = item.picture.as_ref();
            // It may be that of the shot.
            let is_new = |picture: &&PictureRecord| !self.pictures.contains(picture);
            self.pictures.extend(picture.filter(is_new));
            self.blobs.extend(item.arrays.values());
        }
        self
    }
}

/// Something that a record names and that is not what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Harm {
    /// Where it should lie.
    pub path: PathBuf,
    /// How it differs, as in "is gone".
    pub reason: String,
    /// Of a blob, which one.
    pub blob: Option<BlobRef>,
}

/// Reads all that a record names, and says what is gone or has other content.
///
/// # Errors
/// Something is there and cannot be read now: nobody knows what it is.
pub fn harms(
    story: &Path,
    storage: &dyn Storage,
    blobs: &BlobStore,
    named: &Named,
) -> Result<Vec<Harm>> {
    let mut harms = Vec::new();
    for picture in &named.pictures {
        let path = story.join(&picture.file);
        if let Some(reason) = harm(storage, &path, &picture.content)? {
            harms.push(Harm {
                path,
                reason,
                blob: None,
            });
        }
    }
    for &blob in &named.blobs {
        // A record cannot be sealed with another name.
        let Some(path) = blobs.path(blob) else {
            continue;
        };
        if let Some(reason) = harm(storage, &path, blob)? {
            harms.push(Harm {
                path,
                reason,
                blob: Some(blob.clone()),
            });
        }
    }
    Ok(harms)
}

fn harm(storage: &dyn Storage, path: &Path, content: &BlobRef) -> Result<Option<String>> {
    match storage.read(path) {
        Ok(bytes) => Ok(match check(path, &bytes, content) {
            Ok(()) => None,
            Err(MemoryError::Damaged { reason, .. }) => Some(reason),
            Err(error) => return Err(error),
        }),
        Err(error) => match why_unreadable(&error) {
            Some(reason) => Ok(Some(reason.to_owned())),
            None => Err(error),
        },
    }
}

/// What stands in a file's place, if that is why it cannot be read: trying again will not help.
pub fn why_unreadable(error: &MemoryError) -> Option<&'static str> {
    let MemoryError::Storage { source, .. } = error else {
        return None;
    };
    match source.kind() {
        io::ErrorKind::NotFound => Some("it is gone"),
        io::ErrorKind::InvalidInput => Some("no plain file stands in its place"),
        io::ErrorKind::IsADirectory => Some("a folder stands in its place"),
        io::ErrorKind::NotADirectory => Some("a file stands where its folder belongs"),
        _ if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            Some("a link to itself stands in its place")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::record::ShotRecord;
    use crate::ledger::record::tests::record;
    use crate::ledger::storage::Disk;
    use std::fs;
    use std::sync::Arc;
    use storyloom_story::ShotId;

    #[test]
    fn whatever_is_not_what_its_record_says_is_named() {
        let root = tempfile::tempdir().unwrap();
        let blobs = BlobStore::new(root.path().join("blobs"), Arc::new(Disk));
        let story = root.path().join("story");
        fs::create_dir_all(story.join("keyframes")).unwrap();
        let record = ShotRecord::V1(record(ShotId { scene: 1, shot: 1 }));
        for content in [&b"latents"[..], b"tail", b"latent", b"embedding"] {
            blobs.put(content).unwrap();
        }
        let (video, keyframe) = (
            story.join("01_01.mp4"),
            story.join("keyframes/01_01_keyframe0.png"),
        );
        fs::write(&video, b"video").unwrap();
        fs::write(&keyframe, b"png").unwrap();
        let found = || harms(&story, &Disk, &blobs, &record.named()).unwrap();
        assert_eq!(found(), []);
        fs::write(&video, b"vidfo").unwrap();
        let tail = blobs.path(record.tail().unwrap()).unwrap();
        fs::remove_file(&tail).unwrap();
        fs::create_dir(&tail).unwrap();
        fs::remove_file(&keyframe).unwrap();
        std::os::unix::fs::symlink(&keyframe, &keyframe).unwrap();
        let latents = blobs.path(record.latents()).unwrap();
        fs::remove_file(latents).unwrap();
        let told: Vec<(bool, String)> = found()
            .into_iter()
            .map(|harm| (harm.blob.is_some(), harm.reason))
            .collect();
        let words = [
            "its content has changed",
            "a link to itself",
            "is gone",
            "a folder",
        ];
        assert_eq!(told.len(), words.len(), "{told:?}");
        for ((is_blob, reason), (place, word)) in told.iter().zip(words.iter().enumerate()) {
            assert!(reason.contains(word), "{reason}: {word}");
            assert_eq!(*is_blob, place > 1);
        }
    }
}

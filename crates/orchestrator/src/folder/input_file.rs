//! What the pictures were that a story was begun with.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use storyloom_pictures::{FileProblem, InputFolder, Limits};

/// A picture as it was when the story was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// How many bytes there were.
    pub bytes: u64,
    /// What the file system said of the file. A file of which it says the same again need not be read
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

/// What a file system says of a file that changes with its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The number of the file.
    inode: u64,
    /// When its content changed, in nanoseconds since 1970.
    modified: i64,
    /// When anything of it changed.
    changed: i64,
}

impl Seen {
    fn of(metadata: &Metadata) -> Self {
        const BILLION: i64 = 1_000_000_000;
        let at = |seconds: i64, nanoseconds: i64| {
            seconds.saturating_mul(BILLION).saturating_add(nanoseconds)
        };
        Self {
            inode: metadata.ino(),
            modified: at(metadata.mtime(), metadata.mtime_nsec()),
            changed: at(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file was left alone for a while: one that changes again within the same tick of the
    /// file system's clock looks the same as before.
    fn is_settled(&self) -> bool {
        /// The coarsest clock of a file system counts two seconds.
        const TICK: Duration = Duration::from_secs(3);
        let last = u64::try_from(self.modified.max(self.changed)).unwrap_or_default();
        let last = UNIX_EPOCH + Duration::from_nanos(last);
        let quiet = SystemTime::now().duration_since(last);
        quiet.is_ok_and(|quiet| quiet > TICK)
    }
}

/// The file of a picture, opened where it may lie.
#[derive(Debug)]
pub(crate) struct OpenedInput {
    file: File,
    metadata: Metadata,
}

impl OpenedInput {
    /// Opens the picture that a story names so.
    pub(crate) fn open(folder: &InputFolder, name: &str) -> Result<Self, FileProblem> {
        let (file, metadata) = folder.open(name, Limits::default().bytes)?;
        Ok(Self { file, metadata })
    }

    /// SHA-256 of its bytes, in hexadecimal.
    pub(crate) fn sha256(mut self) -> io::Result<String> {
        let mut hasher = Sha256::new();
        io::copy(&mut self.file, &mut hasher)?;
        Ok(format!("{:x}", hasher.finalize()))
    }
}

impl InputFile {
    /// Takes note of the picture that a story names so.
    pub(crate) fn note(folder: &InputFolder, name: &str) -> Result<Self, FileProblem> {
        let before = OpenedInput::open(folder, name)?;
        let (seen, bytes) = (Seen::of(&before.metadata), before.metadata.len());
        let sha256 = before.sha256()?;
        let after = OpenedInput::open(folder, name)?.metadata;
        let is_one = seen == Seen::of(&after) && bytes == after.len();
        Ok(Self {
            sha256,
            bytes,
            seen: (is_one && seen.is_settled()).then_some(seen),
        })
    }

    /// Whether a file has this content.
    pub(crate) fn is_still(&self, opened: OpenedInput) -> io::Result<bool> {
        if opened.metadata.len() != self.bytes {
            return Ok(false);
        }
        if self.seen == Some(Seen::of(&opened.metadata)) {
            return Ok(true);
        }
        Ok(opened.sha256()? == self.sha256)
    }
}

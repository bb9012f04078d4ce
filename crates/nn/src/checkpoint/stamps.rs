//! Noticing that files have changed since they were opened.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the file system says of a file. A program that writes to a file or puts another one into its place
/// changes something of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds of the last writing.
    written: (i64, i64),
    /// The same of the last change of anything, also of rights and of the number of names. Nobody can
    /// set it back.
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Files as they were when they were opened.
#[derive(Debug, Clone, Default)]
pub struct Stamps(Vec<(PathBuf, Stamp)>);

/// How a file is not as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is gone, another file, longer or shorter, or was written to.
    Content,
    /// Its rights or names have changed, or it was written to by somebody who has set its time back.
    Attributes,
}

impl Stamps {
    /// Notes an open file.
    pub(super) fn add(&mut self, path: &Path, metadata: &Metadata) {
        self.0.push((path.to_owned(), Stamp::of(metadata)));
    }

    /// The file that has changed most, if one has.
    pub fn change(&self) -> Option<(&Path, Change)> {
        let changes = self.0.iter().filter_map(|(path, then)| {
            let now = fs::metadata(path).map(|metadata| Stamp::of(&metadata));
            match now {
                Ok(now) if now == *then => None,
                Ok(now)
                    if (Stamp {
                        changed: then.changed,
                        ..now
                    }) == *then =>
                {
                    Some((path.as_path(), Change::Attributes))
                }
                _ => Some((path.as_path(), Change::Content)),
            }
        });
        changes.min_by_key(|(_, change)| *change != Change::Content)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn stamps(path: &Path) -> Stamps {
        let mut stamps = Stamps::default();
        stamps.add(path, &File::open(path).unwrap().metadata().unwrap());
        stamps
    }

    #[test]
    fn whatever_happens_to_a_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let pause = || std::thread::sleep(std::time::Duration::from_millis(20));
        type Case = (&'static str, fn(&Path), Change);
        let changes: [Case; 5] = [
            (
                "written in place",
                |path| fs::write(path, b"othr").unwrap(),
                Change::Content,
            ),
            (
                "longer",
                |path| fs::write(path, b"longer").unwrap(),
                Change::Content,
            ),
            (
                "gone",
                |path| fs::remove_file(path).unwrap(),
                Change::Content,
            ),
            (
                "replaced by its like",
                |path| {
                    let copy = path.with_extension("copy");
                    fs::copy(path, &copy).unwrap();
                    let time = fs::metadata(path).unwrap().modified().unwrap();
                    let file = File::options().write(true).open(&copy).unwrap();
                    file.set_times(FileTimes::new().set_modified(time)).unwrap();
                    fs::rename(copy, path).unwrap();
                },
                Change::Content,
            ),
            (
                "other rights",
                |path| fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap(),
                Change::Attributes,
            ),
        ];
        for (what, change, wanted) in changes {
            fs::write(&path, b"same").unwrap();
            let stamps = stamps(&path);
            pause();
            assert_eq!(stamps.change(), None, "{what}");
            fs::read(&path).unwrap();
            assert_eq!(stamps.change(), None, "{what}");
            change(&path);
            assert_eq!(stamps.change(), Some((path.as_path(), wanted)), "{what}");
        }
    }

    #[test]
    fn a_time_that_was_set_back_is_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamps = stamps(file.path());
        let time = file.as_file().metadata().unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let times = FileTimes::new().set_modified(time);
        file.as_file().set_times(times).unwrap();
        assert_eq!(stamps.change(), Some((file.path(), Change::Attributes)));
    }
}

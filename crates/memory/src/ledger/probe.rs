//! Trying out what a run needs of the storage of its folder, before anything is paid for.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::ledger::storage::{Calls, temporary_name};

/// What storage that a run can use does otherwise than most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footing {
    /// It takes `A` and `a` for one name.
    pub folds_case: bool,
    /// Programs can lock files. A run needs no locks, but the index of its memory is safer with them.
    pub locks: bool,
}

/// What storage cannot do that a run needs, with what the system said of it.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// Nothing can be written.
    #[error("no file can be written there: {0}")]
    Write(io::Error),
    /// A file cannot be made durable.
    #[error("it cannot make the content of a file durable (fsync): {0}")]
    Sync(io::Error),
    /// The names of a folder cannot be made durable.
    #[error("it cannot make the names in a folder durable (fsync of the folder): {0}")]
    SyncFolder(io::Error),
    /// A file that is there cannot be replaced.
    #[error("it cannot put a finished file in the place of another (rename): {0}")]
    Replace(io::Error),
    /// Of several programs more than one can believe that it has created a file.
    #[error("it cannot create a file of which only one program is the author: {0}")]
    Create(io::Error),
    /// The same, where it says that it can.
    #[error("it replaces a file that is there although it was asked not to")]
    Replaces,
}

impl Unfit {
    /// Whether the storage cannot do it at all; otherwise it may be full, or away for now.
    pub fn is_lasting(&self) -> bool {
        use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
        match self {
            Self::Write(_) => false,
            Self::Replaces => true,
            Self::Sync(error)
            | Self::SyncFolder(error)
            | Self::Replace(error)
            | Self::Create(error) => {
                matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
            }
        }
    }
}

/// The nearest folder that is there, which has the storage of one that is yet to be made.
pub fn nearest_folder(folder: &Path) -> PathBuf {
    let mut above = folder.ancestors();
    let found = above.find(|folder| folder.is_dir());
    found.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Writes a few hidden files into `folder`, which is there, gives them other names, and removes them.
///
/// # Errors
/// What a run needs and the storage cannot do.
pub fn probe(calls: &impl Calls, folder: &Path) -> Result<Footing, Unfit> {
    let name = || temporary_name(&folder.join("probe"));
    let files = Files {
        calls,
        first: name(),
        second: name(),
        taken: name(),
    };
    let Files {
        first,
        second,
        taken,
        ..
    } = &files;
    for file in [first, second] {
        calls.write_new(file, b"probe").map_err(Unfit::Write)?;
        calls.sync(file).map_err(Unfit::Sync)?;
    }
    let footing = Footing {
        folds_case: fs::symlink_metadata(upper_case(first)).is_ok(),
        locks: can_lock(first),
    };
    calls.rename_new(first, taken).map_err(Unfit::Create)?;
    match calls.rename_new(second, taken) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Unfit::Create(error)),
        Ok(()) => return Err(Unfit::Replaces),
    }
    calls.rename(second, taken).map_err(Unfit::Replace)?;
    calls.sync_folder(folder).map_err(Unfit::SyncFolder)?;
    Ok(footing)
}

/// The files of a probe, which go when it ends.
struct Files<'a, C: Calls> {
    calls: &'a C,
    first: PathBuf,
    second: PathBuf,
    taken: PathBuf,
}

impl<C: Calls> Drop for Files<'_, C> {
    fn drop(&mut self) {
        for file in [&self.first, &self.second, &self.taken] {
            // Best effort: a hidden file of a few bytes, which is never mistaken for another.
            let _ = self.calls.remove_file(file);
        }
    }
}

fn upper_case(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(name.to_uppercase())
}

fn can_lock(path: &Path) -> bool {
    let locked = File::open(path).map(|file| file.try_lock());
    matches!(locked, Ok(Ok(()) | Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::ledger::storage::Disk;

    /// What a file system can be like.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Kind {
        /// Neither hard links nor a rename that does not replace, as some FUSE file systems.
        CreatesNothing,
        /// A rename that replaces in any case.
        Replaces,
        NoFolderSync,
        NoRename,
        Full,
        /// `A` is `a`.
        FoldsCase,
    }

    #[derive(Debug)]
    struct Odd(Kind, AtomicUsize);

    impl Odd {
        fn refuse(&self, kind: Kind, error: io::ErrorKind) -> io::Result<()> {
            match self.0 == kind {
                true => Err(error.into()),
                false => Ok(()),
            }
        }
    }

    impl Calls for Odd {
        fn create_folder(&self, path: &Path) -> io::Result<()> {
            Disk.create_folder(path)
        }
        fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
            self.refuse(Kind::Full, io::ErrorKind::StorageFull)?;
            if self.0 == Kind::FoldsCase {
                fs::write(upper_case(path), bytes)?;
            }
            Disk.write_new(path, bytes)
        }
        fn sync(&self, path: &Path) -> io::Result<()> {
            Disk.sync(path)
        }
        fn sync_folder(&self, path: &Path) -> io::Result<()> {
            self.refuse(Kind::NoFolderSync, io::ErrorKind::InvalidInput)?;
            Disk.sync_folder(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.refuse(Kind::NoRename, io::ErrorKind::PermissionDenied)?;
            Disk.rename(from, to)
        }
        fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.refuse(Kind::CreatesNothing, io::ErrorKind::PermissionDenied)?;
            match self.0 {
                Kind::Replaces => Disk.rename(from, to),
                _ => Disk.rename_new(from, to),
            }
        }
        fn remove_file(&self, path: &Path) -> io::Result<()> {
            self.1.fetch_add(1, Ordering::SeqCst);
            Disk.remove_file(path)
        }
    }

    #[test]
    fn a_good_disk_is_fit_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let footing = probe(&Disk, folder.path()).unwrap();
        assert!(footing.locks);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let below = folder.path().join("run/of/shoes");
        assert_eq!(nearest_folder(&below), folder.path());
        assert_eq!(nearest_folder(Path::new("none/below")), Path::new("."));
    }

    #[test]
    fn what_storage_cannot_do_is_named_and_nothing_is_left() {
        for (kind, wanted, lasting) in [
            (Kind::CreatesNothing, "only one program is the author", true),
            (Kind::Replaces, "replaces a file that is there", true),
            (Kind::NoFolderSync, "fsync of the folder", true),
            (Kind::NoRename, "in the place of another", true),
            (Kind::Full, "no file can be written", false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let odd = Odd(kind, AtomicUsize::new(0));
            let unfit = probe(&odd, folder.path()).unwrap_err();
            assert!(unfit.to_string().contains(wanted), "{unfit}");
            assert_eq!(unfit.is_lasting(), lasting, "{unfit}");
            assert_eq!(odd.1.load(Ordering::SeqCst), 3);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{unfit}");
        }
        let folder = tempfile::tempdir().unwrap();
        let folds = Odd(Kind::FoldsCase, AtomicUsize::new(0));
        assert!(probe(&folds, folder.path()).unwrap().folds_case);
    }
}

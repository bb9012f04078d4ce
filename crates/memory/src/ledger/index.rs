//! The index: small values by key, rebuildable from the records.

use std::fmt::Debug;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storyloom_story::guard::guarded;

use crate::error::{MemoryError, Result};
use crate::ledger::storage::{Disk, move_aside};

/// How often a lock is asked for, and the pauses between.
const LINGERING: (u32, Duration) = (10, Duration::from_millis(50));

/// Which embedded store holds the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexKind {
    /// sled 0.34.
    #[default]
    Sled,
    /// redb.
    Redb,
}

/// A map of small values that survives the end of the process after [`MemoryIndex::flush`].
pub trait MemoryIndex: Debug + Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// Sets the value of `key`.
    fn put(&self, key: &str, value: &[u8]) -> Result<()>;

    /// Makes everything set so far durable.
    fn flush(&self) -> Result<()>;

    /// Number of keys.
    fn len(&self) -> Result<usize>;

    /// Whether there is no key.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// An opened index, and where a broken one was put.
#[derive(Debug)]
pub struct OpenedIndex {
    /// The index.
    pub index: Box<dyn MemoryIndex>,
    /// Set if the database did not open, was moved here and started anew.
    pub moved_aside: Option<PathBuf>,
}

/// Opens the index at `folder`; one that does not open is moved aside, since everything in it can
/// be read from the records again.
///
/// The file `FOLDER.lock` beside it is locked before anything of the index is looked at, for as long
/// as it is open: the stores look at their files, and we mend them, before they have locks of their
/// own.
///
/// # Errors
/// Another program has it open ([`MemoryError::IndexBusy`]), or no index can be opened there.
pub fn open_index(kind: IndexKind, folder: &Path) -> Result<OpenedIndex> {
    let lock = lock_beside(folder)?;
    let OpenedIndex { index, moved_aside } = open_or_move_aside(kind, folder)?;
    let index = Box::new(Locked { index, _lock: lock });
    Ok(OpenedIndex { index, moved_aside })
}

/// Ours until the file is closed. The lock of a process that has just ended may linger for a moment.
fn lock_beside(folder: &Path) -> Result<File> {
    let path = folder.with_extension("lock");
    let failed = |error| MemoryError::storage("open", &path, error);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|error| MemoryError::storage("create the folder", parent, error))?;
    }
    let open = || File::options().create(true).append(true).open(&path);
    let file = open().or_else(|error| {
        // A file that says nothing can be made again.
        if path.symlink_metadata().is_ok_and(|found| found.is_file()) {
            return Err(failed(error));
        }
        let aside = move_aside(&Disk, &path)?;
        tracing::warn!(path = %path.display(), aside = %aside.display(), "no lock stood in its place");
        open().map_err(failed)
    })?;
    for _ in 0..LINGERING.0 {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LINGERING.1),
            // A file system without locks; the store has to see to it.
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, path = %path.display(), "no lock");
                return Ok(file);
            }
        }
    }
    Err(MemoryError::IndexBusy {
        path: folder.to_owned(),
    })
}

fn open_or_move_aside(kind: IndexKind, folder: &Path) -> Result<OpenedIndex> {
    match open_plain(kind, folder) {
        Ok(index) => Ok(OpenedIndex {
            index,
            moved_aside: None,
        }),
        // A sound index that somebody else has open is left alone.
        Err(error @ MemoryError::IndexBusy { .. }) => Err(error),
        Err(error) if folder.exists() => {
            let aside = free_name_beside(folder);
            std::fs::rename(folder, &aside)
                .map_err(|source| MemoryError::storage("move aside", folder, source))?;
            tracing::warn!(%error, moved_to = %aside.display(), "memory index rebuilt");
            Ok(OpenedIndex {
                index: open_plain(kind, folder)?,
                moved_aside: Some(aside),
            })
        }
        Err(error) => Err(error),
    }
}

fn free_name_beside(folder: &Path) -> PathBuf {
    let name = folder
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    (0_u32..)
        .map(|number| folder.with_file_name(format!("{name}.broken-{number}")))
        .find(|path| !path.exists())
        .unwrap_or_else(|| folder.with_extension("broken"))
}

fn open_plain(kind: IndexKind, folder: &Path) -> Result<Box<dyn MemoryIndex>> {
    std::fs::create_dir_all(folder)
        .map_err(|error| MemoryError::storage("create the folder", folder, error))?;
    // A store may panic at a file that is damaged.
    let opened = guarded(|| -> Result<Box<dyn MemoryIndex>> {
        Ok(match kind {
            IndexKind::Sled => Box::new(SledIndex::open(folder)?),
            IndexKind::Redb => Box::new(RedbIndex::open(folder)?),
        })
    });
    opened.unwrap_or_else(|reason| Err(failed(folder, reason)))
}

fn failed(path: &Path, error: impl std::fmt::Display) -> MemoryError {
    MemoryError::Index {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// An index, and what keeps others from it. The index is closed first.
#[derive(Debug)]
struct Locked {
    index: Box<dyn MemoryIndex>,
    _lock: File,
}

impl MemoryIndex for Locked {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.index.get(key)
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.index.put(key, value)
    }

    fn flush(&self) -> Result<()> {
        self.index.flush()
    }

    fn len(&self) -> Result<usize> {
        self.index.len()
    }
}

#[derive(Debug)]
struct SledIndex {
    path: PathBuf,
    database: sled::Db,
}

impl SledIndex {
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("sled");
        // A crash inside a snapshot leaves a half-written file that sled 0.34 trips over.
        for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(".generating") {
                let half = entry.path();
                std::fs::remove_file(&half)
                    .map_err(|error| MemoryError::storage("remove", &half, error))?;
            }
        }
        let config = sled::Config::new().path(&path).cache_capacity(64 << 20);
        // Its own lock may linger, too.
        let mut tries = 0;
        let database = loop {
            match config.open() {
                Ok(database) => break database,
                Err(sled::Error::Io(error))
                    if tries < LINGERING.0 && error.kind() == std::io::ErrorKind::Other =>
                {
                    tries += 1;
                    std::thread::sleep(LINGERING.1);
                }
                Err(error) if error.to_string().contains("lock") => {
                    return Err(MemoryError::IndexBusy { path });
                }
                Err(error) => return Err(failed(&path, error)),
            }
        };
        Ok(Self { path, database })
    }
}

impl MemoryIndex for SledIndex {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let value = self
            .database
            .get(key)
            .map_err(|error| failed(&self.path, error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.database
            .insert(key, value)
            .map_err(|error| failed(&self.path, error))?;
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.database
            .flush()
            .map_err(|error| failed(&self.path, error))?;
        Ok(())
    }

    fn len(&self) -> Result<usize> {
        Ok(self.database.len())
    }
}

#[derive(Debug)]
struct RedbIndex {
    path: PathBuf,
    database: redb::Database,
}

const TABLE: redb::TableDefinition<&str, &[u8]> = redb::TableDefinition::new("memory");

impl RedbIndex {
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("index.redb");
        let database = redb::Database::create(&path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                MemoryError::IndexBusy { path: path.clone() }
            }
            error => failed(&path, error),
        })?;
        let index = Self { path, database };
        index.write(|_| Ok(()))?;
        Ok(index)
    }

    fn write(
        &self,
        change: impl FnOnce(&mut redb::Table<&'static str, &'static [u8]>) -> Result<()>,
    ) -> Result<()> {
        let transaction = self
            .database
            .begin_write()
            .map_err(|error| failed(&self.path, error))?;
        {
            let mut table = transaction
                .open_table(TABLE)
                .map_err(|error| failed(&self.path, error))?;
            change(&mut table)?;
        }
        transaction
            .commit()
            .map_err(|error| failed(&self.path, error))
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&redb::ReadOnlyTable<&'static str, &'static [u8]>) -> Result<T>,
    ) -> Result<T> {
        use redb::ReadableDatabase;
        let transaction = self
            .database
            .begin_read()
            .map_err(|error| failed(&self.path, error))?;
        let table = transaction
            .open_table(TABLE)
            .map_err(|error| failed(&self.path, error))?;
        read(&table)
    }
}

impl MemoryIndex for RedbIndex {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.read(|table| {
            let value = table.get(key).map_err(|error| failed(&self.path, error))?;
            Ok(value.map(|value| value.value().to_vec()))
        })
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.write(|table| {
            table
                .insert(key, value)
                .map_err(|error| failed(&self.path, error))?;
            Ok(())
        })
    }

    /// Every write is a durable transaction already.
    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn len(&self) -> Result<usize> {
        use redb::ReadableTableMetadata;
        self.read(|table| Ok(table.len().map_err(|error| failed(&self.path, error))? as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [IndexKind; 2] = [IndexKind::Sled, IndexKind::Redb];

    /// Opens one that was closed a moment ago. sled gives its lock back when it has written
    /// everything, which may take a slow disk longer than others are waited for.
    fn open_again(kind: IndexKind, path: &Path) -> OpenedIndex {
        for _ in 0..100 {
            match open_index(kind, path) {
                Err(MemoryError::IndexBusy { .. }) => {}
                result => return result.unwrap(),
            }
        }
        panic!("{} stays busy", path.display());
    }

    #[test]
    fn whatever_stands_where_the_lock_belongs_gives_way() {
        let folder = tempfile::tempdir().unwrap();
        let (path, lock) = (folder.path().join("0"), folder.path().join("0.lock"));
        std::fs::create_dir(&lock).unwrap();
        drop(open_again(IndexKind::Redb, &path));
        assert!(lock.is_file() && folder.path().join("0.lock.damaged-1").is_dir());
        std::fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(&lock, &lock).unwrap();
        drop(open_again(IndexKind::Redb, &path));
        assert!(lock.is_file());
    }

    fn conformance(kind: IndexKind) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bank");
        let open = || {
            let opened = open_again(kind, &path);
            assert!(opened.moved_aside.is_none());
            opened.index
        };
        let index = open();
        assert!(index.is_empty().unwrap());
        assert_eq!(index.get("a").unwrap(), None);
        index.put("a", b"1").unwrap();
        index.put("b", &[0, 255, 7]).unwrap();
        index.put("a", b"2").unwrap();
        index.put("empty", b"").unwrap();
        index.flush().unwrap();
        assert_eq!(index.len().unwrap(), 3);
        drop(index);
        let index = open();
        assert_eq!(index.get("a").unwrap().unwrap(), b"2");
        assert_eq!(index.get("b").unwrap().unwrap(), [0, 255, 7]);
        assert_eq!(index.get("empty").unwrap().unwrap(), b"");
        assert_eq!(index.get("c").unwrap(), None);
    }

    #[test]
    fn every_store_conforms() {
        KINDS.into_iter().for_each(conformance);
    }

    #[test]
    fn a_database_that_does_not_open_is_moved_aside() {
        for kind in KINDS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("bank");
            drop(open_index(kind, &path).unwrap());
            let file = match kind {
                IndexKind::Sled => path.join("sled/conf"),
                IndexKind::Redb => path.join("index.redb"),
            };
            std::fs::write(&file, b"garbage that is no database of any kind").unwrap();
            let opened = open_again(kind, &path);
            assert!(opened.moved_aside.unwrap().exists(), "{kind:?}");
            assert!(opened.index.is_empty().unwrap());
        }
    }

    #[test]
    fn an_index_in_use_is_left_alone() {
        for kind in KINDS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("bank");
            let first = open_index(kind, &path).unwrap().index;
            first.put("a", b"1").unwrap();
            let second = open_index(kind, &path).unwrap_err();
            assert!(
                matches!(second, MemoryError::IndexBusy { .. }),
                "{kind:?}: {second}"
            );
            assert_eq!(first.get("a").unwrap().unwrap(), b"1");
        }
    }

    /// A program that comes second does not touch what the first is just writing.
    #[test]
    fn a_snapshot_that_is_being_written_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bank");
        let _first = open_index(IndexKind::Sled, &path).unwrap();
        let half = path.join("sled/snap.0000000000000000.generating");
        std::fs::write(&half, b"half").unwrap();
        let second = open_index(IndexKind::Sled, &path).unwrap_err();
        assert!(matches!(second, MemoryError::IndexBusy { .. }), "{second}");
        assert!(half.exists());
    }

    /// One of them moves a broken index aside, and the others find that one at work.
    #[test]
    fn many_who_open_a_broken_index_are_told_that_it_is_busy() {
        for kind in KINDS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("bank");
            std::fs::create_dir_all(path.join("sled")).unwrap();
            std::fs::write(path.join("sled/conf"), b"garbage").unwrap();
            std::fs::write(path.join("index.redb"), b"garbage").unwrap();
            let opened: Vec<_> = std::thread::scope(|scope| {
                let open = || open_index(kind, &path);
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
                threads.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let (opened, busy): (Vec<_>, Vec<_>) = opened.iter().partition(|one| one.is_ok());
            assert_eq!((opened.len(), busy.len()), (1, 3), "{kind:?}: {busy:?}");
            let is_busy =
                |one: &&Result<OpenedIndex>| matches!(one, Err(MemoryError::IndexBusy { .. }));
            assert!(busy.iter().all(is_busy), "{kind:?}: {busy:?}");
        }
    }

    #[test]
    fn a_half_written_snapshot_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bank");
        let index = open_index(IndexKind::Sled, &path).unwrap().index;
        index.put("a", b"1").unwrap();
        index.flush().unwrap();
        drop(index);
        std::fs::write(path.join("sled/snap.0000000000000000.generating"), b"half").unwrap();
        let opened = open_again(IndexKind::Sled, &path);
        assert!(opened.moved_aside.is_none());
        assert_eq!(opened.index.get("a").unwrap().unwrap(), b"1");
    }
}

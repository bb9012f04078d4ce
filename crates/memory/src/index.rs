//! The index: small values by key, rebuildable from the records.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{MemoryError, Result};

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
pub fn open_index(kind: IndexKind, folder: &Path) -> Result<OpenedIndex> {
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
    Ok(match kind {
        IndexKind::Sled => Box::new(SledIndex::open(folder)?),
        IndexKind::Redb => Box::new(RedbIndex::open(folder)?),
    })
}

fn failed(path: &Path, error: impl std::fmt::Display) -> MemoryError {
    MemoryError::Index {
        path: path.to_owned(),
        reason: error.to_string(),
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
        // The lock of a process that has just ended may linger for a moment.
        let mut tries = 0;
        let database = loop {
            match config.open() {
                Ok(database) => break database,
                Err(sled::Error::Io(error))
                    if tries < 10 && error.kind() == std::io::ErrorKind::Other =>
                {
                    tries += 1;
                    std::thread::sleep(std::time::Duration::from_millis(50));
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

    fn conformance(kind: IndexKind) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bank");
        let open = || {
            let opened = open_index(kind, &path).unwrap();
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
            let opened = open_index(kind, &path).unwrap();
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

    #[test]
    fn a_half_written_snapshot_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bank");
        let index = open_index(IndexKind::Sled, &path).unwrap().index;
        index.put("a", b"1").unwrap();
        index.flush().unwrap();
        drop(index);
        std::fs::write(path.join("sled/snap.0000000000000000.generating"), b"half").unwrap();
        let opened = open_index(IndexKind::Sled, &path).unwrap();
        assert!(opened.moved_aside.is_none());
        assert_eq!(opened.index.get("a").unwrap().unwrap(), b"1");
    }
}

//! Files that lie in the memory of this process: a store without folders and without names to give, as
//! stores of objects are. For tests of everything that is to run on any [`Storage`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::error::{MemoryError, Result};
use crate::ledger::storage::{Entry, Metadata, Storage};

/// Files in memory. There is a folder wherever there is a file below it.
#[derive(Debug, Default)]
pub struct InMemory {
    files: Mutex<Files>,
}

type Files = BTreeMap<PathBuf, Kept>;

#[derive(Debug, Clone)]
struct Kept {
    bytes: Vec<u8>,
    modified: SystemTime,
}

impl Kept {
    fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_owned(),
            modified: SystemTime::now(),
        }
    }
}

impl InMemory {
    /// A store without files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every file, in order.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files().keys().cloned().collect()
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        // Nothing panics while holding it.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a path is in the store: without what means nothing in it.
fn key(path: &Path) -> PathBuf {
    let parts = path.components();
    parts.filter(|part| *part != Component::CurDir).collect()
}

/// Whether a file lies below `folder`.
fn is_folder(files: &Files, folder: &Path) -> bool {
    below(files, folder).next().is_some()
}

/// The files below `folder`.
fn below<'a>(files: &'a Files, folder: &'a Path) -> impl Iterator<Item = &'a PathBuf> {
    files
        .range(folder.to_owned()..)
        .map(|(path, _)| path)
        .take_while(move |path| path.starts_with(folder))
        .filter(move |path| *path != folder)
}

impl Storage for InMemory {
    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let files = self.files();
        let kept = files.get(&key(path)).map(|kept| kept.bytes.clone());
        kept.ok_or_else(|| {
            let kind = match is_folder(&files, &key(path)) {
                true => io::ErrorKind::IsADirectory,
                false => io::ErrorKind::NotFound,
            };
            MemoryError::storage("read", path, kind.into())
        })
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut files = self.files();
        if is_folder(&files, &key(path)) {
            let kind = io::ErrorKind::IsADirectory;
            return Err(MemoryError::storage("write", path, kind.into()));
        }
        files.insert(key(path), Kept::new(bytes));
        Ok(())
    }

    fn create_if(&self, path: &Path, bytes: &[u8], holds: &dyn Fn() -> Result<()>) -> Result<bool> {
        if self.is_taken(path) {
            return Ok(false);
        }
        // As on a disk: any program that lists the folder after `holds` has looked sees something of the file.
        let unfinished = crate::ledger::storage::temporary_name(path);
        self.write(&unfinished, bytes)?;
        let held = holds();
        let mut files = self.files();
        let kept = files.remove(&key(&unfinished));
        held?;
        let is_new = !files.contains_key(&key(path)) && !is_folder(&files, &key(path));
        if let (true, Some(kept)) = (is_new, kept) {
            files.insert(key(path), kept);
        }
        Ok(is_new)
    }

    fn give_name(&self, from: &Path, to: &Path) -> Result<()> {
        let (from, to) = (key(from), key(to));
        let mut files = self.files();
        let mut moved: Vec<PathBuf> = below(&files, &from).cloned().collect();
        moved.extend(files.contains_key(&from).then(|| from.clone()));
        if moved.is_empty() {
            let kind = io::ErrorKind::NotFound;
            return Err(MemoryError::storage("rename", to, kind.into()));
        }
        for path in moved {
            let rest = path.strip_prefix(&from).unwrap_or(&path);
            let new = match rest.as_os_str().is_empty() {
                true => to.clone(),
                false => to.join(rest),
            };
            if let Some(kept) = files.remove(&path) {
                files.insert(new, kept);
            }
        }
        Ok(())
    }

    fn touch(&self, path: &Path) -> Result<()> {
        if let Some(kept) = self.files().get_mut(&key(path)) {
            kept.modified = SystemTime::now();
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.files().remove(&key(path));
        Ok(())
    }

    fn exists(&self, path: &Path) -> bool {
        self.files().contains_key(&key(path))
    }

    fn metadata(&self, path: &Path) -> Option<Metadata> {
        let files = self.files();
        if let Some(kept) = files.get(&key(path)) {
            return Some(Metadata {
                is_file: true,
                is_folder: false,
                bytes: kept.bytes.len() as u64,
                modified: Some(kept.modified),
            });
        }
        is_folder(&files, &key(path)).then_some(Metadata {
            is_file: false,
            is_folder: true,
            bytes: 0,
            modified: None,
        })
    }

    fn entry(&self, path: &Path) -> Option<Entry> {
        let found = self.metadata(path)?;
        Some(match found.is_file {
            true => Entry::File,
            false => Entry::Other,
        })
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let (files, folder) = (self.files(), key(folder));
        let names = below(&files, &folder).filter_map(|path| {
            let name = path.strip_prefix(&folder).ok()?.iter().next()?;
            Some(name.to_string_lossy().into_owned())
        });
        let names: BTreeSet<String> = names.collect();
        Ok(names.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_there_as_long_as_something_is_in_them() {
        let store = InMemory::new();
        let path = Path::new("/run/a/one.json");
        assert_eq!(store.entry(path), None);
        store.write(path, b"one").unwrap();
        store.write(Path::new("/run/ab"), b"two").unwrap();
        assert_eq!(store.read(Path::new("/run/./a/one.json")).unwrap(), b"one");
        assert_eq!(store.list(Path::new("/run")).unwrap(), ["a", "ab"]);
        assert_eq!(store.list(Path::new("/run/a")).unwrap(), ["one.json"]);
        assert_eq!(store.entry(Path::new("/run/a")), Some(Entry::Other));
        assert!(store.write(Path::new("/run/a"), b"").is_err());
        store
            .give_name(Path::new("/run/a"), Path::new("/run/b"))
            .unwrap();
        assert_eq!(store.entry(Path::new("/run/a")), None);
        assert_eq!(store.read(Path::new("/run/b/one.json")).unwrap(), b"one");
        store.remove(Path::new("/run/b/one.json")).unwrap();
        assert_eq!(store.list(Path::new("/run")).unwrap(), ["ab"]);
    }

    #[test]
    fn a_file_has_one_author_and_none_if_something_does_not_hold() {
        let store = InMemory::new();
        let path = Path::new("/run/record.json");
        let no = || Err(MemoryError::damaged(path, "a blob is gone"));
        assert!(store.create_if(path, b"none", &no).is_err());
        assert!(store.paths().is_empty());
        assert!(store.create(path, b"one").unwrap());
        assert!(!store.create(path, b"two").unwrap());
        assert_eq!(store.read(path).unwrap(), b"one");
    }

    #[test]
    fn programs_that_know_no_storage_get_copies_and_bring_files_in() {
        let store = InMemory::new();
        let path = Path::new("/run/a.mp4");
        store.write(path, b"video").unwrap();
        let copy = store.local_copy(path).unwrap();
        let (place, folder) = (copy.path().to_owned(), copy.path().parent().unwrap());
        assert_eq!(std::fs::read(&place).unwrap(), b"video");
        assert_eq!(place.file_name(), path.file_name());
        let folder = folder.to_owned();
        drop(copy);
        assert!(!folder.exists());
        let draft = store.draft(Path::new("/run/b.mp4")).unwrap();
        let place = draft.path().to_owned();
        std::fs::write(&place, b"other").unwrap();
        store.bring_in(draft, Path::new("/run/c.mp4")).unwrap();
        assert_eq!(store.read(Path::new("/run/c.mp4")).unwrap(), b"other");
        assert!(!place.exists());
        assert!(store.local_copy(Path::new("/run/none")).is_err());
    }
}

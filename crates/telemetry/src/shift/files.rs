//! Where readers of journals find them.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The files of a run folder, for those who read its journals: it need not lie on a disk of this machine.
pub trait JournalFiles: Debug + Send + Sync {
    /// Names of the files in a folder; none if there is no folder.
    ///
    /// # Errors
    /// The folder cannot be listed.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// What is in a file after its first `offset` bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    fn read_from(&self, path: &Path, offset: u64) -> io::Result<Vec<u8>>;
}

/// Files of this machine.
#[derive(Debug, Clone, Copy)]
pub struct LocalFiles;

impl JournalFiles for LocalFiles {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let names = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            names => names?,
        };
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
        };
        names.map(name).collect()
    }

    fn read_from(&self, path: &Path, offset: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let mut bytes = Vec::new();
        if file.metadata()?.len() > offset {
            file.seek(SeekFrom::Start(offset))?;
            file.read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }
}

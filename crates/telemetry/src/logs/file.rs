//! A log file that stays small: when it is full it becomes number 1, number 1 becomes number 2, and
//! the last one is removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Files of one writer, the one it writes to included.
pub const FILES: u64 = 4;
/// Every log file ends like this.
const ENDING: &str = ".jsonl";

/// Writes whole lines to `FOLDER/NAME.jsonl`, with full ones as `NAME.1.jsonl` (the latest) to
/// `NAME.3.jsonl`.
#[derive(Debug)]
pub struct RotatingFile {
    folder: PathBuf,
    name: String,
    /// Bytes of one file, unless a single line is longer.
    limit: u64,
    file: File,
    size: u64,
}

impl RotatingFile {
    /// Creates the folder and the file; `max_bytes` is for all files of this writer together.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(folder: &Path, name: &str, max_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let file = open(&path(folder, name, 0))?;
        let size = file.metadata()?.len();
        Ok(Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            limit: (max_bytes / FILES).max(1),
            file,
            size,
        })
    }

    /// Writes a line, which has its line end.
    ///
    /// # Errors
    /// The file cannot be written, or not be put aside.
    pub fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.limit {
            self.rotate()?;
        }
        // In one call, so that a kill leaves no half of it.
        self.file.write_all(line)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = |number| path(&self.folder, &self.name, number);
        for number in (0..FILES - 1).rev() {
            match fs::rename(path(number), path(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = open(&path(0))?;
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn path(folder: &Path, name: &str, number: u64) -> PathBuf {
    let number = match number {
        0 => String::new(),
        number => format!(".{number}"),
    };
    folder.join(format!("{name}{number}{ENDING}"))
}

/// Removes the oldest log files in `folder` until the others have at most `max_bytes` together.
/// Files that were written within `grace` may have a writer and stay.
///
/// # Errors
/// The folder cannot be read.
pub fn prune(folder: &Path, max_bytes: u64, grace: Duration) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Others prune at the same time: a file that is gone is no error.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_file() && entry.file_name().to_string_lossy().ends_with(ENDING) {
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
    }
    files.sort();
    let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
    let now = SystemTime::now();
    for (modified, size, path) in files {
        let age = now.duration_since(modified).unwrap_or_default();
        if total > max_bytes && age >= grace && fs::remove_file(path).is_ok() {
            total -= size;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn however_much_is_written_little_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("logs");
        let mut file = RotatingFile::create(&logs, "w.rank-0", 400).unwrap();
        for number in 0..1000 {
            let line = format!("line {number:04}\n");
            file.write_line(line.as_bytes()).unwrap();
        }
        let wanted = ["w.rank-0.1", "w.rank-0.2", "w.rank-0.3", "w.rank-0"];
        assert_eq!(names(&logs), wanted.map(|name| format!("{name}.jsonl")));
        let text: String = ["w.rank-0.3", "w.rank-0.2", "w.rank-0.1", "w.rank-0"]
            .map(|name| fs::read_to_string(logs.join(format!("{name}.jsonl"))).unwrap())
            .concat();
        assert!(text.len() <= 400 && text.len() > 300, "{}", text.len());
        // The latest lines, whole, in order.
        let first = 1000 - text.lines().count();
        let lines: Vec<String> = (first..1000).map(|n| format!("line {n:04}")).collect();
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn a_line_longer_than_a_file_is_kept_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = RotatingFile::create(folder.path(), "w", 40).unwrap();
        let long = format!("{}\n", "x".repeat(100));
        for _ in 0..9 {
            file.write_line(long.as_bytes()).unwrap();
        }
        assert_eq!(names(folder.path()).len() as u64, FILES);
        let kept = fs::read_to_string(folder.path().join("w.jsonl")).unwrap();
        assert_eq!(kept, long);
    }

    #[test]
    fn the_oldest_files_go_first() {
        let folder = tempfile::tempdir().unwrap();
        for (age, name) in ["a.jsonl", "b.jsonl", "c.jsonl", "d.txt"]
            .iter()
            .enumerate()
        {
            let path = folder.path().join(name);
            fs::write(&path, [b'x'; 10]).unwrap();
            let modified = SystemTime::now() - Duration::from_secs(3600 * (9 - age as u64));
            let file = File::options().append(true).open(&path).unwrap();
            file.set_modified(modified).unwrap();
        }
        prune(folder.path(), 25, Duration::from_secs(10 * 3600)).unwrap();
        assert_eq!(names(folder.path()).len(), 4);
        prune(folder.path(), 25, Duration::from_secs(3600)).unwrap();
        assert_eq!(names(folder.path()), ["b.jsonl", "c.jsonl", "d.txt"]);
    }
}

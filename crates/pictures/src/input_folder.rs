//! Opening the files that a manifest names, with suspicion: it may have been written by somebody else.
//!
//! A manifest names files beside it or below it. Anything else is refused: absolute paths, `..`,
//! links that lead outside, what is not a plain file, URLs of any kind, and files beyond their bound.
//! Anyone who runs the program may [widen](InputFolder::within) the folder, the manifest cannot. Nothing is
//! fetched from a network, nothing waits for the other end of a pipe, and what is refused is not read.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// Why a file that an input names is not read. Each message fits after "cannot be used: ".
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// It is named by a URL.
    #[error("it is a URL; inputs are read from files only, so download it first")]
    Url,
    /// The path has backslashes in it, as Windows writes them.
    #[error("its path has a backslash; write folders with \"/\"")]
    Backslash,
    /// The path is absolute or has `..` in it.
    #[error("its path leaves the folder of the file that names it")]
    Path,
    /// A link on the way leads outside.
    #[error("a link in its path leads out of the folder of the file that names it")]
    Link,
    /// The path leads out of the folder that the settings name.
    #[error("it does not lie below inputs.folder = {0:?}")]
    Outside(PathBuf),
    /// The folder that the settings name cannot be found.
    #[error("inputs.folder = {folder:?} cannot be used: {error}")]
    Root {
        /// The folder.
        folder: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A folder, a pipe, a device.
    #[error("it is not a plain file")]
    NotAFile,
    /// It cannot be opened or read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The file has no byte.
    #[error("the file is empty")]
    Empty,
    /// It is to be a text, and is none.
    #[error("the file is no UTF-8 text")]
    Text,
    /// The file is too large.
    #[error("the file has {bytes} bytes, at most {most} are read")]
    Bytes {
        /// Size of the file, in bytes.
        bytes: u64,
        /// The bound.
        most: u64,
    },
}

/// The folder that the paths of an input count from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputFolder {
    folder: PathBuf,
    /// What all files must lie below, if it is not the folder itself.
    root: Option<PathBuf>,
}

impl InputFolder {
    /// Files in `folder` and below it. An empty path is the current folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            root: None,
        }
    }

    /// The same, with paths that may lead anywhere below `root`, if there is one: absolute ones, those
    /// with `..` and links as well.
    #[must_use]
    pub fn within(self, root: Option<PathBuf>) -> Self {
        Self { root, ..self }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        match self.folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => &self.folder,
        }
    }

    /// The file that `path` means, with all links followed.
    ///
    /// # Errors
    /// The path leads where no file may lie, or there is no such file.
    pub fn resolve(&self, path: &str) -> Result<PathBuf, FileProblem> {
        if is_url(path) {
            return Err(FileProblem::Url);
        }
        if path.contains('\0') {
            return Err(FileProblem::Path);
        }
        let folder = self.path().canonicalize()?;
        let found = || match folder.join(path).canonicalize() {
            Err(_) if path.contains('\\') => Err(FileProblem::Backslash),
            found => Ok(found?),
        };
        let Some(root) = &self.root else {
            let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
            if !Path::new(path).components().all(inside) {
                return Err(FileProblem::Path);
            }
            let file = found()?;
            return match file.starts_with(&folder) {
                true => Ok(file),
                false => Err(FileProblem::Link),
            };
        };
        let whole = root.canonicalize().map_err(|error| FileProblem::Root {
            folder: root.clone(),
            error,
        })?;
        let file = found()?;
        match file.starts_with(whole) {
            true => Ok(file),
            false => Err(FileProblem::Outside(root.clone())),
        }
    }

    /// The file that `path` means, if it is a plain one of 1 to `most` bytes. It is not opened.
    ///
    /// # Errors
    /// As [`read`](Self::read), as far as that can be told without opening the file.
    pub fn find(&self, path: &str, most: u64) -> Result<PathBuf, FileProblem> {
        let file = self.resolve(path)?;
        check(&file.metadata()?, most)?;
        Ok(file)
    }

    /// All bytes of the file that `path` means, 1 to `most` of them.
    ///
    /// # Errors
    /// Every reason not to read it.
    pub fn read(&self, path: &str, most: u64) -> Result<Vec<u8>, FileProblem> {
        let (file, _) = open(&self.resolve(path)?, most)?;
        bounded(file, most)
    }

    /// The file that `path` means, opened, and what the file system says of it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn open(&self, path: &str, most: u64) -> Result<(File, Metadata), FileProblem> {
        open(&self.resolve(path)?, most)
    }
}

impl From<PathBuf> for InputFolder {
    fn from(folder: PathBuf) -> Self {
        Self::new(folder)
    }
}

impl From<&Path> for InputFolder {
    fn from(folder: &Path) -> Self {
        Self::new(folder)
    }
}

impl From<&str> for InputFolder {
    fn from(folder: &str) -> Self {
        Self::new(folder)
    }
}

/// All bytes of a file that a user names on the command line or in the settings, which may lie anywhere,
/// and may be a pipe or a terminal: at most `most` of them.
///
/// # Errors
/// It cannot be read, or is larger.
pub fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>, FileProblem> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if bytes > most {
        return Err(FileProblem::Bytes { bytes, most });
    }
    bounded(file, most).or_else(|problem| match problem {
        FileProblem::Empty => Ok(Vec::new()),
        problem => Err(problem),
    })
}

/// As [`read_at_most`], for a text.
///
/// # Errors
/// As there, and for bytes that are no UTF-8 text.
pub fn text_at_most(path: &Path, most: u64) -> Result<String, FileProblem> {
    String::from_utf8(read_at_most(path, most)?).map_err(|_| FileProblem::Text)
}

/// Whether a file may be opened, by what the file system says of it.
fn check(metadata: &Metadata, most: u64) -> Result<(), FileProblem> {
    match metadata.len() {
        _ if !metadata.is_file() => Err(FileProblem::NotAFile),
        0 => Err(FileProblem::Empty),
        bytes if bytes > most => Err(FileProblem::Bytes { bytes, most }),
        _ => Ok(()),
    }
}

/// All of a file within the bounds: it may grow while it is read.
fn bounded(file: File, most: u64) -> Result<Vec<u8>, FileProblem> {
    let mut content = Vec::new();
    file.take(most.saturating_add(1))
        .read_to_end(&mut content)?;
    match content.len() as u64 {
        0 => Err(FileProblem::Empty),
        bytes if bytes > most => Err(FileProblem::Bytes { bytes, most }),
        _ => Ok(content),
    }
}

/// Opens without waiting for the other end of a pipe, and follows no link: there is none left in
/// the path, unless somebody has put it there since.
fn open(path: &Path, most: u64) -> Result<(File, Metadata), FileProblem> {
    // Opening a device may do something already.
    check(&path.metadata()?, most)?;
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let mut options = OpenOptions::new();
    let opened = options
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path);
    let file = opened.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP) => FileProblem::Link,
        _ => FileProblem::Io(error),
    })?;
    let metadata = file.metadata()?;
    check(&metadata, most)?;
    Ok((file, metadata))
}

/// Whether a text begins with a scheme, as `http://…` and `data:…` do, or with `//`.
fn is_url(path: &str) -> bool {
    let scheme = path.split_once(':').map(|(scheme, _)| scheme);
    let plain = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    };
    path.starts_with("//") || scheme.is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// `in/a.json` and a file beside the folder that nobody may see.
    fn folders() -> (tempfile::TempDir, InputFolder) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("in/sub")).unwrap();
        fs::write(root.path().join("in/a.json"), "inside").unwrap();
        fs::write(root.path().join("secret"), "the secret").unwrap();
        symlink("../secret", root.path().join("in/link")).unwrap();
        symlink("../a.json", root.path().join("in/sub/fine")).unwrap();
        let folder = InputFolder::new(root.path().join("in"));
        (root, folder)
    }

    #[track_caller]
    fn refused(folder: &InputFolder, path: &str, wanted: &str) {
        for said in [
            folder.read(path, 100).unwrap_err().to_string(),
            folder.find(path, 100).unwrap_err().to_string(),
        ] {
            assert!(said.contains(wanted), "{path}: {said}, not {wanted}");
            assert!(!said.contains("the secret"), "{said}");
        }
    }

    #[test]
    fn a_manifest_reads_only_plain_files_below_its_folder() {
        let (root, folder) = folders();
        assert_eq!(folder.read("a.json", 6).unwrap(), b"inside");
        assert_eq!(folder.read("./sub/fine", 6).unwrap(), b"inside");
        let absolute = root.path().join("in/a.json").display().to_string();
        for path in [
            "../secret",
            "sub/../a.json",
            "/etc/passwd",
            absolute.as_str(),
            "a\0b",
        ] {
            refused(&folder, path, "leaves the folder");
        }
        refused(&folder, "link", "a link in its path");
        refused(&folder, "sub", "not a plain file");
        refused(&folder, "file:a.json", "it is a URL");
        refused(&folder, "none", "No such file");
        symlink("/dev/zero", root.path().join("in/zero")).unwrap();
        refused(&folder, "zero", "a link in its path");
        fs::write(root.path().join("in/long"), [b'x'; 101]).unwrap();
        refused(&folder, "long", "101 bytes, at most 100");
    }

    #[test]
    fn the_operator_may_widen_the_folder() {
        let (root, folder) = folders();
        let folder = folder.within(Some(root.path().to_owned()));
        let absolute = root.path().join("secret").display().to_string();
        for path in ["../secret", "link", &absolute] {
            assert_eq!(folder.read(path, 100).unwrap(), b"the secret", "{path}");
        }
        assert_eq!(folder.read("a.json", 100).unwrap(), b"inside");
        refused(&folder, "/dev/zero", "does not lie below inputs.folder");
        refused(&folder, "../..", "does not lie below inputs.folder");
        let gone = InputFolder::new(root.path()).within(Some(root.path().join("gone")));
        refused(&gone, "secret", "gone\" cannot be used");
    }

    #[test]
    fn pipes_and_devices_are_refused_without_being_opened() {
        let (root, folder) = folders();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join("in/pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        refused(&folder, "pipe", "not a plain file");
        let devices = InputFolder::new("/dev");
        refused(&devices, "zero", "not a plain file");
    }

    #[test]
    fn what_the_user_names_may_be_endless_but_is_not_read_without_end() {
        let (root, _) = folders();
        let problem = read_at_most(Path::new("/dev/zero"), 1000).unwrap_err();
        assert!(matches!(problem, FileProblem::Bytes { most: 1000, .. }));
        let secret = root.path().join("secret");
        assert_eq!(read_at_most(&secret, 10).unwrap(), b"the secret");
        assert!(read_at_most(&secret, 9).is_err());
        assert_eq!(text_at_most(&secret, 10).unwrap(), "the secret");
        fs::write(&secret, "").unwrap();
        assert!(read_at_most(&secret, 9).unwrap().is_empty());
    }
}

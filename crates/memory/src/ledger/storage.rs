//! Durable files, built on a handful of file-system calls each of which tests can make fail.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{MemoryError, Result};

/// Durable files. A file under its final name is whole, or it is not there.
///
/// Whatever is said of a run folder goes through here, so that one may lie in a store of objects. What a
/// store must do is [`create_if`](Self::create_if) with one author and a [`list`](Self::list) that leaves
/// nothing out; what has a body here may be done better where there are folders and names.
pub trait Storage: Debug + Send + Sync {
    /// Reads a whole file.
    fn read(&self, path: &Path) -> Result<Vec<u8>>;

    /// Reads what is in a file after its first `offset` bytes; nothing where it has no more.
    fn read_from(&self, path: &Path, offset: u64) -> Result<Vec<u8>> {
        let bytes = self.read(path)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(bytes.get(offset..).unwrap_or_default().to_owned())
    }

    /// Writes a file durably: under a temporary name, synced, renamed, its folder synced.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()>;

    /// As [`Storage::write`], but never over a file that is there; tells whether it wrote.
    ///
    /// Of several writers exactly one succeeds, also over NFS.
    fn create(&self, path: &Path, bytes: &[u8]) -> Result<bool> {
        self.create_if(path, bytes, &|| Ok(()))
    }

    /// As [`Storage::create`], with a last look by `holds`: what it fails with ends the writing. The
    /// unfinished file is whole before that, so that any program that lists the folder afterwards sees either
    /// it or the file.
    fn create_if(&self, path: &Path, bytes: &[u8], holds: &dyn Fn() -> Result<()>) -> Result<bool>;

    /// As [`Storage::write`], but the name is durable only after [`Storage::sync_names`] of the
    /// folder, which several files can share.
    fn write_content(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.write(path, bytes)
    }

    /// As [`Storage::write`], but nothing is synced: for what can be made again. A reader finds all of
    /// the old file or all of the new one.
    fn write_unsynced(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.write(path, bytes)
    }

    /// The file at `path` for a program that knows no storage and needs a path of this machine. Nobody
    /// writes to it. Whether the file is there may only be found out by that program.
    fn local_copy(&self, path: &Path) -> Result<LocalFile> {
        let bytes = self.read(path)?;
        let copy = LocalFile::apart(path)?;
        fs::write(copy.path(), bytes)
            .map_err(|error| MemoryError::storage("write", copy.path(), error))?;
        Ok(copy)
    }

    /// A path of this machine at which a program that knows no storage may write what
    /// [`Storage::bring_in`] brings to `path`, or to another one in the same folder.
    fn draft(&self, path: &Path) -> Result<LocalFile> {
        LocalFile::apart(path)
    }

    /// Brings a finished [`draft`](Storage::draft) to `path`, durably.
    fn bring_in(&self, draft: LocalFile, path: &Path) -> Result<()> {
        self.write(path, &draft.read()?)
    }

    /// A folder of this machine for databases that belong to `path` and can be made again; `None` where
    /// the storage has none, so that somebody must name one.
    fn local_folder(&self, _path: &Path) -> Option<PathBuf> {
        None
    }

    /// Gives a file that is durable already, or a folder, another name, over whatever file has it; durable
    /// after [`Storage::sync_names`] of the folder.
    fn give_name(&self, from: &Path, to: &Path) -> Result<()>;

    /// Makes the names in a folder durable.
    fn sync_names(&self, _folder: &Path) -> Result<()> {
        Ok(())
    }

    /// Makes a file as young as if it were written now; one that is not there is fine.
    fn touch(&self, path: &Path) -> Result<()>;

    /// Removes a file; one that is not there is fine.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Whether the file is there.
    fn exists(&self, path: &Path) -> bool;

    /// What is known of the file or the folder at `path` without reading it; `None` where there is none.
    fn metadata(&self, path: &Path) -> Option<Metadata>;

    /// What has this name itself, where it is a link; `None` where nothing has it.
    fn entry(&self, path: &Path) -> Option<Entry>;

    /// Whether anything has this name, also what is neither a file nor a folder.
    fn is_taken(&self, path: &Path) -> bool {
        self.entry(path).is_some()
    }

    /// Names of the files and folders in a folder, in order; none if there is no folder.
    ///
    /// Every name is in it that was there before the call and stays: leases find the newest of theirs by
    /// it. Of what comes or goes meanwhile it may have anything.
    fn list(&self, folder: &Path) -> Result<Vec<String>>;
}

/// What has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A file that can be read.
    File,
    /// Anything else: a folder, a link, a pipe.
    Other,
}

/// A file of this machine's own file system that stands for one of a [`Storage`]. If it was made for that,
/// it goes when this is dropped.
#[derive(Debug)]
pub struct LocalFile {
    path: PathBuf,
    /// What is removed with it: the file, and the folder that holds nothing else.
    temporary: Option<Temporary>,
}

/// What goes with a [`LocalFile`].
#[derive(Debug)]
enum Temporary {
    File,
    Folder(PathBuf),
}

impl LocalFile {
    /// A file that is there for its own sake.
    fn lasting(path: PathBuf) -> Self {
        let temporary = None;
        Self { path, temporary }
    }

    /// A file that is to be made here.
    fn unfinished(path: PathBuf) -> Self {
        let temporary = Some(Temporary::File);
        Self { path, temporary }
    }

    /// A file that is to be made in a new folder, where nobody else on this machine may look, and that has
    /// the name of `path`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn apart(path: &Path) -> Result<Self> {
        let folder = temporary_name(&std::env::temp_dir().join("storyloom"));
        let made = fs::DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| MemoryError::storage("create the folder", &folder, error))?;
        Ok(Self {
            path: folder.join(path.file_name().unwrap_or_default()),
            temporary: Some(Temporary::Folder(folder)),
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self) -> Result<Vec<u8>> {
        read_plain(&self.path, 0).map_err(|error| MemoryError::storage("read", &self.path, error))
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        // Best effort: what is left is never mistaken for a finished file.
        match &self.temporary {
            None => {}
            Some(Temporary::File) => drop(fs::remove_file(&self.path)),
            Some(Temporary::Folder(folder)) => drop(fs::remove_dir_all(folder)),
        }
    }
}

/// What is known of a file or a folder without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Whether it is a file that can be read.
    pub is_file: bool,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// Size of a file in bytes.
    pub bytes: u64,
    /// When it was written last, where the storage knows.
    pub modified: Option<SystemTime>,
}

/// The calls that change a file system.
pub trait Calls: Debug + Send + Sync {
    /// Makes one folder, whose parent is there.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Writes a new file.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file's content durable.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder's names durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name, over whatever has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name, unless something has it.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
}

/// The real file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct Disk;

/// Start of the name of every unfinished file.
pub const UNFINISHED: &str = ".unfinished.";

/// A name beside `path` that no other writer uses. Its start marks it as unfinished.
pub fn temporary_name(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    // Programs on other machines may have the same process id.
    let moment = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    path.with_file_name(format!(
        "{UNFINISHED}{}.{moment}.{number}.{name}",
        std::process::id()
    ))
}

/// Gives what stands at `path`, whatever it is, another name beside it that ends in `damaged-N`; says
/// which. Durable after [`Storage::sync_names`].
///
/// # Errors
/// It cannot be renamed.
pub fn move_aside(storage: &dyn Storage, path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let names = (1_u32..).map(|number| path.with_file_name(format!("{name}.damaged-{number}")));
    let is_free = |path: &PathBuf| !storage.is_taken(path);
    // There is an end to the names that are taken.
    let aside = names.into_iter().find(is_free).unwrap_or_default();
    storage.give_name(path, &aside)?;
    Ok(aside)
}

/// Moves what stands where a file belongs aside, if it is no file: a folder, a link, a pipe.
///
/// # Errors
/// As [`move_aside`].
pub fn make_way(storage: &dyn Storage, path: &Path) -> Result<()> {
    if storage.entry(path) == Some(Entry::Other) {
        let aside = move_aside(storage, path)?;
        tracing::warn!(path = %path.display(), aside = %aside.display(), "no file stood in its place");
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// The error of a file system that has neither hard links nor the rename that does not replace; that of
/// the link where something else was the matter.
fn neither(link: io::Error, rename: io::Error) -> io::Error {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    let unknown =
        |error: &io::Error| matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported);
    if !unknown(&link) || !unknown(&rename) {
        return link;
    }
    let reason = format!(
        "this storage has neither hard links ({link}) nor a rename that replaces nothing ({rename})"
    );
    io::Error::new(link.kind(), reason)
}

impl Calls for Disk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.flush()
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match fs::hard_link(from, to) {
            Ok(()) => fs::remove_file(from),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            // A file system without hard links may know the rename that does not replace.
            Err(error) => {
                renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(|errno| {
                    match io::Error::from(errno).kind() {
                        io::ErrorKind::AlreadyExists => errno.into(),
                        _ => neither(error, errno.into()),
                    }
                })
            }
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

impl<C: Calls> Storage for C {
    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        read_plain(path, 0).map_err(|error| MemoryError::storage("read", path, error))
    }

    fn read_from(&self, path: &Path, offset: u64) -> Result<Vec<u8>> {
        read_plain(path, offset).map_err(|error| MemoryError::storage("read", path, error))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        with_temporary(self, path, bytes, |temporary| {
            publish(self, temporary, path)
        })
    }

    fn create_if(&self, path: &Path, bytes: &[u8], holds: &dyn Fn() -> Result<()>) -> Result<bool> {
        if self.exists(path) {
            return Ok(false);
        }
        with_temporary(self, path, bytes, |temporary| {
            sync(self, temporary)?;
            holds()?;
            match self.rename_new(temporary, path) {
                Ok(()) => sync_folder(self, folder_of(path)).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    remove(self, temporary)?;
                    Ok(false)
                }
                Err(error) => Err(MemoryError::storage("rename", path, error)),
            }
        })
    }

    fn write_content(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        with_temporary(self, path, bytes, |temporary| {
            sync(self, temporary)?;
            self.give_name(temporary, path)
        })
    }

    fn write_unsynced(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        make_folders(self, folder_of(path), &|_| Ok(()))?;
        let temporary = temporary_name(path);
        let written = self.write_new(&temporary, bytes);
        let written = written.and_then(|()| self.rename(&temporary, path));
        if written.is_err() {
            // Best effort: an unfinished file is never mistaken for a finished one.
            let _ = self.remove_file(&temporary);
        }
        written.map_err(|error| MemoryError::storage("write", path, error))
    }

    /// The file itself.
    fn local_copy(&self, path: &Path) -> Result<LocalFile> {
        Ok(LocalFile::lasting(path.to_owned()))
    }

    /// In the same folder, so that it only needs another name.
    fn draft(&self, path: &Path) -> Result<LocalFile> {
        create_folders(self, folder_of(path))?;
        Ok(LocalFile::unfinished(temporary_name(path)))
    }

    fn bring_in(&self, draft: LocalFile, path: &Path) -> Result<()> {
        publish(self, draft.path(), path)
    }

    fn local_folder(&self, path: &Path) -> Option<PathBuf> {
        Some(path.to_owned())
    }

    fn touch(&self, path: &Path) -> Result<()> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(MemoryError::storage("open", path, error)),
        };
        let now = rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        let times = rustix::fs::Timestamps {
            last_access: now,
            last_modification: now,
        };
        rustix::fs::futimens(&file, &times)
            .map_err(|errno| MemoryError::storage("touch", path, errno.into()))
    }

    fn give_name(&self, from: &Path, to: &Path) -> Result<()> {
        create_folders(self, folder_of(to))?;
        self.rename(from, to)
            .map_err(|error| MemoryError::storage("rename", to, error))
    }

    fn sync_names(&self, folder: &Path) -> Result<()> {
        sync_folder(self, folder)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        remove(self, path)
    }

    fn exists(&self, path: &Path) -> bool {
        path.is_file()
    }

    fn metadata(&self, path: &Path) -> Option<Metadata> {
        let found = fs::metadata(path).ok()?;
        Some(Metadata {
            is_file: found.is_file(),
            is_folder: found.is_dir(),
            bytes: found.len(),
            modified: found.modified().ok(),
        })
    }

    fn entry(&self, path: &Path) -> Option<Entry> {
        let found = path.symlink_metadata().ok()?;
        Some(match found.is_file() {
            true => Entry::File,
            false => Entry::Other,
        })
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let failed = |error| MemoryError::storage("list", folder, error);
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into());
        }
        names.sort();
        Ok(names)
    }
}

/// Reads a file, all but its first `offset` bytes. What else may have its name is not waited for: a pipe nobody writes into would keep its
/// reader for ever.
fn read_plain(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut options = File::options();
    let mut file = options.read(true).custom_flags(nonblocking).open(path)?;
    let found = file.metadata()?;
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !found.is_file() {
        let reason = "no plain file stands in its place";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let length = found.len().saturating_sub(offset);
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    if offset > 0 {
        file.seek(SeekFrom::Start(offset))?;
    }
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn with_temporary<C: Calls, T>(
    calls: &C,
    path: &Path,
    bytes: &[u8],
    finish: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    create_folders(calls, folder_of(path))?;
    let temporary = temporary_name(path);
    let written = calls
        .write_new(&temporary, bytes)
        .map_err(|error| MemoryError::storage("write", path, error))
        .and_then(|()| finish(&temporary));
    if written.is_err() {
        // Best effort: an unfinished file is never mistaken for a finished one.
        let _ = calls.remove_file(&temporary);
    }
    written
}

/// Gives a finished temporary file its final name, durably.
fn publish<C: Calls>(calls: &C, temporary: &Path, path: &Path) -> Result<()> {
    sync(calls, temporary)?;
    calls.give_name(temporary, path)?;
    sync_folder(calls, folder_of(path))
}

/// Makes a folder and its parents; a new name is durable once its parent is synced.
fn create_folders<C: Calls>(calls: &C, folder: &Path) -> Result<()> {
    make_folders(calls, folder, &|parent| sync_folder(calls, parent))
}

/// Makes a folder and its parents; `sync` is told of each folder that has got a new name.
fn make_folders<C: Calls>(
    calls: &C,
    folder: &Path,
    sync: &dyn Fn(&Path) -> Result<()>,
) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder_of(folder);
    make_folders(calls, parent, sync)?;
    calls
        .create_folder(folder)
        .map_err(|error| MemoryError::storage("create the folder", folder, error))?;
    sync(parent)
}

fn sync<C: Calls>(calls: &C, path: &Path) -> Result<()> {
    calls
        .sync(path)
        .map_err(|error| MemoryError::storage("sync", path, error))
}

fn sync_folder<C: Calls>(calls: &C, folder: &Path) -> Result<()> {
    calls
        .sync_folder(folder)
        .map_err(|error| MemoryError::storage("sync the folder", folder, error))
}

fn remove<C: Calls>(calls: &C, path: &Path) -> Result<()> {
    match calls.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(MemoryError::storage("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// How a [`FaultyDisk`] fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One call is refused with this error; all others work.
    Refuse(io::ErrorKind),
    /// The machine dies inside a call: what it writes is cut in half, and nothing works after it.
    Die,
}

/// The real file system, but the n-th changing call fails; for tests of what survives.
#[derive(Debug)]
pub struct FaultyDisk {
    fault: Fault,
    at: u64,
    calls: AtomicU64,
}

impl FaultyDisk {
    /// Fails at the call after `successes` successful ones.
    pub fn after(successes: u64, fault: Fault) -> Self {
        Self {
            fault,
            at: successes,
            calls: AtomicU64::new(0),
        }
    }

    /// Changing calls asked for so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// `true` if this very call is the one that fails.
    fn count(&self) -> io::Result<bool> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::Die if number > self.at => Err(io::Error::other("the machine is off")),
            _ => Ok(number == self.at),
        }
    }

    fn call(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.count()? {
            return Err(self.error());
        }
        work()
    }

    fn error(&self) -> io::Error {
        match self.fault {
            Fault::Refuse(kind) => kind.into(),
            Fault::Die => io::Error::other("the machine went off"),
        }
    }
}

impl Calls for FaultyDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.call(|| Disk.create_folder(path))
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.count()? {
            Disk.write_new(path, &bytes[..bytes.len() / 2])?;
            return Err(self.error());
        }
        Disk.write_new(path, bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.call(|| Disk.sync(path))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.call(|| Disk.sync_folder(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(|| Disk.rename(from, to))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(|| Disk.rename_new(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(|| Disk.remove_file(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_system_lacks_is_named() {
        use io::ErrorKind::{InvalidInput, NotFound, PermissionDenied};
        let both = neither(PermissionDenied.into(), InvalidInput.into());
        assert_eq!(both.kind(), PermissionDenied);
        let said = both.to_string();
        assert!(
            said.contains("neither hard links") && said.contains("replaces nothing"),
            "{said}"
        );
        let gone = neither(NotFound.into(), NotFound.into());
        assert_eq!(gone.kind(), NotFound);
    }

    #[test]
    fn a_written_file_is_whole_and_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/file.bin");
        Disk.write(&path, b"one").unwrap();
        Disk.write(&path, b"two").unwrap();
        assert_eq!(Disk.read(&path).unwrap(), b"two");
        assert_eq!(
            Disk.list(path.parent().unwrap()).unwrap(),
            ["file.bin".to_owned()]
        );
        Disk.remove(&path).unwrap();
        Disk.remove(&path).unwrap();
        assert!(!Disk.exists(&path));
        assert!(Disk.list(&folder.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn of_many_creators_exactly_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one/file");
        let winners: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    let path = &path;
                    scope.spawn(move || Disk.create(path, &[n as u8]).unwrap().then_some(n))
                })
                .collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(winners.len(), 1);
        assert_eq!(Disk.read(&path).unwrap(), [winners[0] as u8]);
        assert_eq!(Disk.list(path.parent().unwrap()).unwrap().len(), 1);
    }

    #[test]
    fn errors_name_the_path_and_their_class() {
        let error = Disk.read(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"));
        let folder = tempfile::tempdir().unwrap();
        let full = Fault::Refuse(io::ErrorKind::StorageFull);
        let failing = FaultyDisk::after(0, full);
        let error = failing.write(&folder.path().join("b"), b"").unwrap_err();
        assert_eq!(error.class(), storyloom_story::ErrorClass::Run);
        assert!(!failing.exists(&folder.path().join("b")));
    }

    /// Whatever call fails, a name never shows half a file.
    #[test]
    fn every_call_may_fail() {
        for exclusive in [false, true] {
            let attempt = |calls: &FaultyDisk, path: &Path| match exclusive {
                false => calls.write(path, b"new content").map(|()| true),
                true => calls.create(path, b"new content"),
            };
            for at in 0.. {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("a/b/file");
                let disk = FaultyDisk::after(at, Fault::Die);
                let result = attempt(&disk, &path);
                if Disk.exists(&path) {
                    assert_eq!(Disk.read(&path).unwrap(), b"new content");
                } else {
                    assert!(result.is_err());
                }
                if disk.calls() <= at {
                    assert!(result.unwrap());
                    break;
                }
                // Afterwards it can be done again.
                Disk.write(&path, b"newer content").unwrap();
                assert_eq!(Disk.read(&path).unwrap(), b"newer content");
            }
        }
    }
}

//! A file that is not on any disk.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

/// A file with these bytes; the next call writes over it.
pub fn of(bytes: &[u8]) -> PathBuf {
    static FILE: OnceLock<Mutex<File>> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let file = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::empty());
        Mutex::new(File::from(file.expect("there is memory")))
    });
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    let written = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| file.write_all(bytes));
    written.expect("there is memory");
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

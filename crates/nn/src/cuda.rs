//! The CUDA part of libtorch, opened when the program runs.
//!
//! The program is linked with the part for the CPU alone, so that it starts on any machine.
//! Opening `libtorch_cuda.so` beside that part registers everything that runs on GPUs. This must
//! happen before libtorch is first asked whether there is a GPU: it remembers the answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
pub use storyloom_kernels::gpu_uuid;
use storyloom_kernels::{driver_is_available, nvrtc_is_available, use_nvrtc_folder};
use tch::Device;

/// Why the CUDA part of libtorch is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// This program has no libtorch at hand whose folder could be looked into.
    #[error("no libtorch_cpu.so is loaded, so that its CUDA part cannot be looked for")]
    NoLibtorch,
    /// The library is absent, or something that it needs is.
    #[error("{path}: {reason}", path = path.display())]
    Library {
        /// The file that was tried.
        path: PathBuf,
        /// What the loader said, or what to do.
        reason: String,
    },
    /// The CUDA part is open, but does not get on with the driver.
    #[error("{path} finds no GPU that it can use; its driver may be too old", path = path.display())]
    Unusable {
        /// The library.
        path: PathBuf,
    },
}

/// The folder of the libtorch that this very process has loaded.
pub fn libtorch_folder() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    folder_in(&maps)
}

fn folder_in(maps: &str) -> Option<PathBuf> {
    let line = maps
        .lines()
        .find(|line| line.ends_with("/libtorch_cpu.so"))?;
    let path = &line[line.find('/')?..];
    Path::new(path).parent().map(Path::to_owned)
}

/// Opens `libtorch_cuda.so` in `folder`, for the rest of the program.
///
/// What it needs in turn (cuBLAS, cuDNN and others) is found beside it, as the wheels unpack it,
/// or by the loader of the system.
///
/// # Errors
/// The file is not there, or something that it needs is not.
pub fn open_cuda(folder: &Path) -> Result<PathBuf, CudaError> {
    let path = folder.join("libtorch_cuda.so");
    let wrong = |reason: String| CudaError::Library {
        path: path.clone(),
        reason,
    };
    if !path.exists() {
        let reason = "is not there; unpack the torch wheel together with all that it depends on";
        return Err(wrong(reason.to_owned()));
    }
    // SAFETY: the initialisers of this library register operators with the libtorch that is
    // loaded already; they have no other demands on the caller. Its symbols must be visible to the
    // libraries that it opens itself later.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|error| wrong(error.to_string()))?;
    // For good: libtorch keeps pointers into it.
    std::mem::forget(library);
    Ok(path)
}

/// Opens the CUDA part beside the loaded libtorch, once; every later call gets the same answer.
///
/// # Errors
/// As [`open_cuda`].
pub fn open() -> Result<&'static Path, &'static CudaError> {
    static OPENED: OnceLock<Result<PathBuf, CudaError>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| {
        let folder = libtorch_folder().ok_or(CudaError::NoLibtorch)?;
        open_cuda(&folder)
    });
    opened.as_deref()
}

/// How many GPUs libtorch can use. Its CUDA part is only opened where the driver shows one, since
/// that takes seconds and gigabytes of address space.
///
/// # Errors
/// There is a GPU, but the CUDA part of libtorch cannot be opened or cannot use it.
pub fn devices() -> Result<usize, CudaError> {
    if !driver_is_available() {
        return Ok(0);
    }
    let path = open().map_err(Clone::clone)?;
    let count = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    if count == 0 || !tch::Cuda::is_available() {
        let path = path.to_owned();
        return Err(CudaError::Unusable { path });
    }
    Ok(count)
}

/// Looks for NVRTC where the wheels and the archives of libtorch have it, unless the loader finds
/// it anyway. Whether there is one now.
pub fn find_nvrtc() -> bool {
    if nvrtc_is_available() {
        return true;
    }
    let Some(folder) = libtorch_folder() else {
        return false;
    };
    let places = [folder.join("../../nvidia/cu13/lib"), folder];
    places.iter().any(|place| {
        use_nvrtc_folder(place)
            .inspect_err(|error| tracing::debug!("{error}"))
            .is_ok()
    })
}

/// Waits until `device` has done all that it was given; the CPU always has.
pub fn synchronize(device: Device) {
    if let Device::Cuda(ordinal) = device
        && let Ok(ordinal) = i64::try_from(ordinal)
    {
        tch::Cuda::synchronize(ordinal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_that_of_the_loaded_library() {
        let maps = "7f00-7f01 r-xp 00000000 fe:00 123    /usr/lib/libc.so.6\n\
                    7f02-7f03 r--p 00000000 fe:00 124    /opt/my torch/lib/libtorch_cpu.so\n";
        assert_eq!(folder_in(maps), Some(PathBuf::from("/opt/my torch/lib")));
        assert_eq!(folder_in(""), None);
        assert!(libtorch_folder().is_some_and(|folder| folder.join("libc10.so").exists()));
    }

    #[test]
    fn an_absent_library_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let error = open_cuda(folder.path()).unwrap_err().to_string();
        let path = folder.path().join("libtorch_cuda.so");
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert!(error.contains("is not there"), "{error}");
        std::fs::write(&path, "no library").unwrap();
        let error = open_cuda(folder.path()).unwrap_err();
        let CudaError::Library { path: tried, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(tried, path);
    }
}

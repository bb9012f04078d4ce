//! The two libraries that are looked for when the program runs: NVRTC and the driver.

use std::ffi::c_void;
use std::fs;
use std::path::{Path, PathBuf};

use cudarc::driver::CudaContext;
use libloading::{Library, Symbol};

use crate::error::{KernelError, Result};

/// Whether NVRTC can be loaded. Needs no driver, and never panics.
///
/// It is found by the loader of the system, or in the folder given to [`use_nvrtc_folder`].
pub fn nvrtc_is_available() -> bool {
    // SAFETY: this loads a library by the names that NVIDIA gives to NVRTC, whose initialisers
    // have no demands on the caller.
    unsafe { cudarc::nvrtc::sys::is_culib_present() }
}

/// Whether there is a driver, and at least one device. Never panics.
pub fn driver_is_available() -> bool {
    // SAFETY: this loads a library by the names that NVIDIA gives to the driver, whose
    // initialisers have no demands on the caller.
    let present = unsafe { cudarc::driver::sys::is_culib_present() };
    present && CudaContext::device_count().is_ok_and(|count| count > 0)
}

/// Takes NVRTC out of `folder`, which holds `libnvrtc.so*` and `libnvrtc-builtins.so*`, for
/// instance `nvidia/cu13/lib` of its Python wheel. To be called before the first kernel is
/// compiled; the libraries stay loaded until the program ends.
///
/// # Errors
/// The folder lacks one of the two or they cannot be loaded, or another NVRTC comes first: a
/// `libnvrtc.so` without a version in the search path of the loader, or one that is in use.
pub fn use_nvrtc_folder(folder: &Path) -> Result<()> {
    // The names that NVRTC asks for its builtins by, and cudarc for NVRTC, hold no folder. The
    // loader knows a library that is already loaded by the name inside it.
    let builtins = load(&find(folder, "libnvrtc-builtins.so")?)?;
    let path = find(folder, "libnvrtc.so")?;
    let nvrtc = load(&path)?;
    let wrong = |reason: &str| KernelError::Library {
        path: path.clone(),
        reason: reason.to_owned(),
    };
    let ours = address(&nvrtc).ok_or_else(|| wrong("is no NVRTC"))?;
    // For good: cudarc keeps pointers to the functions.
    std::mem::forget((builtins, nvrtc));
    if !nvrtc_is_available() {
        return Err(wrong("has a name that is not looked for"));
    }
    // SAFETY: as in `nvrtc_is_available`, which has just found the library.
    let used = address(unsafe { cudarc::nvrtc::sys::culib() });
    if used != Some(ours) {
        return Err(wrong("another NVRTC is found before this one"));
    }
    Ok(())
}

/// Where NVRTC's `nvrtcVersion` lies, which tells two copies of the library apart.
fn address(library: &Library) -> Option<usize> {
    // SAFETY: the symbol is never called, so that its type does not matter.
    let symbol: Symbol<*const c_void> = unsafe { library.get(b"nvrtcVersion\0") }.ok()?;
    Some(symbol.addr())
}

/// The first file of `folder`, by name, that begins with `name`.
fn find(folder: &Path, name: &str) -> Result<PathBuf> {
    let wrong = |reason: String| KernelError::Library {
        path: folder.to_owned(),
        reason,
    };
    let entries = fs::read_dir(folder).map_err(|error| wrong(error.to_string()))?;
    let begins = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default();
        file.as_encoded_bytes().starts_with(name.as_bytes())
    };
    let found = entries.flatten().map(|entry| entry.path()).filter(begins);
    // The loader takes a path only with a folder in it, and a relative one may have none.
    let found = found.min().and_then(|path| fs::canonicalize(path).ok());
    found.ok_or_else(|| wrong(format!("holds no {name}*")))
}

fn load(path: &Path) -> Result<Library> {
    // SAFETY: the initialisers of NVIDIA's libraries have no demands on the caller. Other libraries
    // under these names are as much in the hands of who sets up the machine as those that the
    // loader finds by itself.
    unsafe { Library::new(path) }.map_err(|error| KernelError::Library {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

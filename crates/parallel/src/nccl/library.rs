//! NCCL itself, loaded when the program runs.
//!
//! The types are those of cudarc. Its functions are not used: they look for `libnccl.so` and never
//! for `libnccl.so.2`, which is the only name that the library has in its wheel and inside itself,
//! and they panic where it is missing.

use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use cudarc::nccl::sys::{
    cudaStream_t, ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId,
};

use crate::element::{Dtype, Reduction};

/// What NCCL returns. A plain number, since other versions know other values.
pub(super) type Code = c_int;
const SUCCESS: Code = 0;
const IN_PROGRESS: Code = 7;

/// Whether NCCL still works on what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    UnderWay,
}

macro_rules! functions {
    ($($name:ident = $symbol:literal: ($($argument:ty),*) -> $result:ty;)*) => {
        /// The functions of NCCL that are used here.
        #[derive(Debug)]
        pub(super) struct Nccl {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Nccl {
            fn of(library: &libloading::Library) -> Result<Self, String> {
                Ok(Self {
                    $($name: {
                        type Function = unsafe extern "C" fn($($argument),*) -> $result;
                        // SAFETY: the type is that of NCCL's header, in all versions since 2.14.
                        let symbol = unsafe { library.get::<Function>($symbol.as_bytes()) };
                        *symbol.map_err(reason)?
                    },)*
                })
            }
        }
    };
}

functions! {
    get_version = "ncclGetVersion": (*mut c_int) -> Code;
    get_unique_id = "ncclGetUniqueId": (*mut ncclUniqueId) -> Code;
    get_error_string = "ncclGetErrorString": (Code) -> *const c_char;
    get_last_error = "ncclGetLastError": (ncclComm_t) -> *const c_char;
    init_rank_config = "ncclCommInitRankConfig":
        (*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> Code;
    get_async_error = "ncclCommGetAsyncError": (ncclComm_t, *mut Code) -> Code;
    finalize = "ncclCommFinalize": (ncclComm_t) -> Code;
    destroy = "ncclCommDestroy": (ncclComm_t) -> Code;
    abort = "ncclCommAbort": (ncclComm_t) -> Code;
    group_start = "ncclGroupStart": () -> Code;
    group_end = "ncclGroupEnd": () -> Code;
    all_reduce = "ncclAllReduce": (*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t,
        ncclComm_t, cudaStream_t) -> Code;
    all_gather = "ncclAllGather":
        (*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, cudaStream_t) -> Code;
    reduce_scatter = "ncclReduceScatter": (*const c_void, *mut c_void, usize, ncclDataType_t,
        ncclRedOp_t, ncclComm_t, cudaStream_t) -> Code;
    broadcast = "ncclBroadcast": (*const c_void, *mut c_void, usize, ncclDataType_t, c_int,
        ncclComm_t, cudaStream_t) -> Code;
    send = "ncclSend":
        (*const c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> Code;
    recv = "ncclRecv": (*mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t) -> Code;
}

static LOADED: OnceLock<Nccl> = OnceLock::new();

/// The names to look for. A library that is loaded already, for instance by libtorch, is found by
/// the first, so that the process holds one NCCL.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

impl Nccl {
    /// The NCCL of this process.
    pub(super) fn get() -> Result<&'static Self, String> {
        if let Some(loaded) = LOADED.get() {
            return Ok(loaded);
        }
        let mut reasons = Vec::new();
        for name in NAMES {
            match open(Path::new(name)) {
                Ok(found) => return Ok(LOADED.get_or_init(|| found)),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(format!("NCCL cannot be loaded: {}", reasons.join("; ")))
    }

    /// Takes NCCL from a file.
    pub(super) fn take(path: &Path) -> Result<(), String> {
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        // The loader takes a path only with a folder in it, and a relative one may have none.
        let whole = fs::canonicalize(path).map_err(|error| wrong(error.to_string()))?;
        let ours = open(&whole).map_err(wrong)?;
        // The loader knows what is loaded by the name inside it and gives the first.
        if let Ok(first) = open(Path::new(NAMES[0]))
            && !first.is(&ours)
        {
            let reason = "another NCCL is loaded already or found before this one";
            return Err(wrong(reason.to_owned()));
        }
        let address = ours.address();
        if LOADED.get_or_init(|| ours).address() != address {
            return Err(wrong("another NCCL is in use".to_owned()));
        }
        Ok(())
    }

    fn address(&self) -> usize {
        self.get_version as usize
    }

    /// Tells two copies of the library apart.
    fn is(&self, other: &Self) -> bool {
        self.address() == other.address()
    }

    /// Ten thousands major, hundreds minor: 22809 is 2.28.9.
    pub(super) fn version(&self) -> Result<i32, String> {
        let mut version = 0;
        // SAFETY: a place for the answer.
        let code = unsafe { (self.get_version)(&mut version) };
        self.check("ncclGetVersion", code)?;
        Ok(version)
    }

    pub(super) fn unique_id(&self) -> Result<ncclUniqueId, String> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: a place for the answer.
        let code = unsafe { (self.get_unique_id)(&mut id) };
        self.check("ncclGetUniqueId", code)?;
        Ok(id)
    }

    /// What a call came to.
    pub(super) fn check(&self, name: &str, code: Code) -> Result<Progress, String> {
        match code {
            SUCCESS => Ok(Progress::Done),
            IN_PROGRESS => Ok(Progress::UnderWay),
            _ => {
                // SAFETY: any number is fine.
                let what = text(unsafe { (self.get_error_string)(code) });
                // SAFETY: the communicator may be null, and is not looked at.
                let last = text(unsafe { (self.get_last_error)(std::ptr::null_mut()) });
                let last = last.trim();
                Err(if last.is_empty() {
                    format!("{name}: {what}")
                } else {
                    format!("{name}: {what}: {last}")
                })
            }
        }
    }
}

fn open(path: &Path) -> Result<Nccl, String> {
    // SAFETY: NCCL's initialisers have no demands on the caller. Other libraries under its name are
    // as much in the hands of who sets up the machine as those that the loader finds by itself.
    let library = unsafe { libloading::Library::new(path) }.map_err(reason)?;
    let found = Nccl::of(&library)?;
    // For good: the functions are called as long as the program lives.
    std::mem::forget(library);
    Ok(found)
}

/// What the loader says, which the error itself leaves to its source.
fn reason(error: libloading::Error) -> String {
    error
        .source()
        .map_or(error.to_string(), ToString::to_string)
}

/// A string of NCCL's; null is none.
fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: NCCL returns constants, or a buffer of its own that ends with a null byte.
    let string = unsafe { CStr::from_ptr(string) };
    string.to_string_lossy().into_owned()
}

/// A configuration with which no call blocks: NCCL says that it is still at it, and a communicator
/// can be given up at any time.
pub(super) fn config() -> ncclConfig_t {
    // As the macros of NCCL's header: "undefined" takes the default.
    const UNDEFINED: c_int = c_int::MIN;
    const MAGIC: c_uint = 0xcafe_beef;
    /// Of the header that cudarc's types are made from.
    const VERSION: c_uint = 22_803;
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: MAGIC,
        version: VERSION,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: std::ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: std::ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
    }
}

pub(super) fn datatype(dtype: Dtype) -> ncclDataType_t {
    match dtype {
        Dtype::F32 => ncclDataType_t::ncclFloat32,
        Dtype::Bf16 => ncclDataType_t::ncclBfloat16,
        Dtype::I64 => ncclDataType_t::ncclInt64,
        Dtype::Bytes => ncclDataType_t::ncclUint8,
    }
}

pub(super) fn operation(reduction: Reduction) -> ncclRedOp_t {
    match reduction {
        Reduction::Sum => ncclRedOp_t::ncclSum,
        Reduction::Max => ncclRedOp_t::ncclMax,
        Reduction::Min => ncclRedOp_t::ncclMin,
    }
}

/// A communicator's handle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comm(pub(super) ncclComm_t);

// SAFETY: NCCL lets any thread use a communicator, one at a time; it is kept in a mutex.
unsafe impl Send for Comm {}

#[cfg(test)]
mod tests {
    use super::*;

    /// NCCL from the folder in `NCCL_FOLDER`, or else the reason why not.
    fn from_folder() -> Result<&'static Nccl, String> {
        let folder = std::env::var_os("NCCL_FOLDER").ok_or("NCCL_FOLDER is not set")?;
        super::super::use_library(&Path::new(&folder).join("libnccl.so.2")).unwrap();
        Ok(Nccl::get().unwrap())
    }

    #[test]
    fn other_files_are_no_nccl() {
        let missing = Nccl::take(Path::new("no/such/libnccl.so.2")).unwrap_err();
        assert!(missing.starts_with("no/such/libnccl.so.2: "), "{missing}");
        let program = std::env::current_exe().unwrap();
        assert!(Nccl::take(&program).is_err());
    }

    #[test]
    fn loads_from_a_folder() {
        let nccl = match from_folder() {
            Ok(nccl) => nccl,
            Err(reason) => return eprintln!("skipped: {reason}"),
        };
        let version = nccl.version().unwrap();
        assert_eq!(version / 100, 228, "{version}");
        // Again, and through another name of the same file.
        assert_eq!(from_folder().unwrap().version(), Ok(version));
        let id = nccl.unique_id().unwrap();
        assert!(id.internal.iter().any(|&byte| byte != 0));
        assert_ne!(id.internal, nccl.unique_id().unwrap().internal);
    }

    #[test]
    fn without_a_driver_there_is_an_error() {
        let nccl = match from_folder() {
            Ok(nccl) => nccl,
            Err(reason) => return eprintln!("skipped: {reason}"),
        };
        if super::super::is_available().is_ok() {
            return eprintln!("skipped: there is a GPU");
        }
        let id = nccl.unique_id().unwrap();
        let (mut comm, mut config) = (std::ptr::null_mut(), config());
        // SAFETY: places for the answer and the configuration; a world of one.
        let code = unsafe { (nccl.init_rank_config)(&mut comm, 1, id, 0, &mut config) };
        let error = nccl.check("ncclCommInitRankConfig", code).unwrap_err();
        assert!(error.contains("cuda"), "{error}");
    }
}

//! Where the launches run: on a device, or on the CPU by a host compiler.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use libloading::{Library, Symbol};
use storyloom_kernels::{
    Kernels, Launch, SOURCE, driver_is_available, entries, nvrtc_is_available, use_nvrtc_folder,
};

/// Something that runs launches on memory of its own, which lives as long as it does.
pub trait Machine {
    /// Copies `bytes` to where the address has 16-byte alignment.
    fn upload(&self, bytes: &[u8]) -> u64;
    /// What lies at an address that `upload` gave.
    fn download(&self, address: u64) -> Vec<u8>;
    /// Runs the kernel and waits for it.
    fn run(&self, launch: &Launch);
}

/// The kernels, translated by g++.
pub struct Emulation {
    library: Library,
    backwards: bool,
    memory: RefCell<Vec<(Vec<u128>, usize)>>,
    _folder: tempfile::TempDir,
}

type Emulate =
    unsafe extern "C" fn(*const c_char, u32, u32, u32, *const u64, usize, bool) -> *const c_char;

impl Emulation {
    /// `backwards`: threads take their turns from the last to the first. `None`, with a line on
    /// stderr, where there is no g++.
    pub fn new(backwards: bool) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("kernels.cpp");
        let target = folder.path().join("kernels.so");
        fs::write(&source, translation_unit()).unwrap();
        // A vector at an address that does not allow it is undefined, and traps.
        let compiler = Command::new("g++")
            .args([
                "-std=c++17",
                "-O1",
                "-shared",
                "-fPIC",
                "-fno-strict-aliasing",
            ])
            .args(["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"])
            .arg("-o")
            .args([&target, &source])
            .output();
        let Ok(output) = compiler else {
            eprintln!("skipped: the kernels on the CPU need g++");
            return None;
        };
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{messages}");
        // SAFETY: the library has just been made of this crate's sources.
        let library = unsafe { Library::new(target) }.unwrap();
        Some(Self {
            library,
            backwards,
            memory: RefCell::default(),
            _folder: folder,
        })
    }
}

/// The emulation, the kernels, and their list.
fn translation_unit() -> String {
    let mut text = format!("{}\n{SOURCE}\n", include_str!("../emulate.hpp"));
    text += "extern \"C\" const emulation::Entry ENTRIES[] = {\n";
    for name in entries() {
        let call = format!("emulation::with_arguments<{name}>");
        let count = format!("emulation::parameters<{name}>({name})");
        writeln!(text, "    {{\"{name}\", {call}, {count}}},").unwrap();
    }
    text + "    {nullptr, nullptr, 0},\n};\n"
}

impl Machine for Emulation {
    fn upload(&self, bytes: &[u8]) -> u64 {
        let mut words = vec![0_u128; bytes.len().div_ceil(16)];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks(16)) {
            let mut whole = [0; 16];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u128::from_ne_bytes(whole);
        }
        let address = words.as_mut_ptr().expose_provenance() as u64;
        self.memory.borrow_mut().push((words, bytes.len()));
        address
    }

    fn download(&self, address: u64) -> Vec<u8> {
        let memory = self.memory.borrow();
        let here = |(words, _): &&(Vec<u128>, usize)| words.as_ptr().addr() as u64 == address;
        let (words, len) = memory.iter().find(here).unwrap();
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
        bytes.take(*len).collect()
    }

    fn run(&self, launch: &Launch) {
        let name = CString::new(launch.entry).unwrap();
        // SAFETY: this is the type of the function in `emulate.hpp`. It reads as many arguments as
        // it is told of; the pointers among them are from `upload`, and the tests fit the sizes to
        // them. No borrow of that memory is alive.
        let wrong = unsafe {
            let emulate: Symbol<Emulate> = self.library.get(b"emulate\0").unwrap();
            emulate(
                name.as_ptr(),
                launch.blocks,
                launch.threads,
                launch.shared_bytes,
                launch.arguments.as_ptr(),
                launch.arguments.len(),
                self.backwards,
            )
        };
        if !wrong.is_null() {
            // SAFETY: a text that is part of the library.
            let wrong = unsafe { CStr::from_ptr(wrong) };
            panic!("{}: {}", launch.entry, wrong.to_string_lossy());
        }
    }
}

/// The first device.
pub struct Device {
    kernels: Kernels,
    stream: Arc<CudaStream>,
    memory: RefCell<Vec<(u64, CudaSlice<u8>)>>,
}

impl Device {
    /// `None`, with a line on stderr, where there is no device or no NVRTC.
    pub fn new() -> Option<Self> {
        if !driver_is_available() {
            eprintln!("skipped: the kernels on a device need a driver and a device");
            return None;
        }
        find_nvrtc().then(|| Self {
            kernels: Kernels::load(0).unwrap(),
            stream: CudaContext::new(0).unwrap().default_stream(),
            memory: RefCell::default(),
        })
    }
}

impl Machine for Device {
    fn upload(&self, bytes: &[u8]) -> u64 {
        use cudarc::driver::DevicePtr;
        let slice = self.stream.clone_htod(bytes).unwrap();
        let address = slice.device_ptr(&self.stream).0;
        self.memory.borrow_mut().push((address, slice));
        address
    }

    fn download(&self, address: u64) -> Vec<u8> {
        let memory = self.memory.borrow();
        let (_, slice) = memory.iter().find(|(at, _)| *at == address).unwrap();
        self.stream.clone_dtoh(slice).unwrap()
    }

    fn run(&self, launch: &Launch) {
        // SAFETY: the pointers are from `upload`, and the tests fit the sizes to them. Nothing
        // else uses the memory before the wait is over.
        unsafe { self.kernels.run(launch, std::ptr::null_mut()) }.unwrap();
        self.stream.synchronize().unwrap();
    }
}

/// Finds NVRTC in the folder `NVRTC_FOLDER`, where the system looks, or beside libtorch. False,
/// with a line on stderr, if it is in none of them.
pub fn find_nvrtc() -> bool {
    if let Some(folder) = std::env::var_os("NVRTC_FOLDER") {
        use_nvrtc_folder(&PathBuf::from(folder)).unwrap();
    } else if let Some(libtorch) = std::env::var_os("LIBTORCH")
        && !nvrtc_is_available()
    {
        // The wheels of NVIDIA unpack beside that of libtorch. Nothing there: the line below.
        let _ = use_nvrtc_folder(&PathBuf::from(libtorch).join("../nvidia/cu13/lib"));
    }
    if !nvrtc_is_available() {
        eprintln!("skipped: NVRTC is not here; NVRTC_FOLDER may name its folder");
    }
    nvrtc_is_available()
}

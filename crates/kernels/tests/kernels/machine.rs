//! Where the launches run: on a device, or on the CPU by a host compiler.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use storyloom_kernels::{
    Kernels, Launch, driver_is_available, nvrtc_is_available, use_nvrtc_folder,
};

use crate::emulation::Emulation;

/// Something that runs launches on memory of its own, which lives as long as it does.
pub trait Machine {
    /// Copies `bytes` to where the address has 16-byte alignment.
    fn upload(&self, bytes: &[u8]) -> u64;
    /// What lies at an address that `upload` gave.
    fn download(&self, address: u64) -> Vec<u8>;
    /// Runs the kernel and waits for it.
    fn run(&self, launch: &Launch);
}

/// The kernels on the CPU, and memory for them.
pub struct Cpu {
    emulation: Emulation,
    memory: RefCell<Vec<(Vec<u128>, usize)>>,
}

impl Cpu {
    /// As [`Emulation::new`].
    pub fn new(backwards: bool) -> Option<Self> {
        Some(Self {
            emulation: Emulation::new(backwards)?,
            memory: RefCell::default(),
        })
    }
}

impl Machine for Cpu {
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
        // SAFETY: the pointers are from `upload`, and the tests fit the sizes to them. No borrow
        // of that memory is alive.
        unsafe { self.emulation.run(launch) }
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

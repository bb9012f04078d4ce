//! Kernels on a device.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{CUcontext, CUstream};
use cudarc::driver::{CudaContext, CudaFunction, result};

use crate::compile::Compiled;
use crate::error::{KernelError, Result};
use crate::launch::{Launch, entries};
use crate::libraries::driver_is_available;

/// All kernels, loaded on one device.
///
/// They use the primary context of the device, the one that the CUDA runtime and so libtorch use,
/// and leave the current context of a thread as they find it.
#[derive(Debug)]
pub struct Kernels {
    context: Arc<CudaContext>,
    functions: HashMap<&'static str, CudaFunction>,
}

impl Kernels {
    /// Compiles all kernels for an architecture such as `sm_90`; the same as [`Compiled::new`].
    pub fn compile(arch: &str) -> Result<Compiled> {
        Compiled::new(arch)
    }

    /// Compiles all kernels for the device `ordinal` and loads them there.
    pub fn load(ordinal: usize) -> Result<Self> {
        let _before = Current::remember_or_refuse()?;
        let context = open(ordinal)?;
        let (major, minor) = context
            .compute_capability()
            .map_err(KernelError::driver("ask for the compute capability"))?;
        Self::load_into(context, Compiled::new(&format!("sm_{major}{minor}"))?)
    }

    /// Loads kernels that were compiled before on the device `ordinal`.
    pub fn load_compiled(ordinal: usize, compiled: Compiled) -> Result<Self> {
        let _before = Current::remember_or_refuse()?;
        Self::load_into(open(ordinal)?, compiled)
    }

    fn load_into(context: Arc<CudaContext>, compiled: Compiled) -> Result<Self> {
        let module = context
            .load_module(compiled.ptx)
            .map_err(KernelError::driver("load the kernels"))?;
        let functions = entries().map(|name| Ok((name, module.load_function(name)?)));
        let functions = functions
            .collect::<Result<_, _>>()
            .map_err(KernelError::driver("find a kernel"))?;
        Ok(Self { context, functions })
    }

    /// Puts `launch` into `stream`, a `CUstream` or `cudaStream_t`; null is the legacy default
    /// stream, in which libtorch works unless told otherwise. Does not wait.
    ///
    /// # Safety
    /// `launch` is as this crate made it. Every pointer in it is one to memory of this device with
    /// the shape and dtype that its field tells, and every index is that of a row. What is
    /// written overlaps nothing else of the launch. All of it, and the stream, which is one of
    /// this device, lives until the kernel has run, and nothing else touches what is written (or
    /// writes what is read) before that.
    pub unsafe fn run(&self, launch: &Launch, stream: *mut c_void) -> Result<()> {
        if launch.blocks == 0 {
            return Ok(());
        }
        let Some(function) = self.functions.get(launch.entry) else {
            let reason = "is not loaded".to_owned();
            let kernel = launch.entry;
            return Err(KernelError::Input { kernel, reason });
        };
        let _before = Current::remember()?;
        self.context
            .bind_to_thread()
            .map_err(KernelError::driver("use the device"))?;
        let mut arguments: Vec<*mut c_void> = launch
            .arguments
            .iter()
            .map(|argument| std::ptr::from_ref(argument).cast_mut().cast())
            .collect();
        // SAFETY: the function is kept loaded by `self`, in the context that is current here. A
        // launch has one argument of eight bytes for every parameter; the driver reads them before
        // it returns and writes to none. What they point to is promised by the caller.
        let launched = unsafe {
            result::launch_kernel(
                function.cu_function(),
                (launch.blocks, 1, 1),
                (launch.threads, 1, 1),
                launch.shared_bytes,
                stream as CUstream,
                &mut arguments,
            )
        };
        launched.map_err(KernelError::driver("launch a kernel"))
    }
}

/// UUID of the device `ordinal` as NVML and other tools write it; `None` if the driver does not tell.
pub fn gpu_uuid(ordinal: usize) -> Option<String> {
    if !driver_is_available() {
        return None;
    }
    let device = result::device::get(i32::try_from(ordinal).ok()?).ok()?;
    let bytes = result::device::get_uuid(device).ok()?.bytes;
    let hex: String = bytes
        .iter()
        .map(|byte| format!("{:02x}", *byte as u8))
        .collect();
    let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &hex[part]);
    Some(format!("GPU-{a}-{b}-{c}-{d}-{e}"))
}

fn open(ordinal: usize) -> Result<Arc<CudaContext>> {
    CudaContext::new(ordinal).map_err(KernelError::driver("open the device"))
}

/// Gives a thread back the context that it had. libtorch and other users of the CUDA runtime take
/// the device of the current context for the current device.
struct Current(CUcontext);

impl Current {
    /// As [`Self::remember`], where it is not yet known that there is a driver.
    fn remember_or_refuse() -> Result<Self> {
        if !driver_is_available() {
            return Err(KernelError::NoDriver);
        }
        Self::remember()
    }

    fn remember() -> Result<Self> {
        let current = result::ctx::get_current().map_err(KernelError::driver("ask the driver"))?;
        Ok(Self(current.unwrap_or(std::ptr::null_mut())))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        // SAFETY: it was the current context of this thread, and this crate destroys none that it
        // did not retain. It can only fail if the driver is lost, which the next call tells.
        let _ = unsafe { result::ctx::set_current(self.0) };
    }
}

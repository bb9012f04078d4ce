//! The little of CUDA's driver that process groups need.

use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdeviceptr, CUevent, CUevent_flags, CUevent_wait_flags, CUresult,
    CUstream,
};

/// Starts the driver.
///
/// # Errors
/// It cannot be loaded, or does not start.
fn start() -> Result<(), String> {
    // SAFETY: this loads a library by the names that NVIDIA gives to the driver, whose
    // initialisers have no demands on the caller.
    if !unsafe { sys::is_culib_present() } {
        return Err("CUDA's driver (libcuda.so.1) cannot be loaded".to_owned());
    }
    result::init().map_err(|error| said("cuInit", error))
}

/// How many devices there are.
pub(super) fn count() -> Result<usize, String> {
    start()?;
    let count = result::device::get_count().map_err(|error| said("cuDeviceGetCount", error))?;
    Ok(usize::try_from(count).unwrap_or_default())
}

fn said(call: &str, error: DriverError) -> String {
    let name = error.error_name().map(|name| name.to_string_lossy());
    match name {
        Ok(name) => format!("{call}: {name}"),
        Err(_) => format!("{call}: unknown error"),
    }
}

/// A device's primary context, which libtorch and CUDA's runtime use too.
#[derive(Debug)]
pub(super) struct Device {
    device: CUdevice,
    context: CUcontext,
}

// SAFETY: the driver lets any thread use a context.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    pub(super) fn open(ordinal: usize) -> Result<Arc<Self>, String> {
        let count = count()?;
        if ordinal >= count {
            return Err(format!(
                "there is no GPU {ordinal}: the driver shows {count}"
            ));
        }
        let device = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let device = result::device::get(device).map_err(|error| said("cuDeviceGet", error))?;
        // SAFETY: the driver has just returned this device.
        let context = unsafe { result::primary_ctx::retain(device) }
            .map_err(|error| said("cuDevicePrimaryCtxRetain", error))?;
        Ok(Arc::new(Self { device, context }))
    }

    /// Makes it the device of this thread until the guard goes.
    pub(super) fn enter(&self) -> Result<Entered, String> {
        let before = result::ctx::get_current().map_err(|error| said("cuCtxGetCurrent", error))?;
        if before != Some(self.context) {
            // SAFETY: the context is retained.
            unsafe { result::ctx::set_current(self.context) }
                .map_err(|error| said("cuCtxSetCurrent", error))?;
        }
        Ok(Entered {
            before: before.unwrap_or(std::ptr::null_mut()),
            is_changed: before != Some(self.context),
        })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: retained once, released once.
        if let Err(error) = unsafe { result::primary_ctx::release(self.device) } {
            tracing::debug!("{}", said("cuDevicePrimaryCtxRelease", error));
        }
    }
}

/// Puts back the thread's device: the caller may be at another one.
#[derive(Debug)]
pub(super) struct Entered {
    before: CUcontext,
    is_changed: bool,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if !self.is_changed {
            return;
        }
        // SAFETY: it was current before; null is none.
        if let Err(error) = unsafe { result::ctx::set_current(self.before) } {
            tracing::debug!("{}", said("cuCtxSetCurrent", error));
        }
    }
}

/// A stream that does not wait for the default stream by itself.
#[derive(Debug)]
pub(super) struct Stream {
    stream: CUstream,
    device: Arc<Device>,
}

// SAFETY: the driver lets any thread use a stream.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, String> {
        let _entered = device.enter()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|error| said("cuStreamCreate", error))?;
        Ok(Self {
            stream,
            device: Arc::clone(device),
        })
    }

    pub(super) fn raw(&self) -> CUstream {
        self.stream
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _entered = self.device.enter();
        // SAFETY: made once, destroyed once. What is still on it is finished first.
        if let Err(error) = unsafe { result::stream::destroy(self.stream) } {
            tracing::debug!("{}", said("cuStreamDestroy", error));
        }
    }
}

/// The default stream of libtorch, which all its streams made without a flag wait for.
pub(super) fn default_stream() -> CUstream {
    result::stream::null()
}

/// A point in a stream.
#[derive(Debug)]
pub(super) struct Event {
    event: CUevent,
    device: Arc<Device>,
}

// SAFETY: the driver lets any thread use an event.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// The end of what `stream` was given so far. The device has been entered; the stream is one
    /// of this device.
    pub(super) fn record(device: &Arc<Device>, stream: CUstream) -> Result<Arc<Self>, String> {
        let event = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(|error| said("cuEventCreate", error))?;
        let event = Arc::new(Self {
            event,
            device: Arc::clone(device),
        });
        // SAFETY: the event is valid, and both are of this context.
        unsafe { result::event::record(event.event, stream) }
            .map_err(|error| said("cuEventRecord", error))?;
        Ok(event)
    }

    /// What `stream` is given from now on comes after it.
    pub(super) fn hold(&self, stream: CUstream) -> Result<(), String> {
        let flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are valid.
        unsafe { result::stream::wait_event(stream, self.event, flags) }
            .map_err(|error| said("cuStreamWaitEvent", error))
    }

    pub(super) fn has_happened(&self) -> Result<bool, String> {
        // SAFETY: the event is valid and was recorded.
        match unsafe { result::event::query(self.event) } {
            Ok(()) => Ok(true),
            Err(DriverError(CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(said("cuEventQuery", error)),
        }
    }

    /// The device it is of.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _entered = self.device.enter();
        // SAFETY: made once, destroyed once; the driver keeps it as long as a stream waits for it.
        if let Err(error) = unsafe { result::event::destroy(self.event) } {
            tracing::debug!("{}", said("cuEventDestroy", error));
        }
    }
}

/// A few zero bytes on the device.
#[derive(Debug)]
pub(super) struct Memory {
    pointer: CUdeviceptr,
    device: Arc<Device>,
}

impl Memory {
    pub(super) fn zeros(device: &Arc<Device>, bytes: usize) -> Result<Self, String> {
        let _entered = device.enter()?;
        // SAFETY: the memory is freed once, when this is dropped.
        let pointer =
            unsafe { result::malloc_sync(bytes) }.map_err(|error| said("cuMemAlloc", error))?;
        let memory = Self {
            pointer,
            device: Arc::clone(device),
        };
        // SAFETY: the memory is that long.
        unsafe { result::memset_d8_sync(pointer, 0, bytes) }
            .map_err(|error| said("cuMemsetD8", error))?;
        Ok(memory)
    }

    pub(super) fn pointer(&self) -> u64 {
        self.pointer
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _entered = self.device.enter();
        // SAFETY: allocated once, freed once; the driver waits for what uses it.
        if let Err(error) = unsafe { result::free_sync(self.pointer) } {
            tracing::debug!("{}", said("cuMemFree", error));
        }
    }
}

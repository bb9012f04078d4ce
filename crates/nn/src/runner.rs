//! Who runs the kernels of `storyloom-kernels`.

use storyloom_kernels::{KernelError, Kernels, Launch};

/// Puts kernels into the queue of a device, behind what libtorch has put there.
pub trait Runner: Sync {
    /// Does not wait until the kernel has run.
    ///
    /// # Safety
    /// That of [`Kernels::run`].
    unsafe fn run(&self, launch: &Launch) -> Result<(), KernelError>;
}

impl Runner for Kernels {
    unsafe fn run(&self, launch: &Launch) -> Result<(), KernelError> {
        // SAFETY: as the caller promises. The null stream is the one that libtorch works in and
        // its allocator counts on: nothing here ever chooses another one.
        unsafe { Self::run(self, launch, std::ptr::null_mut()) }
    }
}

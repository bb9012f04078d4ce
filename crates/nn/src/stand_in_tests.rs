//! The CPU in the place of a GPU, for tests: layers leave their loops for the host aside and
//! compute in the kind of their weights, and the kernels run as a host compiler translates them.

#[path = "../../kernels/tests/kernels/emulation.rs"]
mod emulation;

use std::cell::Cell;
use std::sync::{Mutex, OnceLock, PoisonError};

use storyloom_kernels::{KernelError, Launch};

use crate::runner::Runner;
use emulation::Emulation;

thread_local! {
    static IS_GPU: Cell<bool> = const { Cell::new(false) };
}

/// Whether the CPU plays a GPU.
pub fn is_gpu() -> bool {
    IS_GPU.get()
}

/// Kernels for tensors in host memory.
pub fn runner() -> Option<&'static dyn Runner> {
    if !is_gpu() {
        return None;
    }
    static EMULATION: OnceLock<Option<Shared>> = OnceLock::new();
    let shared = EMULATION.get_or_init(|| Emulation::new(false).map(Mutex::new).map(Shared));
    shared.as_ref().map(|shared| shared as &dyn Runner)
}

/// Does `work` on this thread with the CPU in the place of a GPU. `None`, with a line on stderr,
/// where the kernels cannot be translated.
pub fn as_gpu<T>(work: impl FnOnce() -> T) -> Option<T> {
    /// Ends the play, also after a panic.
    struct Played;
    impl Drop for Played {
        fn drop(&mut self) {
            IS_GPU.set(false);
        }
    }
    IS_GPU.set(true);
    let _played = Played;
    runner().map(|_| work())
}

/// The emulation has one state for the whole program.
struct Shared(Mutex<Emulation>);

impl Runner for Shared {
    unsafe fn run(&self, launch: &Launch) -> Result<(), KernelError> {
        let emulation = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as the caller promises; host memory is the memory of this device, and the lock
        // keeps others away.
        unsafe { emulation.run(launch) };
        Ok(())
    }
}

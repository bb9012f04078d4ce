//! Errors of the kernels.

use std::path::PathBuf;

/// What can go wrong before a kernel runs. What goes wrong inside shows when its stream is waited
/// for, as with every kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The loader finds no `libnvrtc`.
    #[error("NVRTC is not here: no libnvrtc in the search path of the loader")]
    NoNvrtc,
    /// There is no NVIDIA driver, or it shows no device.
    #[error("there is no NVIDIA driver with a device")]
    NoDriver,
    /// A folder holds no NVRTC that can be used.
    #[error("{path}: {reason}", path = path.display())]
    Library {
        /// The folder or file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// NVRTC refused the source.
    #[error("the kernels do not compile for {arch:?}: {reason}\n{log}")]
    Compile {
        /// The architecture that was asked for.
        arch: String,
        /// The code of NVRTC.
        reason: String,
        /// What NVRTC wrote.
        log: String,
    },
    /// The driver refused.
    #[error("cannot {action}: {reason}")]
    Driver {
        /// What was tried, as a verb.
        action: &'static str,
        /// What it said.
        reason: String,
    },
    /// The sizes or pointers are none that the kernel takes.
    #[error("{kernel}: {reason}")]
    Input {
        /// The kernel.
        kernel: &'static str,
        /// What does not fit.
        reason: String,
    },
}

/// The result of what this crate does.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

impl KernelError {
    /// Turns an error of the driver into one that says what was tried.
    pub(crate) fn driver(
        action: &'static str,
    ) -> impl FnOnce(cudarc::driver::result::DriverError) -> Self {
        move |error| Self::Driver {
            action,
            reason: format!("{error:?}"),
        }
    }
}

//! From CUDA C++ to PTX.

use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};

use crate::error::{KernelError, Result};
use crate::libraries::nvrtc_is_available;

/// The CUDA C++ of all kernels: one file for NVRTC, with the names of its parts for messages.
pub const SOURCE: &str = concat!(
    "#line 1 \"common.cuh\"\n",
    include_str!("cuda/common.cuh"),
    "#line 1 \"modulate.cu\"\n",
    include_str!("cuda/modulate.cu"),
    "#line 1 \"norm_heads.cu\"\n",
    include_str!("cuda/norm_heads.cu"),
    "#line 1 \"rows.cu\"\n",
    include_str!("cuda/rows.cu"),
);

/// All kernels, compiled for one architecture.
#[derive(Debug, Clone)]
pub struct Compiled {
    pub(crate) ptx: Ptx,
}

impl Compiled {
    /// Compiles for an architecture such as `sm_90`. Needs NVRTC, but neither driver nor device.
    pub fn new(arch: &str) -> Result<Self> {
        let refused = |reason: String, log: String| KernelError::Compile {
            arch: arch.to_owned(),
            reason,
            log,
        };
        if !arch.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
            let reason = "no name of an architecture, such as sm_90".to_owned();
            return Err(refused(reason, String::new()));
        }
        if !nvrtc_is_available() {
            return Err(KernelError::NoNvrtc);
        }
        let options = CompileOptions {
            name: Some("storyloom.cu".to_owned()),
            options: vec![
                "--std=c++17".to_owned(),
                format!("--gpu-architecture={arch}"),
            ],
            ..CompileOptions::default()
        };
        match compile_ptx_with_opts(SOURCE, options) {
            Ok(ptx) => Ok(Self { ptx }),
            Err(CompileError::CompileError { nvrtc, log, .. }) => Err(refused(
                nvrtc.to_string(),
                log.to_string_lossy().into_owned(),
            )),
            Err(other) => Err(refused(other.to_string(), String::new())),
        }
    }

    /// The PTX, as text.
    pub fn ptx(&self) -> String {
        self.ptx.to_src()
    }
}

//! `storyloom doctor`: what this machine has.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde::Serialize;
use storyloom_memory::Disk;
use storyloom_memory::probe::{Footing, nearest_folder, probe};
use storyloom_nn::cuda;
use storyloom_orchestrator::RunError;
use storyloom_orchestrator::output::try_encoder;

use crate::exit::{Exit, Outcome};
use crate::output::{print, print_json};
use crate::storage::{ELSEWHERE, LOCAL_INDEX};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder whose disk is looked at.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Run folder, there or yet to be made, whose storage is tried: a few hidden files are written there,
    /// or in the nearest folder above that is there, and removed.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// One thing that was looked for.
#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    state: State,
    detail: String,
    /// What to do; empty if there is nothing to do.
    fix: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It is there.
    Ok,
    /// It is not there, and runs without it.
    Absent,
    /// It is not there, and nothing runs without it.
    Missing,
}

/// Looks at everything; fails with 69 when something is missing that a run needs.
pub fn run(arguments: &Arguments) -> Outcome {
    let folder = arguments.out.as_deref().map(nearest_folder);
    let mut findings = vec![
        libtorch(),
        ffmpeg(),
        cuda(),
        nvrtc(),
        nccl(),
        mpi(),
        cores(),
        memory(),
        disk(folder.as_deref().unwrap_or(&arguments.folder)),
    ];
    findings.extend(folder.as_deref().map(storage));
    let missing = findings
        .iter()
        .any(|finding| finding.state == State::Missing);
    if arguments.json {
        print_json(&findings)?;
    } else {
        print(&table(&findings))?;
    }
    Ok(if missing { Exit::Away } else { Exit::Done })
}

fn table(findings: &[Finding]) -> String {
    let rows = findings.iter().map(|finding| {
        let state = match finding.state {
            State::Ok => "ok",
            State::Absent => "-",
            State::Missing => "MISSING",
        };
        let fix = if finding.fix.is_empty() {
            String::new()
        } else {
            format!("; {}", finding.fix)
        };
        format!("{:<9} {state:<8} {}{fix}\n", finding.name, finding.detail)
    });
    rows.collect()
}

fn ok(name: &'static str, detail: impl Into<String>) -> Finding {
    Finding {
        name,
        state: State::Ok,
        detail: detail.into(),
        fix: "",
    }
}

fn absent(name: &'static str, detail: impl Into<String>, fix: &'static str) -> Finding {
    Finding {
        name,
        state: State::Absent,
        detail: detail.into(),
        fix,
    }
}

fn missing(name: &'static str, detail: impl Into<String>, fix: &'static str) -> Finding {
    Finding {
        name,
        state: State::Missing,
        detail: detail.into(),
        fix,
    }
}

fn libtorch() -> Finding {
    const FIX: &str = "run scripts/setup.sh and build again";
    let Some(folder) = cuda::libtorch_folder() else {
        return missing("libtorch", "this program was built without it", FIX);
    };
    let version = libtorch_version(&folder).unwrap_or_else(|| "of unknown version".to_owned());
    ok("libtorch", format!("{version} at {}", folder.display()))
}

/// From `version.py` of a wheel or `build-version` of a zip, one folder up.
fn libtorch_version(folder: &Path) -> Option<String> {
    let parent = folder.parent()?;
    if let Ok(text) = fs::read_to_string(parent.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let text = fs::read_to_string(parent.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    Some(line.split('\'').nth(1)?.to_owned())
}

/// Encodes a frame as a run does: a program that starts need not have the encoder.
fn ffmpeg() -> Finding {
    const FIX: &str = "install it, for example with: apt-get install ffmpeg";
    let version = first_line("ffmpeg", &["-hide_banner", "-version"]).unwrap_or_default();
    match try_encoder() {
        Ok(()) => ok("ffmpeg", version),
        Err(RunError::FfmpegUnfit { reason }) => {
            missing("ffmpeg", format!("{version}, but {reason}"), FIX)
        }
        Err(_) => missing("ffmpeg", "not found on PATH", FIX),
    }
}

/// Opens the CUDA part of libtorch where there is a device for it.
fn cuda() -> Finding {
    match cuda::devices() {
        Ok(0) => absent("cuda", "no NVIDIA device", ""),
        Ok(count) => ok("cuda", format!("{count} devices, used by libtorch")),
        Err(error) => absent(
            "cuda",
            format!("there is a device, but {error}"),
            "unpack the torch wheel together with all that it depends on",
        ),
    }
}

/// What the fused kernels are compiled with when they are first needed.
fn nvrtc() -> Finding {
    if cuda::find_nvrtc() {
        return ok("nvrtc", "compiles the fused kernels");
    }
    absent(
        "nvrtc",
        "not found: on a GPU, norms and gates are slower",
        "",
    )
}

fn nccl() -> Finding {
    let beside = cuda::libtorch_folder().and_then(|folder| {
        Some(
            folder
                .parent()?
                .parent()?
                .join("nvidia/nccl/lib/libnccl.so.2"),
        )
    });
    let system = [
        "/usr/lib/x86_64-linux-gnu/libnccl.so.2",
        "/usr/lib/aarch64-linux-gnu/libnccl.so.2",
        "/usr/local/lib/libnccl.so.2",
    ];
    let mut candidates = beside.into_iter().chain(system.map(PathBuf::from));
    match candidates.find(|path| path.exists()) {
        Some(path) => ok("nccl", path.display().to_string()),
        None => absent("nccl", "no libnccl.so.2", ""),
    }
}

fn mpi() -> Finding {
    const BUILD: &str = "for worlds started by mpirun: scripts/setup.sh --mpi, then build with \
                         --features mpi";
    match (first_line("mpirun", &["--version"]), cfg!(feature = "mpi")) {
        (Some(version), true) => ok("mpi", version),
        (Some(version), false) => absent(
            "mpi",
            format!("{version}, but this program was built without it"),
            BUILD,
        ),
        (None, true) => absent("mpi", "built in, but no mpirun on PATH", ""),
        (None, false) => absent("mpi", "not built in; `storyloom launch` needs none", ""),
    }
}

fn cores() -> Finding {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|line| line.starts_with("flags"));
    let has = |flag: &str| flags.is_some_and(|line| line.split(' ').any(|word| word == flag));
    let extras: Vec<_> = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]
        .into_iter()
        .filter(|flag| has(flag))
        .collect();
    ok("cores", format!("{count} ({})", extras.join(", ")))
}

fn memory() -> Finding {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib / 1024.0 / 1024.0)
    };
    match (gib("MemAvailable:"), gib("MemTotal:")) {
        (Some(free), Some(total)) => ok("memory", format!("{free:.1} GiB free of {total:.1} GiB")),
        _ => absent("memory", "unknown", ""),
    }
}

fn disk(folder: &Path) -> Finding {
    const GIB: f64 = (1_u64 << 30) as f64;
    match rustix::fs::statvfs(folder) {
        Ok(stat) => {
            let free = stat.f_bavail as f64 * stat.f_frsize as f64 / GIB;
            let detail = format!("{free:.1} GiB free at {}", folder.display());
            if free < 1.0 {
                missing("disk", detail, "make room, or run elsewhere")
            } else {
                ok("disk", detail)
            }
        }
        Err(error) => missing(
            "disk",
            format!("{}: {error}", folder.display()),
            "name a folder that exists",
        ),
    }
}

/// Does what a run does with files.
fn storage(folder: &Path) -> Finding {
    let place = folder.display();
    match probe(&Disk, folder) {
        Err(unfit) if unfit.is_lasting() => {
            missing("storage", format!("{place}: {unfit}"), ELSEWHERE)
        }
        Err(unfit) => missing(
            "storage",
            format!("{place}: {unfit}"),
            "name a folder that can be written to",
        ),
        Ok(Footing { locks: false, .. }) => absent(
            "storage",
            format!("{place} can hold a run folder, but programs cannot lock files there"),
            LOCAL_INDEX,
        ),
        Ok(Footing {
            folds_case: true, ..
        }) => absent(
            "storage",
            format!("{place} can hold a run folder, and takes A and a for one name"),
            "give stories ids that differ in more than case",
        ),
        Ok(_) => ok("storage", format!("{place} can hold a run folder")),
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    // Only for programs on PATH: a relative name must not run something of the current folder.
    env::var_os("PATH")?;
    let output = Command::new(program).args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let text = output(program, arguments)?;
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

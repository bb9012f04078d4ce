//! The `ffmpeg` program: how it is called, and what it must be able to do.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use super::colours;
use crate::config::Videos;
use crate::error::RunError;

/// Constant rate factor of x264; 10 is close to lossless (StoryMem's writer, quality 8).
const QUALITY: &str = "10";

/// Threads of x264, whose output depends on their number; so equal on every machine.
const THREADS: &str = "4";

/// A call of ffmpeg with these arguments after those that every call has.
pub(super) fn ffmpeg(arguments: &[&str]) -> Command {
    let mut command = Command::new("ffmpeg");
    command
        .args(["-hide_banner", "-nostdin", "-loglevel", "error", "-y"])
        .args(arguments)
        // Launchers pass signals to whole process groups; ours would end it in the middle of a clip.
        .process_group(0);
    command
}

/// A file as ffmpeg's argument: a name with a colon would be taken for an address of the network.
pub(super) fn address(path: &Path) -> OsString {
    let mut address = OsString::from("file:");
    address.push(path);
    address
}

/// How every clip is encoded: H.264 and BT.709, with colours converted by `filter`.
pub(super) fn encoding<'a>(filter: &'a str) -> Vec<&'a str> {
    let mut arguments: Vec<&'a str> = vec!["-an", "-vf", filter];
    arguments.extend(colours::TAGS);
    arguments.extend([
        "-c:v", "libx264", "-crf", QUALITY, "-pix_fmt", "yuv420p", "-threads", THREADS,
    ]);
    arguments
}

/// Options by which every frame is passed on once, whatever its time stamp: by default ffmpeg repeats
/// and drops frames to keep a constant rate.
pub(super) fn every_frame() -> [&'static str; 2] {
    /// Asked for once in a process.
    static OPTION: OnceLock<&'static str> = OnceLock::new();
    let option = OPTION.get_or_init(|| {
        let help = ffmpeg(&["-h", "long"]).stdin(Stdio::null()).output();
        // Before 5.1 it had another name, which later versions do not know any more.
        match help {
            Ok(help) if !String::from_utf8_lossy(&help.stdout).contains("-fps_mode") => "-vsync",
            _ => "-fps_mode",
        }
    });
    [option, "passthrough"]
}

impl Videos {
    /// Begins on a thread of its own what [`check_encoder`](Self::check_encoder) then has to wait for.
    pub fn begin_check(self) {
        // Without a thread it begins when somebody waits for it, who also hears what came of it.
        let _ = std::thread::Builder::new()
            .name("encoder".to_owned())
            .spawn(move || self.check_encoder());
    }

    /// Tries whether they can be made, before anything is paid for.
    ///
    /// # Errors
    /// `ffmpeg` is needed and is away, or cannot encode.
    pub fn check_encoder(self) -> Result<(), RunError> {
        match self {
            Self::Encoded => try_encoder(),
            Self::Placeholders => Ok(()),
        }
    }
}

/// Why ffmpeg cannot be used.
#[derive(Debug, Clone)]
enum Lack {
    /// It does not start.
    Away(String),
    /// It starts, but does not make what a run needs.
    Unfit(String),
}

impl From<Lack> for RunError {
    fn from(lack: Lack) -> Self {
        match lack {
            Lack::Away(reason) => Self::FfmpegAway { reason },
            Lack::Unfit(reason) => Self::FfmpegUnfit { reason },
        }
    }
}

/// Encodes one small frame as clips are encoded, once in a process.
///
/// # Errors
/// ffmpeg does not start, has no x264, or is too old; the error says which and what to do.
pub fn try_encoder() -> Result<(), RunError> {
    static TRIED: OnceLock<Result<(), Lack>> = OnceLock::new();
    let tried = TRIED.get_or_init(try_one_frame);
    tried.clone().map_err(RunError::from)
}

fn try_one_frame() -> Result<(), Lack> {
    let output = encode_black().map_err(|error| Lack::Away(error.to_string()))?;
    if !output.status.success() {
        let said = last_words(&output.stderr);
        return Err(Lack::Unfit(format!(
            "it does not encode H.264 with libx264: {said}"
        )));
    }
    if !colours::are_told(&output.stdout) {
        return Err(Lack::Unfit(
            "its files do not say that their colours are BT.709; version 4.4 or a later one does"
                .to_owned(),
        ));
    }
    Ok(())
}

/// One black frame as an MP4 that needs no file.
fn encode_black() -> std::io::Result<Output> {
    let source = ["-f", "lavfi", "-i", "color=black:size=16x16:rate=16"];
    let end = [
        "-frames:v",
        "1",
        "-movflags",
        "+empty_moov+frag_keyframe",
        "-f",
        "mp4",
        "pipe:1",
    ];
    let arguments = [&source[..], &encoding(colours::FROM_RGB), &end].concat();
    ffmpeg(&arguments).stdin(Stdio::null()).output()
}

/// The end of what ffmpeg said.
pub(super) fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(3)..];
    if last.is_empty() {
        "it gave no reason".to_owned()
    } else {
        last.join("; ")
    }
}

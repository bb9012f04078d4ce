//! Videos that users bring. They are read from their own bytes alone, whatever other files they name, and nothing
//! of them is known before.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Child;

use storyloom_memory::storage::LocalFile;
use storyloom_memory::{Disk, MemoryError, Storage};
use storyloom_pictures::{InputFolder, Limits};
use storyloom_story::{Resolution, RgbImage};

use super::program::last_words;
use super::whole_video;
use crate::error::RunError;

/// Containers that are read. Playlists, which lead to other files, are none of them.
const CONTAINERS: &str = "mov,matroska,avi";

/// Why a video is not the clip that is wanted. Each message fits after "cannot be used: ".
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoClip {
    /// It is not to blame: `ffmpeg` or the disk is.
    #[error(transparent)]
    Program(#[from] RunError),
    /// It is no video, or a damaged one.
    #[error("it cannot be decoded as a video (MP4, MOV, Matroska, WebM or AVI): {0}")]
    Decode(String),
    /// Its frames are larger or smaller.
    #[error(
        "its frames have {found} pixels, and those of the story {wanted}; bring a video of that size, or \
         give the story the size of the video"
    )]
    Size {
        /// Those of its first frame of another size.
        found: Resolution,
        /// Those of the story.
        wanted: Resolution,
    },
    /// It is longer or shorter.
    #[error(
        "it has {found} frames, and a shot of the story has {wanted}; bring a video of that length, or set \
         video.frames"
    )]
    Length {
        /// Its frames.
        found: u64,
        /// Those of a shot.
        wanted: u32,
    },
}

impl From<MemoryError> for NoClip {
    fn from(error: MemoryError) -> Self {
        Self::Program(error.into())
    }
}

/// All frames of the video with these bytes, which must have this size and number of frames. `shown` is
/// where it was found.
///
/// # Errors
/// It is no such video, or `ffmpeg` does not start.
pub(crate) fn read_clip(
    shown: &Path,
    bytes: &[u8],
    wanted: (Resolution, u32),
) -> Result<Vec<RgbImage>, NoClip> {
    let file = LocalFile::apart(shown)?;
    Disk.write(file.path(), bytes)?;
    let pixels = Limits::default().pixels.to_string();
    let guards = [
        "-protocol_whitelist",
        "file",
        "-format_whitelist",
        CONTAINERS,
        "-max_pixels",
        &pixels,
    ];
    let mut child = whole_video(file.path(), &guards)
        .args(["-c:v", "ppm", "-pix_fmt", "rgb24", "-f", "image2pipe"])
        .arg("pipe:1")
        .spawn()
        .map_err(|error| RunError::FfmpegAway {
            reason: error.to_string(),
        })?;
    let (frames, said) = frames_of(&mut child, wanted);
    // It says so itself where it could not go on, and not where nobody wanted more.
    let ended = child.wait().is_ok_and(|status| status.success());
    match frames {
        Err(other @ NoClip::Size { .. }) => Err(other),
        _ if !ended => Err(NoClip::Decode(words(&said, file.path(), shown))),
        frames => frames,
    }
}

/// Whether the file `name` of `folder` can be a ready-made first shot: all of it is decoded, as a run does it.
/// `wanted` is the size of a frame in pixels and the number of frames; where it is not known, only that it
/// is a video is looked at.
///
/// # Errors
/// The inner error is why it cannot, and fits after "cannot be used: ". The outer one is none of the file's:
/// `ffmpeg` does not start, or the disk fails.
pub fn check_clip(
    folder: &InputFolder,
    name: &str,
    wanted: Option<(Resolution, u32)>,
) -> Result<Result<(), String>, RunError> {
    let bytes = match folder.read(name, Limits::default().bytes) {
        Ok(bytes) => bytes,
        Err(problem) => return Ok(Err(problem.to_string())),
    };
    let nothing = Resolution {
        width: 0,
        height: 0,
    };
    let shown = folder.path().join(name);
    match (
        read_clip(&shown, &bytes, wanted.unwrap_or((nothing, 0))),
        wanted,
    ) {
        (Ok(_), _) | (Err(NoClip::Size { .. } | NoClip::Length { .. }), None) => Ok(Ok(())),
        (Err(NoClip::Program(error)), _) => Err(error),
        (Err(problem), _) => Ok(Err(problem.to_string())),
    }
}

/// The end of what ffmpeg said of the file `read`, under the name of the file that its user knows.
fn words(said: &[u8], read: &Path, shown: &Path) -> String {
    let [read, shown] = [read, shown].map(|path| path.display().to_string());
    let address = format!("file:{read}");
    last_words(said)
        .replace(&address, &shown)
        .replace(&read, &shown)
}

/// The frames that ffmpeg writes, and what it says meanwhile. It is ended where they are not wanted.
fn frames_of(
    child: &mut Child,
    wanted: (Resolution, u32),
) -> (Result<Vec<RgbImage>, NoClip>, Vec<u8>) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        // A pipe that nobody reads would stop it.
        let said = scope.spawn(|| {
            let mut said = Vec::new();
            let read = stderr.map(|mut stderr| stderr.read_to_end(&mut said));
            drop(read);
            said
        });
        let frames = match stdout {
            Some(stdout) => read_frames(BufReader::new(stdout), wanted),
            None => Err(NoClip::Decode("nothing can be read of it".to_owned())),
        };
        if frames.is_err() {
            // It may have ended by itself.
            let _ = child.kill();
        }
        (frames, said.join().unwrap_or_default())
    })
}

/// Reads frames that stand one after the other as portable pixmaps, each of which says its size.
fn read_frames(
    mut stream: impl BufRead,
    (size, wanted): (Resolution, u32),
) -> Result<Vec<RgbImage>, NoClip> {
    let broken = |reason: String| NoClip::Decode(reason);
    let (mut frames, mut count) = (Vec::new(), 0_u64);
    while let Some(found) = next_size(&mut stream).map_err(broken)? {
        if found != size {
            let wanted = size;
            return Err(NoClip::Size { found, wanted });
        }
        let mut data = vec![0; size.width as usize * size.height as usize * 3];
        let read = stream.read_exact(&mut data);
        read.map_err(|error| broken(error.to_string()))?;
        count += 1;
        if count <= u64::from(wanted) {
            let frame = RgbImage::new(size.width, size.height, data);
            frames.push(frame.map_err(|error| broken(error.to_string()))?);
        }
    }
    match count == u64::from(wanted) {
        true => Ok(frames),
        false => Err(NoClip::Length {
            found: count,
            wanted,
        }),
    }
}

/// The size of the next pixmap; `None` at the end.
fn next_size(stream: &mut impl BufRead) -> Result<Option<Resolution>, String> {
    let mut line = || {
        /// Longer lines are none of a header.
        const LONGEST: u64 = 64;
        let mut line = String::new();
        let read = stream.by_ref().take(LONGEST).read_line(&mut line);
        read.map_err(|error| error.to_string())
            .map(|_| line.trim_end().to_owned())
    };
    let kind = line()?;
    if kind.is_empty() {
        return Ok(None);
    }
    let (size, depth) = (line()?, line()?);
    let sides = size.split_once(' ');
    let sides = sides.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    match (kind.as_str(), sides, depth.as_str()) {
        ("P6", Some((width, height)), "255") => Ok(Some(Resolution { width, height })),
        _ => Err(format!("a frame begins with {kind:?}, {size:?}, {depth:?}")),
    }
}

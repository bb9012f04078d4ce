//! Video files, by the `ffmpeg` program.

mod brought;
mod colours;
mod program;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use storyloom_memory::storage::{LocalFile, make_way};
use storyloom_memory::{BlobRef, Storage, blobs};
use storyloom_story::{Clip, Resolution, RgbImage};

use crate::config::Videos;
use crate::error::RunError;

pub use brought::check_clip;
pub(crate) use brought::{NoClip, read_clip};
pub use program::try_encoder;
use program::{address, encoding, every_frame, ffmpeg, last_words};

/// Writes and checks videos.
#[derive(Debug, Clone)]
pub struct VideoFiles {
    storage: Arc<dyn Storage>,
    kind: Videos,
}

/// A clip of a film, as its record has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipFile {
    /// The video.
    pub path: PathBuf,
    /// Its frames.
    pub frames: u32,
    /// What its bytes are.
    pub content: BlobRef,
}

/// How a clip is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClipForm {
    /// Size of the film. Frames may be larger: their middle goes into it.
    pub size: Resolution,
    /// Frames per second.
    pub fps: u32,
}

/// The file of a story's whole video.
pub const WHOLE_VIDEO: &str = "story.mp4";

/// What stands in every file of a run without videos.
pub const PLACEHOLDER: &[u8] = b"storyloom: no video was made (simulated.videos = false)\n";

impl VideoFiles {
    /// Fails if `ffmpeg` is needed and cannot encode, before anything is paid for.
    pub fn new(storage: Arc<dyn Storage>, kind: Videos) -> Result<Self, RunError> {
        kind.check_encoder()?;
        Ok(Self { storage, kind })
    }

    /// As [`new`](Self::new), for somebody who may not need ffmpeg at all.
    pub(crate) fn unchecked(storage: Arc<dyn Storage>, kind: Videos) -> Self {
        Self { storage, kind }
    }

    /// Encodes a clip to H.264 in `folder`, durably, under the name that `name` gives its content.
    ///
    /// # Errors
    /// The frames are smaller than the film, ffmpeg fails, or the disk does.
    pub fn write_clip(
        &self,
        folder: &Path,
        clip: &Clip,
        ClipForm { size: film, fps }: ClipForm,
        name: impl FnOnce(&BlobRef) -> PathBuf,
    ) -> Result<BlobRef, RunError> {
        if self.kind == Videos::Placeholders {
            return self.write_placeholder(name);
        }
        if clip.width() < film.width || clip.height() < film.height {
            let (width, height) = (clip.width(), clip.height());
            return Err(RunError::Ffmpeg {
                path: folder.join("clip.mp4"),
                reason: format!("frames of {width}x{height} do not fill a film of {film}"),
            });
        }
        let size = film.to_string();
        let rate = fps.to_string();
        let input = [
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r", &rate, "-i", "pipe:0",
        ];
        let arguments = [&input[..], &encoding(colours::FROM_RGB)].concat();
        self.produce(&folder.join("clip.mp4"), name, &arguments, |child| {
            let mut stdin = child.stdin.take();
            for frame in clip.frames() {
                if let Some(stdin) = stdin.as_mut() {
                    stdin.write_all(frame.middle(film).data())?;
                }
            }
            Ok(())
        })
    }

    /// Joins clips of one size and of `fps` frames a second without encoding them again, so that
    /// frame `n` of the film begins exactly after `n / fps` seconds.
    ///
    /// Clips of earlier builds, which do not say what their colours are, are converted for the film:
    /// it has one description for all of its clips. The clips themselves stay as they are.
    ///
    /// # Errors
    /// A clip is not there, or is not what its record says; ffmpeg cannot join them.
    pub fn join_clips(
        &self,
        path: &Path,
        clips: &[ClipFile],
        fps: u32,
    ) -> Result<BlobRef, RunError> {
        // ffmpeg would leave a missing clip out without failing.
        if let Some(missing) = clips.iter().find(|clip| !self.storage.exists(&clip.path)) {
            return Err(RunError::Ffmpeg {
                path: missing.path.clone(),
                reason: "the shot's video is not there".to_owned(),
            });
        }
        let mut told = Vec::with_capacity(clips.len());
        for clip in clips {
            let bytes = self.storage.read(&clip.path)?;
            blobs::check(&clip.path, &bytes, &clip.content)?;
            told.push(colours::are_told(&bytes));
        }
        make_way(self.storage.as_ref(), path)?;
        if self.kind == Videos::Placeholders {
            return self.write_placeholder(|_| path.to_owned());
        }
        let files = self.of_one_colour(path, clips, &told)?;
        let parts = files.iter().map(LocalFile::path).zip(clips);
        let list = concat_list(parts.map(|(file, clip)| (file, clip.frames)), fps);
        let input = [
            "-f",
            "concat",
            "-safe",
            "0",
            "-protocol_whitelist",
            "file,pipe,fd",
        ];
        let copy = ["-i", "pipe:0", "-c", "copy"];
        let arguments = [&input[..], &copy].concat();
        self.produce(
            path,
            |_| path.to_owned(),
            &arguments,
            |child| {
                child
                    .stdin
                    .take()
                    .map_or(Ok(()), |mut stdin| stdin.write_all(list.as_bytes()))
            },
        )
    }

    /// The clips, each as a file that says that it is BT.709: those that do not, as `told` has it, are
    /// converted for the film at `path`.
    fn of_one_colour(
        &self,
        path: &Path,
        clips: &[ClipFile],
        told: &[bool],
    ) -> Result<Vec<LocalFile>, RunError> {
        let files = clips.iter().zip(told);
        let files = files.map(|(clip, told)| -> Result<LocalFile, RunError> {
            let own = self.storage.local_copy(&clip.path)?;
            if *told {
                return Ok(own);
            }
            let converted = self.storage.draft(path)?;
            let input = format!("file:{}", own.path().display());
            let input = ["-xerror", "-i", &input];
            let encoding = encoding(colours::FROM_UNTOLD);
            let arguments = [&input[..], &encoding, &every_frame()].concat();
            make(&clip.path, converted.path(), &arguments, |_| Ok(()))?;
            Ok(converted)
        });
        files.collect()
    }

    /// A file that says that it is no video.
    fn write_placeholder(
        &self,
        name: impl FnOnce(&BlobRef) -> PathBuf,
    ) -> Result<BlobRef, RunError> {
        let content = BlobRef::of(PLACEHOLDER);
        self.storage.write(&name(&content), PLACEHOLDER)?;
        Ok(content)
    }

    /// Runs ffmpeg into a draft of `path`, fed by `feed`, and brings it in as `name` says.
    fn produce(
        &self,
        path: &Path,
        name: impl FnOnce(&BlobRef) -> PathBuf,
        arguments: &[&str],
        feed: impl FnOnce(&mut Child) -> std::io::Result<()>,
    ) -> Result<BlobRef, RunError> {
        let draft = self.storage.draft(path)?;
        make(path, draft.path(), arguments, feed)?;
        let content = BlobRef::of(&draft.read()?);
        self.storage.bring_in(draft, &name(&content))?;
        Ok(content)
    }
}

/// Runs ffmpeg into the file `into`, fed by `feed`. Errors name `path`.
fn make(
    path: &Path,
    into: &Path,
    arguments: &[&str],
    feed: impl FnOnce(&mut Child) -> std::io::Result<()>,
) -> Result<(), RunError> {
    let failed = |reason: String| RunError::Ffmpeg {
        path: path.to_owned(),
        reason,
    };
    let mut child = ffmpeg(arguments)
        .args([
            "-fflags",
            "+bitexact",
            "-flags:v",
            "+bitexact",
            "-movflags",
            "+faststart",
        ])
        .args(["-f", "mp4"])
        .arg(address(into))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| RunError::FfmpegAway {
            reason: error.to_string(),
        })?;
    // A broken pipe is told better by ffmpeg itself.
    let fed = feed(&mut child);
    drop(child.stdin.take());
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(last_words(&output.stderr)));
    }
    fed.map_err(|error| failed(error.to_string()))
}

/// A call of ffmpeg that decodes a whole video, every frame of it once, after these options of its input; how
/// the frames are written follows.
fn whole_video(file: &Path, input: &[&str]) -> Command {
    let mut command = ffmpeg(&["-xerror"]);
    command
        .args(input)
        .arg("-i")
        .arg(address(file))
        .args(["-map", "0:v:0"])
        // The time stamps of films of earlier builds drift, of which the frames know nothing.
        .args(every_frame())
        .args(["-vf", "setpts=N/FRAME_RATE/TB"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The frames of a video, as they decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedFrames {
    /// How many there are.
    pub frames: u64,
    /// Digests of the RGB bytes of the numbers of frames that were asked for, in their order; fewer if the
    /// video is shorter.
    pub parts: Vec<blake3::Hash>,
}

/// Decodes all frames of a video of the given size, once. `parts` are numbers of frames.
///
/// # Errors
/// ffmpeg cannot decode all of it, or the frames have another size.
pub fn decode_frames(
    storage: &dyn Storage,
    path: &Path,
    (width, height): (u32, u32),
    parts: &[u64],
) -> Result<DecodedFrames, RunError> {
    let failed = |reason: String| RunError::Ffmpeg {
        path: path.to_owned(),
        reason,
    };
    let file = storage.local_copy(path)?;
    let mut child = whole_video(file.path(), &[])
        .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"])
        .spawn()
        .map_err(|error| RunError::FfmpegAway {
            reason: error.to_string(),
        })?;
    let frame = u64::from(width) * u64::from(height) * 3;
    let mut digests = PartDigests::new(parts.iter().map(|frames| frames * frame));
    if let Some(mut frames) = child.stdout.take() {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match frames.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => digests.update(&buffer[..read]),
                Err(error) => return Err(failed(error.to_string())),
            }
        }
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(last_words(&output.stderr)));
    }
    let bytes = digests.bytes;
    if frame == 0 || !bytes.is_multiple_of(frame) {
        return Err(failed(format!(
            "{bytes} bytes are no frames of {width}x{height}"
        )));
    }
    Ok(DecodedFrames {
        frames: bytes / frame,
        parts: digests.done,
    })
}

/// Digests of a stream that is cut into parts.
struct PartDigests<I> {
    /// Bytes of the parts that have not begun.
    next: I,
    /// The part that is being read, and the bytes that it still needs.
    part: Option<(blake3::Hasher, u64)>,
    done: Vec<blake3::Hash>,
    /// Bytes in all.
    bytes: u64,
}

impl<I: Iterator<Item = u64>> PartDigests<I> {
    fn new(mut parts: I) -> Self {
        let part = parts.next().map(|bytes| (blake3::Hasher::new(), bytes));
        Self {
            next: parts,
            part,
            done: Vec::new(),
            bytes: 0,
        }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        while let Some((hasher, left)) = &mut self.part {
            let take = usize::try_from(*left)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            let (now, later) = bytes.split_at(take);
            hasher.update(now);
            *left -= take as u64;
            bytes = later;
            if *left > 0 {
                return;
            }
            self.done.push(hasher.finalize());
            self.part = self.next.next().map(|bytes| (blake3::Hasher::new(), bytes));
        }
    }
}

/// Whether the frames of a film are those of this clip: those of clips that do not say what their
/// colours are were converted for it.
pub fn is_joined_as_it_is(storage: &dyn Storage, film: &Path, clip: &Path) -> bool {
    let read = |path: &Path| storage.read(path);
    let tells = |path: &Path| read(path).is_ok_and(|bytes| colours::are_told(&bytes));
    tells(clip) || !tells(film)
}

/// Frame `index` of a video whose frames have the given size.
///
/// # Errors
/// ffmpeg cannot decode it, or it has another size.
pub fn read_frame(
    storage: &dyn Storage,
    video: &Path,
    index: u32,
    (width, height): (u32, u32),
) -> Result<RgbImage, RunError> {
    let failed = |reason: String| RunError::Ffmpeg {
        path: video.to_owned(),
        reason,
    };
    let file = storage.local_copy(video)?;
    let output = ffmpeg(&["-i"])
        .arg(address(file.path()))
        .args(["-vf", &format!("select=eq(n\\,{index})"), "-frames:v", "1"])
        .args(every_frame())
        .args(["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| RunError::FfmpegAway {
            reason: error.to_string(),
        })?;
    if !output.status.success() {
        return Err(failed(last_words(&output.stderr)));
    }
    RgbImage::new(width, height, output.stdout).map_err(|error| failed(error.to_string()))
}

/// What ffmpeg joins. Of each clip it is told how long it is: the length that files have is rounded to
/// milliseconds, and the time stamps of a film would drift by that at each of its clips. Ends are
/// rounded and lengths are their differences, so that nothing adds up.
fn concat_list<'a>(clips: impl Iterator<Item = (&'a Path, u32)>, fps: u32) -> String {
    let mut list = String::new();
    let (mut frames, mut begin) = (0_u64, 0_u64);
    for (path, length) in clips {
        frames += u64::from(length);
        let end = microseconds(frames, fps);
        let length = end - begin;
        list.push_str(&list_entry(path));
        // Writing to a text cannot fail.
        let _ = writeln!(
            list,
            "duration {}.{:06}",
            length / 1_000_000,
            length % 1_000_000
        );
        begin = end;
    }
    list
}

/// How long `frames` frames last, to the nearest microsecond.
fn microseconds(frames: u64, fps: u32) -> u64 {
    let fps = u128::from(fps.max(1));
    let microseconds = (u128::from(frames) * 1_000_000 + fps / 2) / fps;
    u64::try_from(microseconds).unwrap_or(u64::MAX)
}

/// A line of the concat list; single quotes inside are closed, escaped and opened again.
fn list_entry(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let quoted = absolute.display().to_string().replace('\'', "'\\''");
    format!("file 'file:{quoted}'\n")
}

#[cfg(test)]
mod tests;

//! Video files, by the `ffmpeg` program.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};

use storyloom_memory::storage::temporary_name;
use storyloom_memory::{BlobRef, MemoryError, Storage};
use storyloom_story::{Clip, RgbImage};

use crate::config::Videos;
use crate::error::RunError;

/// Writes and checks videos.
#[derive(Debug, Clone)]
pub struct VideoFiles {
    storage: Arc<dyn Storage>,
    kind: Videos,
}

/// What stands in every file of a run without videos.
pub const PLACEHOLDER: &[u8] = b"storyloom: no video was made (simulated.videos = false)\n";

/// Constant rate factor of x264; 10 is close to lossless (StoryMem's writer, quality 8).
const QUALITY: &str = "10";

/// Threads of x264, whose output depends on their number; so equal on every machine.
const THREADS: &str = "4";

impl VideoFiles {
    /// Fails if `ffmpeg` is needed and cannot be started, before anything is paid for.
    pub fn new(storage: Arc<dyn Storage>, kind: Videos) -> Result<Self, RunError> {
        if kind == Videos::Placeholders {
            return Ok(Self { storage, kind });
        }
        /// Looked for once in a process.
        static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
        let found = FOUND.get_or_init(|| {
            let started = Command::new("ffmpeg")
                .arg("-version")
                .stdin(Stdio::null())
                .output();
            match started {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => Err(output.status.to_string()),
                Err(error) => Err(error.to_string()),
            }
        });
        match found.clone() {
            Ok(()) => Ok(Self { storage, kind }),
            Err(reason) => Err(RunError::FfmpegAway { reason }),
        }
    }

    /// Encodes a clip to H.264 in `folder`, durably, under the name that `name` gives its content.
    pub fn write_clip(
        &self,
        folder: &Path,
        clip: &Clip,
        fps: u32,
        name: impl FnOnce(&BlobRef) -> PathBuf,
    ) -> Result<BlobRef, RunError> {
        if self.kind == Videos::Placeholders {
            return self.write_placeholder(name);
        }
        let size = format!("{}x{}", clip.width(), clip.height());
        let rate = fps.to_string();
        let input = [
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size, "-r", &rate, "-i", "pipe:0",
        ];
        let codec = [
            "-an", "-c:v", "libx264", "-crf", QUALITY, "-pix_fmt", "yuv420p", "-threads", THREADS,
        ];
        let arguments = [&input[..], &codec].concat();
        self.produce(&folder.join("clip.mp4"), name, &arguments, |child| {
            let mut stdin = child.stdin.take();
            for frame in clip.frames() {
                if let Some(stdin) = stdin.as_mut() {
                    stdin.write_all(frame.data())?;
                }
            }
            Ok(())
        })
    }

    /// Joins clips of one size and rate without encoding them again.
    pub fn join_clips(&self, path: &Path, clips: &[PathBuf]) -> Result<BlobRef, RunError> {
        // ffmpeg would leave a missing clip out without failing.
        if let Some(missing) = clips.iter().find(|clip| !self.storage.exists(clip)) {
            return Err(RunError::Ffmpeg {
                path: missing.clone(),
                reason: "the shot's video is not there".to_owned(),
            });
        }
        if self.kind == Videos::Placeholders {
            return self.write_placeholder(|_| path.to_owned());
        }
        let list: String = clips.iter().map(|clip| list_entry(clip)).collect();
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

    /// A file that says that it is no video.
    fn write_placeholder(
        &self,
        name: impl FnOnce(&BlobRef) -> PathBuf,
    ) -> Result<BlobRef, RunError> {
        let content = BlobRef::of(PLACEHOLDER);
        self.storage.write(&name(&content), PLACEHOLDER)?;
        Ok(content)
    }

    /// Runs ffmpeg into a temporary file beside `path`, fed by `feed`, and publishes it as `name`
    /// says.
    fn produce(
        &self,
        path: &Path,
        name: impl FnOnce(&BlobRef) -> PathBuf,
        arguments: &[&str],
        feed: impl FnOnce(&mut Child) -> std::io::Result<()>,
    ) -> Result<BlobRef, RunError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|error| MemoryError::storage("create the folder", folder, error))?;
        }
        let temporary = temporary_name(path);
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
            .arg(&temporary)
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
        let result = if !output.status.success() {
            Err(failed(last_words(&output.stderr)))
        } else if let Err(error) = fed {
            Err(failed(error.to_string()))
        } else {
            self.finish(&temporary, name)
        };
        if result.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        result
    }

    /// Names the finished file, durably.
    fn finish(
        &self,
        temporary: &Path,
        name: impl FnOnce(&BlobRef) -> PathBuf,
    ) -> Result<BlobRef, RunError> {
        let content = BlobRef::of(&self.storage.read(temporary)?);
        self.storage.publish(temporary, &name(&content))?;
        Ok(content)
    }
}

/// Frames of a video of the given size, counted by decoding all of it.
pub fn count_frames(path: &Path, (width, height): (u32, u32)) -> Result<u64, RunError> {
    let failed = |reason: String| RunError::Ffmpeg {
        path: path.to_owned(),
        reason,
    };
    let mut child = ffmpeg(&["-xerror", "-i"])
        .arg(path)
        .args([
            "-map", "0:v:0", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| RunError::FfmpegAway {
            reason: error.to_string(),
        })?;
    let mut bytes = 0_u64;
    if let Some(mut frames) = child.stdout.take() {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match frames.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => bytes += read as u64,
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
    let frame = u64::from(width) * u64::from(height) * 3;
    if frame == 0 || !bytes.is_multiple_of(frame) {
        return Err(failed(format!(
            "{bytes} bytes are no frames of {width}x{height}"
        )));
    }
    Ok(bytes / frame)
}

/// Frame `index` of a video whose frames have the given size.
pub fn read_frame(
    video: &Path,
    index: u32,
    (width, height): (u32, u32),
) -> Result<RgbImage, RunError> {
    let failed = |reason: String| RunError::Ffmpeg {
        path: video.to_owned(),
        reason,
    };
    let output = ffmpeg(&["-i"])
        .arg(video)
        .args(["-vf", &format!("select=eq(n\\,{index})"), "-frames:v", "1"])
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

fn ffmpeg(arguments: &[&str]) -> Command {
    let mut command = Command::new("ffmpeg");
    command
        .args(["-hide_banner", "-nostdin", "-loglevel", "error", "-y"])
        .args(arguments)
        // Launchers pass signals to whole process groups; ours would end it in the middle of a clip.
        .process_group(0);
    command
}

/// A line of the concat list; single quotes inside are closed, escaped and opened again.
fn list_entry(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let quoted = absolute.display().to_string().replace('\'', "'\\''");
    format!("file 'file:{quoted}'\n")
}

fn last_words(stderr: &[u8]) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_memory::Disk;

    fn clip(frames: u8) -> Clip {
        let frame = |value: u8| RgbImage::new(32, 16, vec![value * 20; 32 * 16 * 3]).unwrap();
        Clip::new((0..frames).map(frame).collect()).unwrap()
    }

    fn write(files: &VideoFiles, path: &Path, clip: &Clip) -> Result<BlobRef, RunError> {
        files.write_clip(path.parent().unwrap(), clip, 8, |_| path.to_owned())
    }

    #[test]
    fn clips_are_written_joined_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let files = VideoFiles::new(Arc::new(Disk), Videos::Encoded).unwrap();
        let quoted = folder.path().join("it's a folder");
        std::fs::create_dir(&quoted).unwrap();
        let paths = ["a.mp4", "b.mp4"].map(|name| quoted.join(name));
        for (path, frames) in paths.iter().zip([5, 9]) {
            let content = write(&files, path, &clip(frames)).unwrap();
            assert_eq!(content, BlobRef::of(&std::fs::read(path).unwrap()));
            assert_eq!(count_frames(path, (32, 16)).unwrap(), u64::from(frames));
        }
        let again = write(&files, &quoted.join("c.mp4"), &clip(5)).unwrap();
        assert_eq!(
            again,
            BlobRef::of(&std::fs::read(&paths[0]).unwrap()),
            "same clip, same bytes"
        );
        let whole = quoted.join("whole.mp4");
        files.join_clips(&whole, &paths).unwrap();
        assert_eq!(count_frames(&whole, (32, 16)).unwrap(), 14);
        let frame = read_frame(&whole, 7, (32, 16)).unwrap();
        // The third of the second clip, in which every frame is brighter than the one before.
        assert!(frame.data()[0].abs_diff(40) < 8, "{}", frame.data()[0]);
        assert!(read_frame(&whole, 14, (32, 16)).is_err(), "there are 14");
        assert_eq!(
            std::fs::read_dir(&quoted).unwrap().count(),
            4,
            "no unfinished files"
        );
    }

    #[test]
    fn a_truncated_video_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let files = VideoFiles::new(Arc::new(Disk), Videos::Encoded).unwrap();
        let path = folder.path().join("a.mp4");
        write(&files, &path, &clip(9)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(count_frames(&path, (32, 16)).map_or(true, |frames| frames != 9));
        let nowhere = path.join("under/a/file.mp4");
        assert!(write(&files, &nowhere, &clip(1)).is_err());
    }
}

use std::process::Command;

use storyloom_memory::Disk;

use super::*;

const SIZE: (u32, u32) = (32, 16);

fn files() -> VideoFiles {
    VideoFiles::new(Arc::new(Disk), Videos::Encoded).unwrap()
}

fn solid((width, height): (u32, u32), colour: [u8; 3]) -> RgbImage {
    RgbImage::new(width, height, colour.repeat((width * height) as usize)).unwrap()
}

/// Frames of which each is brighter than the one before.
fn clip(frames: u32) -> Clip {
    let frame = |index: u32| solid(SIZE, [(index * 20 % 256) as u8; 3]);
    Clip::new((0..frames).map(frame).collect()).unwrap()
}

fn write(path: &Path, clip: &Clip, fps: u32) -> Result<BlobRef, RunError> {
    let folder = path.parent().unwrap();
    let (width, height) = (clip.width(), clip.height());
    let size = Resolution { width, height };
    files().write_clip(folder, clip, ClipForm { size, fps }, |_| path.to_owned())
}

fn clip_file(path: &Path, frames: u32) -> ClipFile {
    ClipFile {
        path: path.to_owned(),
        frames,
        content: BlobRef::of(&std::fs::read(path).unwrap_or_default()),
    }
}

fn count_frames(path: &Path, size: (u32, u32)) -> Result<u64, RunError> {
    decode_frames(&Disk, path, size, &[]).map(|decoded| decoded.frames)
}

/// A clip as builds wrote it that did not tell colours.
fn write_untold(path: &Path, clip: &Clip, fps: u32) {
    let size = format!("{}x{}", clip.width(), clip.height());
    let mut child = ffmpeg(&["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size])
        .args(["-r", &fps.to_string(), "-i", "pipe:0", "-c:v", "libx264"])
        .args(["-crf", "10", "-pix_fmt", "yuv420p"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for frame in clip.frames() {
        stdin.write_all(frame.data()).unwrap();
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// What ffprobe says of the video of a file, one value a line.
fn probe(path: &Path, entries: &str) -> Vec<String> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-of", "csv=p=0"])
        .args(["-show_entries", entries])
        .arg(path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", path.display());
    let text = String::from_utf8(output.stdout).unwrap();
    let values = text.split([',', '\n']).map(str::trim);
    let values = values.filter(|value| !value.is_empty());
    values.map(str::to_owned).collect()
}

/// Frame `n` of the film begins at `n / fps`, and nothing is rounded.
#[track_caller]
fn assert_exact(film: &Path, frames: u64, fps: u64) {
    let time_base = probe(film, "stream=time_base").remove(0);
    let scale: u64 = time_base.strip_prefix("1/").unwrap().parse().unwrap();
    let mut stamps: Vec<u64> = probe(film, "packet=pts")
        .iter()
        .map(|stamp| stamp.parse().unwrap())
        .collect();
    stamps.sort_unstable();
    let begins: Vec<u64> = stamps.iter().map(|stamp| stamp * fps).collect();
    let wanted: Vec<u64> = (0..frames).map(|frame| frame * scale).collect();
    assert!(begins == wanted, "{frames} frames at {fps} a second");
    let duration: u64 = probe(film, "stream=duration_ts")[0].parse().unwrap();
    assert_eq!(duration * fps, frames * scale);
    let begin = probe(film, "stream=start_pts,nb_frames");
    assert_eq!(begin, ["0".to_owned(), frames.to_string()]);
    assert_eq!(count_frames(film, SIZE).unwrap(), frames);
}

#[test]
fn clips_are_written_joined_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let quoted = folder.path().join("it's a: folder");
    std::fs::create_dir(&quoted).unwrap();
    let paths = ["a.mp4", "b.mp4"].map(|name| quoted.join(name));
    for (path, frames) in paths.iter().zip([5, 9]) {
        let content = write(path, &clip(frames), 8).unwrap();
        assert_eq!(content, BlobRef::of(&std::fs::read(path).unwrap()));
        assert_exact(path, u64::from(frames), 8);
    }
    let again = write(&quoted.join("c.mp4"), &clip(5), 8).unwrap();
    assert_eq!(
        again,
        BlobRef::of(&std::fs::read(&paths[0]).unwrap()),
        "same clip, same bytes"
    );
    let whole = quoted.join("whole.mp4");
    let clips = [clip_file(&paths[0], 5), clip_file(&paths[1], 9)];
    files().join_clips(&whole, &clips, 8).unwrap();
    assert_exact(&whole, 14, 8);
    let frame = read_frame(&Disk, &whole, 7, SIZE).unwrap();
    // The third of the second clip, in which every frame is brighter than the one before.
    assert!(frame.data()[0].abs_diff(40) < 8, "{}", frame.data()[0]);
    assert!(read_frame(&Disk, &whole, 14, SIZE).is_err(), "there are 14");
    assert_eq!(
        std::fs::read_dir(&quoted).unwrap().count(),
        4,
        "no unfinished files"
    );
}

#[test]
fn frames_larger_than_their_film_are_cropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    // Grey in the middle, white where the film ends: the codec would mix them in one block.
    let (film, (width, height)) = ((60, 44), (64, 48));
    let inside = |x: u32, y: u32| (2..62).contains(&x) && (2..46).contains(&y);
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| inside(x, y)));
    let pixels = pixels.flat_map(|inside| [if inside { 60 } else { 255 }; 3]);
    let frame = RgbImage::new(width, height, pixels.collect()).unwrap();
    let clip = Clip::new(vec![frame; 5]).unwrap();
    let write = |(width, height)| {
        let size = Resolution { width, height };
        files().write_clip(folder.path(), &clip, ClipForm { size, fps: 8 }, |_| {
            path.clone()
        })
    };
    write(film).unwrap();
    assert_eq!(probe(&path, "stream=width,height"), ["60", "44"]);
    assert_eq!(count_frames(&path, film).unwrap(), 5);
    let shown = read_frame(&Disk, &path, 0, film).unwrap();
    let brightest = shown.data().iter().max().unwrap();
    assert!(*brightest < 68, "{brightest} of 60 is white at an edge");
    write((80, 48)).unwrap_err();
}

#[test]
fn the_frames_of_a_film_are_those_of_its_clips() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a.mp4", "b.mp4"].map(|name| folder.path().join(name));
    let mut counts = Vec::new();
    for (path, frames) in paths.iter().zip([5, 9]) {
        write(path, &clip(frames), 8).unwrap();
        counts.push(u64::from(frames));
    }
    let clips = [clip_file(&paths[0], 5), clip_file(&paths[1], 9)];
    let film = folder.path().join("film.mp4");
    files().join_clips(&film, &clips, 8).unwrap();
    let decoded = decode_frames(&Disk, &film, SIZE, &counts).unwrap();
    assert_eq!(decoded.frames, 14);
    for ((path, frames), part) in paths.iter().zip(&counts).zip(&decoded.parts) {
        let own = decode_frames(&Disk, path, SIZE, &[*frames]).unwrap();
        assert_eq!(own.parts, [*part], "{}", path.display());
        assert!(is_joined_as_it_is(&Disk, &film, path));
    }
    // One of as many frames that are others.
    let black = Clip::new(vec![solid(SIZE, [0; 3]); 9]).unwrap();
    write(&paths[1], &black, 8).unwrap();
    let own = decode_frames(&Disk, &paths[1], SIZE, &[9]).unwrap();
    assert_ne!(own.parts[0], decoded.parts[1]);
    assert_eq!(
        decode_frames(&Disk, &film, SIZE, &[10, 10])
            .unwrap()
            .parts
            .len(),
        1
    );
    let error = files()
        .join_clips(&film, &clips, 8)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("b.mp4") && error.contains("has changed"),
        "{error}"
    );
    assert_eq!(
        decode_frames(&Disk, &film, SIZE, &counts).unwrap(),
        decoded,
        "the film stays"
    );
}

#[test]
fn films_of_many_clips_have_exact_time_stamps() {
    // 1/30 and 1/7 are no whole numbers of microseconds, nor of milliseconds.
    for (clips, frames, fps) in [(64, 81, 16), (150, 5, 16), (150, 5, 30), (130, 13, 7)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mp4");
        write(&path, &clip(frames), fps).unwrap();
        let list = vec![clip_file(&path, frames); clips];
        let film = folder.path().join("film.mp4");
        files().join_clips(&film, &list, fps).unwrap();
        assert_exact(&film, clips as u64 * u64::from(frames), u64::from(fps));
    }
}

#[test]
fn lengths_of_clips_add_up() {
    let list = concat_list(std::iter::repeat_n((Path::new("/a.mp4"), 5), 3), 30);
    let lengths: Vec<&str> = list
        .lines()
        .filter_map(|line| line.strip_prefix("duration "))
        .collect();
    assert_eq!(lengths, ["0.166667", "0.166666", "0.166667"]);
}

/// Films of earlier builds were joined without the lengths of their clips.
#[test]
fn a_film_whose_time_stamps_drift_has_the_frames_that_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    write_untold(&path, &clip(5), 16);
    let list: String = (0..150).map(|_| list_entry(&path)).collect();
    let film = folder.path().join("film.mp4");
    let mut child = ffmpeg(&["-f", "concat", "-safe", "0"])
        .args(["-protocol_whitelist", "file,pipe,fd", "-i", "pipe:0"])
        .args(["-c", "copy"])
        .arg(&film)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(list.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(count_frames(&film, SIZE).unwrap(), 750);
}

/// Colours that a player would show wrongly if pixels and description did not agree.
const SATURATED: [[u8; 3]; 8] = [
    [200, 30, 60],
    [255, 0, 0],
    [0, 255, 0],
    [0, 0, 255],
    [0, 255, 255],
    [255, 0, 255],
    [255, 255, 0],
    [116, 133, 114],
];

/// Luma and chroma of a colour by the equations of BT.709 with limited range.
fn bt709([red, green, blue]: [u8; 3]) -> [f64; 3] {
    let [red, green, blue] = [red, green, blue].map(|value| f64::from(value) / 255.0);
    let luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    [
        16.0 + 219.0 * luma,
        128.0 + 224.0 * (blue - luma) / 1.8556,
        128.0 + 224.0 * (red - luma) / 1.5748,
    ]
}

/// The first values of luma and chroma of a video, as they are stored.
fn stored(path: &Path, (width, height): (u32, u32)) -> [f64; 3] {
    let output = ffmpeg(&["-i"])
        .arg(path)
        .args(["-frames:v", "1", "-f", "rawvideo", "pipe:1"])
        .output()
        .unwrap();
    let luma = (width * height) as usize;
    [0, luma, luma + luma / 4].map(|at| f64::from(output.stdout[at]))
}

#[test]
fn colours_are_bt709_and_the_file_says_so() {
    const TAGS: &str = "stream=color_range,color_space,color_transfer,color_primaries,\
        chroma_location,pix_fmt";
    let folder = tempfile::tempdir().unwrap();
    for size in [(160, 96), (1280, 720)] {
        for colour in SATURATED {
            let path = folder.path().join("a.mp4");
            let whole = Clip::new(vec![solid(size, colour)]).unwrap();
            write(&path, &whole, 16).unwrap();
            for (stored, wanted) in stored(&path, size).into_iter().zip(bt709(colour)) {
                assert!(
                    (stored - wanted).abs() < 1.5,
                    "{colour:?}: {stored} {wanted}"
                );
            }
            assert_shows(&path, size, 0, colour);
        }
        let film = folder.path().join("film.mp4");
        let clips = vec![clip_file(&folder.path().join("a.mp4"), 1); 2];
        files().join_clips(&film, &clips, 16).unwrap();
        let told = ["yuv420p", "tv", "bt709", "bt709", "bt709", "left"];
        assert_eq!(probe(&film, TAGS), told);
    }
}

#[track_caller]
fn assert_shows(path: &Path, size: (u32, u32), index: u32, colour: [u8; 3]) {
    let frame = read_frame(&Disk, path, index, size).unwrap();
    for (pixel, wanted) in frame.data().iter().zip(colour.iter().cycle()) {
        assert!(pixel.abs_diff(*wanted) <= 3, "{pixel} in {colour:?}");
    }
}

/// A story that an earlier build began and this one finishes.
#[test]
fn clips_of_earlier_builds_are_converted_for_the_film() {
    let folder = tempfile::tempdir().unwrap();
    let [old, new, film] = ["old.mp4", "new.mp4", "film.mp4"].map(|name| folder.path().join(name));
    let colour = SATURATED[0];
    let whole = Clip::new(vec![solid(SIZE, colour); 5]).unwrap();
    write_untold(&old, &whole, 16);
    write(&new, &whole, 16).unwrap();
    let before = std::fs::read(&old).unwrap();
    for order in [[&old, &new], [&new, &old]] {
        let clips = order.map(|path| clip_file(path, 5));
        files().join_clips(&film, &clips, 16).unwrap();
        assert!(colours::are_told(&std::fs::read(&film).unwrap()));
        assert_exact(&film, 10, 16);
        for index in [0, 4, 5, 9] {
            assert_shows(&film, SIZE, index, colour);
        }
    }
    assert_eq!(std::fs::read(&old).unwrap(), before, "it stays as it is");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn a_truncated_video_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    write(&path, &clip(9), 8).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(count_frames(&path, SIZE).map_or(true, |frames| frames != 9));
    let nowhere = path.join("under/a/file.mp4");
    assert!(write(&nowhere, &clip(1), 8).is_err());
}

/// The frames of a video that somebody brings, or why they are not what is wanted.
fn brought(path: &Path, size: (u32, u32), frames: u32) -> Result<Vec<RgbImage>, String> {
    let (width, height) = size;
    let bytes = std::fs::read(path).unwrap();
    let wanted = (Resolution { width, height }, frames);
    read_clip(path, &bytes, wanted).map_err(|error| error.to_string())
}

#[test]
fn a_brought_video_has_the_size_and_the_length_that_are_wanted() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("one: two.mp4");
    write(&path, &clip(9), 8).unwrap();
    let frames = brought(&path, SIZE, 9).unwrap();
    assert_eq!(frames.len(), 9);
    for (index, frame) in (0..).zip(&frames) {
        assert_eq!(*frame, read_frame(&Disk, &path, index, SIZE).unwrap());
    }
    for (size, frames, wanted) in [
        (
            (16, 32),
            9,
            "its frames have 32x16 pixels, and those of the story 16x32",
        ),
        (SIZE, 5, "it has 9 frames, and a shot of the story has 5"),
        (SIZE, 13, "it has 9 frames, and a shot of the story has 13"),
    ] {
        let said = brought(&path, size, frames).unwrap_err();
        assert!(said.starts_with(wanted), "{said}");
    }
}

/// Text that leads ffmpeg to other files is no video, whatever its name is.
#[test]
fn a_brought_video_leads_to_no_other_file() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("own.mp4");
    write(&own, &clip(9), 8).unwrap();
    let shown = own.display();
    let whole = std::fs::read(&own).unwrap();
    let mut named = 0;
    for (name, bytes) in [
        (
            "a.m3u8",
            format!("#EXTM3U\n#EXTINF:1,\nfile:{shown}\n#EXT-X-ENDLIST\n").into_bytes(),
        ),
        (
            "b.mp4",
            format!("ffconcat version 1.0\nfile \'{shown}\'\n").into_bytes(),
        ),
        ("c.mp4", whole[..whole.len() / 2].to_vec()),
        ("d.mp4", PLACEHOLDER.to_vec()),
    ] {
        let path = root.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let said = brought(&path, SIZE, 9).unwrap_err();
        assert!(
            said.starts_with("it cannot be decoded as a video"),
            "{name}: {said}"
        );
        // ffmpeg has read a copy, of which nobody has heard.
        let copies = std::env::temp_dir().join("storyloom");
        assert!(!said.contains("file:"), "{name}: {said}");
        assert!(
            !said.contains(&copies.display().to_string()),
            "{name}: {said}"
        );
        let is_named = said.contains(&path.display().to_string());
        assert_eq!(is_named, said.contains(name), "{name}: {said}");
        named += usize::from(is_named);
    }
    assert!(named > 0, "ffmpeg names the file that it cannot read");
}

//! Films as viewers see them: in a real browser, by time and by colour.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use storyloom_memory::Disk;
use storyloom_orchestrator::Videos;
use storyloom_orchestrator::output::{ClipFile, ClipForm, VideoFiles, read_frame};
use storyloom_story::{Clip, Resolution, RgbImage};

use crate::browser::Browser;
use crate::harness::{Workshop, call, finish, frames, line};

/// Saturated in red and green, which are off by up to 40 levels when somebody takes the wrong matrix.
///
/// Not in blue: without a GPU, Chromium on x86 multiplies the blue chroma of BT.709 by 2.0, the largest
/// factor that its library (libyuv) has there, instead of 2.112, and shows (0, 0, 255) as (1, 0, 243)
/// whatever the file.
const COLOURS: [[u8; 3]; 7] = [
    [200, 30, 60],
    [255, 0, 0],
    [220, 60, 20],
    [0, 180, 190],
    [30, 150, 110],
    [180, 40, 90],
    [116, 133, 114],
];
const FPS: u32 = 16;
/// Frames of a clip.
const FRAMES: usize = 5;

/// A film of one clip for each colour.
fn film(folder: &Path, (width, height): (u32, u32)) -> Vec<u8> {
    let files = VideoFiles::new(Arc::new(Disk), Videos::Encoded).unwrap();
    let form = ClipForm {
        size: Resolution { width, height },
        fps: FPS,
    };
    let clips = COLOURS.iter().enumerate().map(|(place, colour)| {
        let path = folder.join(format!("{place}.mp4"));
        let frame = RgbImage::new(width, height, colour.repeat((width * height) as usize));
        let clip = Clip::new(vec![frame.unwrap(); FRAMES]).unwrap();
        let content = files.write_clip(folder, &clip, form, |_| path.clone());
        ClipFile {
            path,
            frames: FRAMES as u32,
            content: content.unwrap(),
        }
    });
    let clips: Vec<ClipFile> = clips.collect();
    let path = folder.join("film.mp4");
    files.join_clips(&path, &clips, FPS).unwrap();
    std::fs::read(path).unwrap()
}

/// Opens a film from memory, since a page must not read pixels of a file.
fn open(browser: &mut Browser, film: &[u8]) -> bool {
    let bytes = serde_json::to_string(film).unwrap();
    let loaded = browser.eval(&format!(
        "new Promise((done) => {{
           const bytes = new Uint8Array({bytes});
           window.film = document.createElement('video');
           film.muted = true;
           film.onloadeddata = () => done(true);
           film.onerror = () => done(false);
           film.src = URL.createObjectURL(new Blob([bytes], {{type: 'video/mp4'}}));
         }})"
    ));
    loaded == true
}

/// The pixel in the middle of what the film shows at `seconds`.
fn pixel(browser: &mut Browser, seconds: f64) -> [u8; 3] {
    let pixel: Value = browser.eval(&format!(
        "new Promise((done) => {{
           film.onseeked = () => {{
             const canvas = document.createElement('canvas');
             [canvas.width, canvas.height] = [film.videoWidth, film.videoHeight];
             const context = canvas.getContext('2d');
             context.drawImage(film, 0, 0);
             const [x, y] = [canvas.width / 2, canvas.height / 2];
             done([...context.getImageData(x, y, 1, 1).data].slice(0, 3));
           }};
           film.currentTime = {seconds};
         }})"
    ));
    serde_json::from_value(pixel).unwrap()
}

#[test]
fn a_browser_shows_the_colours_that_were_made() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    for size in [(160, 96), (1280, 720)] {
        let folder = tempfile::tempdir().unwrap();
        let film = film(folder.path(), size);
        if !open(&mut browser, &film) {
            eprintln!("skipped: this browser plays no H.264");
            return;
        }
        let length = browser.eval("film.duration").as_f64().unwrap();
        let wanted = (COLOURS.len() * FRAMES) as f64 / f64::from(FPS);
        assert!((length - wanted).abs() < 1e-6, "{length} s");
        for (place, colour) in COLOURS.iter().enumerate() {
            // The middle of the first frame of its clip, and of the last.
            for frame in [place * FRAMES, (place + 1) * FRAMES - 1] {
                let shown = pixel(&mut browser, (frame as f64 + 0.5) / f64::from(FPS));
                for (shown, made) in shown.iter().zip(colour) {
                    assert!(
                        shown.abs_diff(*made) <= 3,
                        "{shown} in frame {frame} of {colour:?} at {size:?}"
                    );
                }
            }
        }
    }
}

/// The size of a video as players see it.
fn size(video: &Path) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0"])
        .args(["-show_entries", "stream=width,height", "-of", "csv=p=0:s=x"])
        .arg(video)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// `size` is that of the film, also where no model makes it; `validate` and `estimate` say what is made.
#[test]
fn a_film_has_the_size_that_was_asked_for() {
    let shop = Workshop::new();
    let line = |id: &str, size: Value| {
        let mut line: Value = serde_json::from_str(&line(id, &[true, false])).unwrap();
        line["size"] = size;
        line.to_string()
    };
    let lines = [
        line("odd", serde_json::json!([108, 190])),
        line("even", serde_json::json!([112, 192])),
    ];
    let manifest = shop.write("m.jsonl", lines.join("\n"));
    let note = "1 film is made at 112x192 and cropped to 108x190";
    call(&["validate", &manifest]).ended_with(0).saying(note);
    let told = call(&["validate", "--json", &manifest])
        .ended_with(0)
        .json();
    assert_eq!(told["cropped"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(told["cropped"][0]["generated"]["height"], 192);
    let config = shop.write("c.toml", "engine = 'simulated'\n");
    let estimate = ["estimate", "--config", &config, "--manifest", &manifest];
    let estimate = call(&estimate);
    assert!(estimate.stdout.contains(note), "{}", estimate.stdout);

    finish(&mut shop.run(&manifest, &["video.width=60", "video.height=44"])).ended_with(0);
    let proof = shop.ask(&["verify", "--json"]).ended_with(0).json();
    assert_eq!(proof["shots_proven"], 4);
    shop.ask(&["report"]).ended_with(0);
    for (story, wanted) in [("odd", "108x190"), ("even", "112x192")] {
        for name in ["01_01.mp4", "01_02.mp4", "story.mp4"] {
            let video = shop.out().join("stories").join(story).join(name);
            assert_eq!(size(&video), wanted, "{}", video.display());
        }
    }
    let odd = call(&["validate", &manifest, "--set", "video.width=61"]);
    odd.ended_with(78)
        .saying("video.width = 61 must be a positive even number; the nearest is 62");
}

/// What docs/videos.md says of another rate: the frames are the same, and each begins when it should.
#[test]
fn a_film_gets_another_rate_without_another_encoding() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/videos.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once("## Another rate").unwrap();
    let (_, command) = section.split_once("```sh\n").unwrap();
    let (command, _) = command.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let clips: Vec<ClipFile> = ["a.mp4", "b.mp4"]
        .map(|name| rising(folder.path(), name))
        .into();
    let files = VideoFiles::new(Arc::new(Disk), Videos::Encoded).unwrap();
    files
        .join_clips(&folder.path().join("story.mp4"), &clips, 8)
        .unwrap();
    let ended = Command::new("bash")
        .args(["-ec", command])
        .current_dir(folder.path())
        .stdin(std::process::Stdio::null())
        .status();
    assert!(ended.unwrap().success());

    let [old, new] = ["story.mp4", "story-24.mp4"].map(|name| folder.path().join(name));
    let all: u32 = clips.iter().map(|clip| clip.frames).sum();
    for frame in 0..all {
        let [old, new] = [&old, &new].map(|film| read_frame(&Disk, film, frame, (32, 32)).unwrap());
        assert!(old == new, "frame {frame}");
    }
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-of", "csv=p=0"])
        .args([
            "-show_entries",
            "stream=avg_frame_rate,time_base:packet=pts",
        ])
        .arg(&new)
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let mut stamps: Vec<u32> = told
        .lines()
        .filter_map(|line| line.trim_end_matches(',').parse().ok())
        .collect();
    stamps.sort_unstable();
    assert_eq!(
        stamps,
        (0..all).map(|frame| frame * 1000).collect::<Vec<u32>>(),
        "{told}"
    );
    assert!(told.contains("24/1,1/24000"), "{told}");
}

/// A clip of eight frames a second, each brighter than the one before.
fn rising(folder: &Path, name: &str) -> ClipFile {
    let frame = |place: u8| RgbImage::new(32, 32, vec![place * 20; 32 * 32 * 3]).unwrap();
    let clip = Clip::new((0..9).map(frame).collect()).unwrap();
    let form = ClipForm {
        size: Resolution {
            width: 32,
            height: 32,
        },
        fps: 8,
    };
    let files = VideoFiles::new(Arc::new(Disk), Videos::Encoded).unwrap();
    let path = folder.join(name);
    let content = files.write_clip(folder, &clip, form, |_| path.clone());
    ClipFile {
        path,
        frames: 9,
        content: content.unwrap(),
    }
}

/// Many short shots: `verify` finds every frame once.
#[test]
fn a_story_of_many_shots_is_proven() {
    const SHOTS: usize = 60;
    let shop = Workshop::new();
    let manifest = shop.manifest(&[("long", &[true; SHOTS])]);
    let sets = ["video.frames=5", "video.fps=30", "storymem.steps=1"];
    finish(&mut shop.run(&manifest, &sets)).ended_with(0);
    let proof = shop.ask(&["verify", "--json"]).ended_with(0).json();
    assert_eq!(proof["shots_proven"], SHOTS);
    assert_eq!(
        frames(&shop.out().join("stories/long/story.mp4")),
        SHOTS * 5
    );
}

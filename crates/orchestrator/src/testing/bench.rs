//! What the ledger costs, measured on the disk it is for; no engine, no video.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use storyloom_memory::arrays::encode_array;
use storyloom_memory::index::open_index;
use storyloom_memory::ledger::record::v1::{self, CommitRecord, KeyframeRecord};
use storyloom_memory::select::{Selection, SelectionRule, SelectionSettings};
use storyloom_memory::window::WindowSettings;
use storyloom_memory::{
    BlobStore, DigestedRecord, Disk, IndexKind, MemoryBank, ShotRecord, Storage,
};
use storyloom_story::{
    Continuation, HostTensor, LatentGrid, Line, Method, Opening, Seed, ShotId, ShotRequest, Stage,
    StoryEntry, StoryId, VideoSpec,
};

use crate::config::Videos;
use crate::error::RunError;
use crate::folder::identity::RunIdentity;
use crate::folder::run_folder::{RunFolder, StoryFile, StoryState};
use crate::folder::story_cost::StoryCost;
use crate::run::lease::{Claim, Leases};
use crate::view::status::status;

/// What the shots that are there look like.
const VIDEO: VideoSpec = VideoSpec {
    width: 208,
    height: 128,
    frames: 81,
    fps: 16,
};

/// Figures of `bench store`.
#[derive(Debug, Clone, Serialize)]
pub struct StoreFigures {
    /// One shot's files, blobs, record, index entry and look at the lease.
    pub shot: Spread,
    /// The same files, each written, synced and renamed, and nothing else.
    pub bare: Spread,
    /// The former's median over the latter's.
    pub ratio: f64,
    /// What is not files and blobs: lease, record, index and final names.
    pub ledger: Spread,
    /// Median of `ledger` as a share of a shot of two seconds.
    pub share_of_two_seconds: f64,
    /// Cost of one shot beside those that exist already.
    pub curve: Vec<(usize, Spread)>,
    /// A large run.
    pub large: LargeFigures,
}

/// Times of many repeats, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    /// The middle.
    pub median_ms: f64,
    /// One of twenty is slower.
    pub p95_ms: f64,
}

/// A run of many stories.
#[derive(Debug, Clone, Serialize)]
pub struct LargeFigures {
    /// Stories.
    pub stories: usize,
    /// Shots, all of which exist.
    pub shots: usize,
    /// Reading every story's file, as a start does, in seconds.
    pub open_seconds: f64,
    /// `status`, in seconds.
    pub status_seconds: f64,
    /// Filling an empty index from all commit records, in seconds.
    pub rebuild_seconds: f64,
    /// Bytes of the index over bytes of what was put into it.
    pub index_over_payload: f64,
    /// Largest resident memory of the process, in bytes.
    pub peak_resident_bytes: Option<u64>,
}

impl Spread {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            let place = ((times.len() - 1) as f64 * share).round() as usize;
            times[place].as_secs_f64() * 1e3
        };
        Self {
            median_ms: at(0.5),
            p95_ms: at(0.95),
        }
    }
}

/// Measures in a new folder below `place`, which is removed afterwards. `shots` are timed in each
/// part; the large run has `stories` stories of ten shots.
pub fn store(
    place: &Path,
    kind: IndexKind,
    shots: usize,
    stories: usize,
) -> Result<StoreFigures, RunError> {
    let root = place.join(format!("bench-store-{}", std::process::id()));
    let result = measure(&root, kind, shots.max(1), stories.max(1));
    // Best effort: what is left is plain files in a folder whose name says what it is.
    let _ = fs::remove_dir_all(&root);
    result
}

fn measure(
    root: &Path,
    kind: IndexKind,
    shots: usize,
    stories: usize,
) -> Result<StoreFigures, RunError> {
    let bench = Bench::new(&root.join("small"), kind)?;
    let (mut whole, mut ledger, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..shots {
        let (total, own) = bench.shot(number)?;
        whole.push(total);
        ledger.push(own);
        bare.push(bench.bare(number)?);
    }
    let (shot, bare, ledger) = (Spread::of(whole), Spread::of(bare), Spread::of(ledger));
    let mut curve = Vec::new();
    let mut large = None;
    for share in [100, 10, 1] {
        let there = stories / share;
        let folder = root.join(format!("large-{share}"));
        let bench = Bench::new(&folder, kind)?;
        bench.fill(there)?;
        if share == 1 {
            large = Some(bench.large(there)?);
        }
        let mut times = Vec::new();
        for number in 0..shots {
            times.push(bench.shot(number)?.0);
        }
        curve.push((there * SHOTS_PER_STORY, Spread::of(times)));
    }
    let large = large.ok_or_else(|| RunError::Setting("no large run".to_owned()))?;
    Ok(StoreFigures {
        ratio: shot.median_ms / bare.median_ms,
        share_of_two_seconds: ledger.median_ms / 2000.0,
        shot,
        bare,
        ledger,
        curve,
        large,
    })
}

const SHOTS_PER_STORY: usize = 10;

struct Bench {
    folder: RunFolder,
    bank: MemoryBank,
    leases: Leases,
    kind: IndexKind,
    index: PathBuf,
}

/// What a shot of the tiny checkpoint stores.
struct Payload {
    video: Vec<u8>,
    picture: Vec<u8>,
    blobs: [Vec<u8>; 4],
}

impl Bench {
    fn new(root: &Path, kind: IndexKind) -> Result<Self, RunError> {
        let storage: Arc<dyn Storage> = Arc::new(Disk);
        let folder = RunFolder::new(root, storage.clone());
        let index = root.join("bank/0");
        let blobs = BlobStore::new(folder.blobs(), storage.clone());
        let opened = open_index(kind, &index)?.index;
        Ok(Self {
            bank: MemoryBank::new(folder.stories(), storage.clone(), blobs, opened, "bench"),
            leases: Leases::join(folder.leases(), storage, Duration::from_secs(60))?,
            folder,
            kind,
            index,
        })
    }

    /// Time of a whole shot, and of what is not its files and blobs.
    fn shot(&self, number: usize) -> Result<(Duration, Duration), RunError> {
        let story = name("timed", number / SHOTS_PER_STORY)?;
        let payload = payload(number)?;
        let begun = Instant::now();
        let Claim::Held { lease, .. } = self.leases.claim(&story)? else {
            return Err(RunError::LeaseLost { story });
        };
        let claimed = begun.elapsed();
        let mut record = record(&story, number % SHOTS_PER_STORY);
        let file = record.video.file.clone();
        record.video = self.bank.stage(&story, file, &payload.video)?;
        let file = record.keyframes[0].picture.file.clone();
        record.keyframes[0].picture = self.bank.stage(&story, file, &payload.picture)?;
        let [latents, tail, remembered, embedding] = &payload.blobs;
        let blobs = self.bank.blobs();
        record.latents = blobs.put(latents)?;
        record.tail = blobs.put(tail)?;
        record.keyframes[0].latents = blobs.put(remembered)?;
        record.keyframes[0].embedding = blobs.put(embedding)?;
        let stored = Instant::now();
        lease.check()?;
        let mut record = ShotRecord::V1(record);
        self.bank.commit(&mut record)?;
        self.bank.install(&story, &record.pictures())?;
        let committed = stored.elapsed();
        let total = begun.elapsed();
        // A story is claimed once for all its shots.
        let lease_share = claimed / SHOTS_PER_STORY as u32;
        lease.release()?;
        Ok((total - claimed + lease_share, committed + lease_share))
    }

    /// The same files without ledger: written, synced, renamed, the folder synced.
    fn bare(&self, number: usize) -> Result<Duration, RunError> {
        let payload = payload(number + 1_000_000)?;
        let story = name("bare", number / SHOTS_PER_STORY)?;
        let bytes = record(&story, 0).seal()?;
        let folder = self.folder.root().join("bare");
        let files = [&payload.video, &payload.picture, &bytes];
        let files: Vec<_> = files.into_iter().chain(&payload.blobs).collect();
        fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
        let begun = Instant::now();
        for (place, bytes) in files.into_iter().enumerate() {
            Disk.write(&folder.join(format!("{number}-{place}")), bytes)?;
        }
        Ok(begun.elapsed())
    }

    /// Stories that are done, written without syncing: only their number counts.
    fn fill(&self, stories: usize) -> Result<(), RunError> {
        for number in 0..stories {
            let story = name("there", number)?;
            let folder = self.folder.story(&story);
            let commits = folder.join("commits");
            fs::create_dir_all(&commits).map_err(|error| failed(&commits, error))?;
            for shot in 0..SHOTS_PER_STORY {
                let mut record = record(&story, shot);
                let path = commits.join(format!("{}.json", record.request.shot));
                fs::write(&path, record.seal()?).map_err(|error| failed(&path, error))?;
            }
            self.folder.fill_story(&done_story(story)?)?;
        }
        let ids = (0..stories).map(|number| name("there", number));
        self.folder
            .fill_run(identity(), ids.collect::<Result<_, _>>()?)
    }

    fn large(&self, stories: usize) -> Result<LargeFigures, RunError> {
        let ids: Vec<StoryId> = (0..stories)
            .map(|number| name("there", number))
            .collect::<Result<_, _>>()?;
        let begun = Instant::now();
        for id in &ids {
            self.folder.story_file(id)?;
        }
        let open_seconds = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        status(&self.folder)?;
        let status_seconds = begun.elapsed().as_secs_f64();
        let shots: Vec<ShotId> = (0..SHOTS_PER_STORY).map(shot_id).collect();
        let begun = Instant::now();
        let mut payload = 0;
        for id in &ids {
            let history = self.bank.history(id, &shots)?;
            payload += {
                let items: Vec<_> = history.iter().map(|remembered| &remembered.item).collect();
                serde_json::to_vec(&items).map_or(0, |bytes| bytes.len())
            };
        }
        self.bank.flush_index()?;
        let rebuild_seconds = begun.elapsed().as_secs_f64();
        Ok(LargeFigures {
            stories,
            shots: stories * SHOTS_PER_STORY,
            open_seconds,
            status_seconds,
            rebuild_seconds,
            index_over_payload: size_of_folder(&self.index_files()) as f64 / payload as f64,
            peak_resident_bytes: peak_resident_bytes(),
        })
    }

    fn index_files(&self) -> PathBuf {
        match self.kind {
            IndexKind::Sled => self.index.join("sled"),
            IndexKind::Redb => self.index.clone(),
        }
    }
}

fn failed(path: &Path, error: std::io::Error) -> RunError {
    storyloom_memory::MemoryError::storage("write", path, error).into()
}

fn name(kind: &str, number: usize) -> Result<StoryId, RunError> {
    StoryId::new(format!("{kind}-{number:06}"))
        .map_err(|error| RunError::Setting(error.to_string()))
}

fn shot_id(number: usize) -> ShotId {
    ShotId {
        scene: 1,
        shot: number as u32 + 1,
    }
}

/// Different for every number, of the sizes that a shot of 832 x 480 divided by 4 has.
fn payload(number: usize) -> Result<Payload, RunError> {
    let noise = |part: u64, bytes: usize| {
        let mut values = vec![0; bytes];
        let key = [number as u64, part].map(u64::to_le_bytes).concat();
        blake3::Hasher::new()
            .update(&key)
            .finalize_xof()
            .fill(&mut values);
        values
    };
    let array = |part: u64, values: usize| {
        let bytes = noise(part, values);
        let values = bytes.iter().map(|byte| f32::from(*byte)).collect();
        let array = HostTensor::new(vec![bytes.len()], values)
            .map_err(|error| RunError::Setting(error.to_string()))?;
        Ok::<_, RunError>(encode_array(&array)?)
    };
    Ok(Payload {
        video: noise(0, 200_000),
        picture: noise(1, 40_000),
        blobs: [
            array(2, 32_000)?,
            array(3, 16_000)?,
            array(4, 6_000)?,
            array(5, 512)?,
        ],
    })
}

fn record(story: &StoryId, number: usize) -> CommitRecord {
    let shot = shot_id(number);
    let blob = storyloom_memory::BlobRef::of(b"a blob");
    let picture = |file: String| storyloom_memory::PictureRecord {
        file,
        content: blob.clone(),
    };
    CommitRecord {
        format: v1::FORMAT,
        request: ShotRequest {
            seed: Seed::derive(0, story, shot, 0),
            story: story.clone(),
            shot,
            attempt: 0,
            method: Method::StoryMem,
            opening: Opening::Memory,
            prompt: "A prompt of the usual length, with a place, somebody, something to do, light \
                     and a movement of the camera, as the scripts of the benchmark have them."
                .to_owned(),
            related: Vec::new(),
            video: VIDEO,
        },
        engine: blob.blake3.clone(),
        arithmetic: String::new(),
        memory_seen: vec![],
        continues: None,
        latents: blob.clone(),
        frame_count: 81,
        frame_size: (208, 128),
        frames_blake3: blob.blake3.clone(),
        tail: blob.clone(),
        video: picture(format!("{shot}.mp4")),
        selection: Selection {
            frames: vec![0],
            passes: 1,
            threshold: 0.9,
            best_quality: None,
        },
        keyframes: vec![KeyframeRecord {
            position: 0,
            frame: 0,
            quality: 4.0,
            picture: picture(format!("keyframes/{shot}_keyframe0.png")),
            latents: blob.clone(),
            embedding: blob.clone(),
        }],
        seconds: Stage::ALL
            .iter()
            .map(|stage| (*stage, 0.5))
            .collect::<BTreeMap<_, _>>(),
        previous: None,
        plan: None,
        digest: String::new(),
    }
}

fn identity() -> RunIdentity {
    RunIdentity {
        method: Some(Method::StoryMem),
        seed: 0,
        video: VIDEO,
        grid: LatentGrid::default(),
        window: WindowSettings {
            max_images: 10,
            sink: 3,
        },
        selection: SelectionSettings {
            rule: SelectionRule::Semantic,
            max_keyframes: 3,
            similarity_start: 0.9,
            quality_threshold: 3.0,
        },
        continuation: Continuation::Mi2v,
        fit: None,
        ground: None,
        shape: None,
        videos: Videos::Placeholders,
    }
}

fn done_story(id: StoryId) -> Result<StoryFile, RunError> {
    let prompts = vec!["A prompt of the usual length."; SHOTS_PER_STORY];
    let cuts = [true; SHOTS_PER_STORY];
    let scene = serde_json::json!({"scene_num": 1, "video_prompts": prompts, "cut": cuts});
    let script = serde_json::from_value(serde_json::json!({"scenes": [scene]}))
        .map_err(|error| RunError::Setting(error.to_string()))?;
    let line = Line::Story(StoryEntry::new(id, script));
    let mut file = StoryFile::pending(&line);
    file.state = StoryState::Done;
    file.work = Some(StoryCost {
        useful: 20.0,
        lost: 0.0,
        end: None,
    });
    Ok(file)
}

fn size_of_folder(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of_folder(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

fn peak_resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

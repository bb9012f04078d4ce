//! What a run will take, before it is paid for: time, GPU-hours, disk, and the layout that does it
//! best. Nothing is loaded and nothing is made.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::Serialize;
use storyloom_memory::window::WindowSettings;
use storyloom_story::{
    Brief, Continuation, LatentGrid, Line, Method, Opening, Resolution, Scene, ShotScript,
    StoryEntry, StoryId, StoryScript, VideoSpec,
};

use crate::error::RunError;
use crate::folder::run_folder::{RunFolder, StoryState};
use crate::forecast::cost::{
    CostTable, ReplicaShape, Samplings, ShotBytes, ShotWork, StageSeconds,
};
use crate::forecast::{ChainOfKinds, Farm, Planners, SharedGpu, forecast_of_briefs, lower_bound};
use crate::run::chain::opening;
use crate::run::planning::ranks::priority;

/// The settings of a run that decide how long its shots take.
#[derive(Debug, Clone, Copy)]
pub struct ShotSettings {
    /// How the shots of stories are conditioned that do not say it themselves.
    pub method: Method,
    /// Size of the films that have none of their own, and length of shots.
    pub video: VideoSpec,
    /// How the networks divide videos.
    pub grid: LatentGrid,
    /// What a shot sees of the bank.
    pub window: WindowSettings,
    /// Most keyframes that a shot adds to it.
    pub max_keyframes: usize,
    /// What a shot without a cut continues from.
    pub continuation: Continuation,
    /// The sampling loops.
    pub samplings: Samplings,
}

/// What is to be made of a manifest, in the order in which a run makes it.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Stories with something to make.
    pub names: Vec<StoryId>,
    /// Their missing shots, by kind.
    pub chains: Vec<ChainOfKinds>,
    /// Seconds that each takes to be planned; 0 for those that have a script.
    pub plans: Vec<f64>,
    /// Stories that have none yet.
    pub to_plan: usize,
    /// The kinds of shots.
    pub kinds: Vec<ShotWork>,
    /// Shots to make.
    pub shots: usize,
    /// Shots that exist, and those of stories that nobody tries again.
    pub left_out: usize,
}

/// How far a story is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The number of its first shots that exist.
    Made(usize),
    /// It was planned from its brief, and this number of the first shots of this script exist.
    Planned(StoryScript, usize),
    /// A run leaves it alone.
    Over,
}

/// A brief as the story that it may become: a script of as many shots as it asks for, each of which
/// opens with a cut.
fn stand_in(brief: &Brief) -> StoryEntry {
    let shot = |_| ShotScript {
        prompt: String::new(),
        first_frame_prompt: None,
        cut: true,
    };
    brief.story(StoryScript {
        name: None,
        overview: None,
        scenes: vec![Scene {
            number: 1,
            shots: (0..brief.shots).map(shot).collect(),
        }],
    })
}

impl Workload {
    /// Everything in `lines` but what `progress` says is there.
    ///
    /// # Errors
    /// What `progress` fails of.
    pub fn new(
        lines: &[Line],
        settings: &ShotSettings,
        table: &CostTable,
        progress: &dyn Fn(&Line) -> Result<Progress, RunError>,
    ) -> Result<Self, RunError> {
        let mut kinds = Kinds::default();
        let (mut left_out, mut to_plan) = (0, 0);
        let mut ordered = Vec::with_capacity(lines.len());
        for line in lines {
            let mut entry = match line {
                Line::Story(entry) => entry.clone(),
                Line::Brief(brief) => stand_in(brief),
            };
            let mut plan = match line {
                Line::Story(_) => None,
                Line::Brief(brief) => Some(table.planning.of(f64::from(brief.shots))),
            };
            let made = match progress(line)? {
                Progress::Over => usize::MAX,
                Progress::Made(shots) => shots,
                Progress::Planned(script, shots) => {
                    entry.script = script;
                    plan = None;
                    shots
                }
            };
            let count = entry.script.shot_count();
            let made = made.min(count);
            left_out += made;
            if made < count {
                let chain = kinds.chain(&entry, made, settings, table);
                // As the run orders them: `run_queue::Rank`.
                to_plan += usize::from(plan.is_some());
                let key = Reverse((priority(line), count - made));
                ordered.push((key, entry.id, chain, plan.unwrap_or(0.0)));
            }
        }
        ordered.sort_by_key(|(key, ..)| *key);
        let names = ordered.iter().map(|(_, id, ..)| id.clone()).collect();
        let plans = ordered.iter().map(|(.., plan)| *plan).collect();
        let chains: Vec<_> = ordered.into_iter().map(|(_, _, chain, _)| chain).collect();
        Ok(Self {
            names,
            shots: chains.iter().map(Vec::len).sum(),
            chains,
            plans,
            to_plan,
            kinds: kinds.list,
            left_out,
        })
    }

    /// Tokens of the longest kind of shot.
    fn most_tokens(&self) -> f64 {
        self.kinds.iter().map(ShotWork::tokens).fold(0.0, f64::max)
    }

    /// What the shots to make will leave on disk.
    pub fn disk(&self, table: &CostTable, max_keyframes: usize) -> DiskEstimate {
        let keyframes = table.keyframes_per_shot.min(max_keyframes as f64);
        let kinds: Vec<ShotBytes> = self
            .kinds
            .iter()
            .map(|kind| table.bytes(kind, keyframes))
            .collect();
        let mut sum = ShotBytes::default();
        let mut longest_memory = 0.0_f64;
        for chain in &self.chains {
            let before = sum.remembered;
            for &kind in chain {
                sum.add(&kinds[kind as usize]);
            }
            longest_memory = longest_memory.max(sum.remembered - before);
        }
        let shots = self.shots.max(1) as f64;
        DiskEstimate {
            bytes: sum.total(),
            per_shot: sum.divided(shots),
            longest_memory,
        }
    }
}

/// Kinds of shots by their numbers.
#[derive(Default)]
struct Kinds {
    list: Vec<ShotWork>,
    /// By method, opening, items seen, size and whether it is ready-made, all else being equal in a run.
    known: HashMap<(Method, Opening, u64, Resolution, u32, bool), u32>,
}

impl Kinds {
    /// The kinds of the shots of a story from shot `made` on.
    fn chain(
        &mut self,
        entry: &StoryEntry,
        made: usize,
        settings: &ShotSettings,
        table: &CostTable,
    ) -> ChainOfKinds {
        let method = entry.method.unwrap_or(settings.method);
        let frames = method.profile().media.frames(settings.video.frames);
        let references = entry.reference_images.len() + usize::from(entry.first_shot.is_some());
        let film = entry.size.unwrap_or(settings.video.resolution());
        let size = film.generated(settings.grid);
        let shots = entry.script.shots().enumerate().skip(made);
        let kind = |(place, (_, shot))| {
            let opening = opening(
                method,
                shot,
                place > 0,
                references > 0,
                settings.continuation,
            );
            let seen = match (method, opening) {
                (_, Opening::Text) => 0.0,
                // Whether there is a history is all that counts.
                (Method::OneStory, _) => f64::from(u8::from(place > 0)),
                _ => pictures_seen(place, references, settings, table),
            };
            let is_ready_made = place == 0 && entry.first_shot.is_some();
            let key = (
                method,
                opening,
                f64::to_bits(seen),
                size,
                frames,
                is_ready_made,
            );
            *self.known.entry(key).or_insert_with(|| {
                let video = VideoSpec {
                    width: size.width,
                    height: size.height,
                    frames,
                    ..settings.video
                };
                let samplings = &settings.samplings;
                let work = samplings.work(method, opening, (video, settings.grid), seen);
                self.list.push(match is_ready_made {
                    true => work.ready_made(),
                    false => work,
                });
                self.list.len() as u32 - 1
            })
        };
        shots.map(kind).collect()
    }
}

/// Pictures that the shot at `place` sees, as they were counted, or if every shot before added its
/// share.
fn pictures_seen(
    place: usize,
    references: usize,
    settings: &ShotSettings,
    table: &CostTable,
) -> f64 {
    let counted = table.pictures_seen.get(place);
    let seen = match counted.or(table.pictures_seen.last()) {
        Some(seen) => *seen,
        None => {
            let each = table.keyframes_per_shot.min(settings.max_keyframes as f64);
            references as f64 + each * place as f64
        }
    };
    seen.min(settings.window.max_images as f64)
}

/// How far the stories of the run in `folder` are; nothing is if there is no run.
///
/// # Errors
/// The run cannot be read.
pub fn progress_in(folder: &RunFolder, line: &Line) -> Result<Progress, RunError> {
    let path = folder.story(line.id());
    if !folder.storage().exists(&path.join("story.json")) {
        return Ok(Progress::Made(0));
    }
    let file = folder.story_file(line.id())?;
    if let StoryState::Quarantined { .. } = file.state {
        return Ok(Progress::Over);
    }
    let made = |script: &StoryScript| {
        let record = |shot| path.join("commits").join(format!("{shot}.json"));
        let mut shots = script.shots().map(|(shot, _)| shot);
        let missing = shots.position(|shot| !folder.storage().exists(&record(shot)));
        missing.unwrap_or_else(|| script.shot_count())
    };
    Ok(match (line, file.script) {
        (Line::Brief(_), Some(script)) => {
            let made = made(&script);
            Progress::Planned(script, made)
        }
        (Line::Brief(_), None) => Progress::Made(0),
        (Line::Story(entry), _) => Progress::Made(made(&entry.script)),
    })
}

/// Bytes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DiskEstimate {
    /// All shots to make.
    pub bytes: f64,
    /// One shot, on average.
    pub per_shot: ShotBytes,
    /// What the shots to make of one story leave in its memory, of the story with most of it.
    pub longest_memory: f64,
}

/// A farm divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FarmLayout {
    /// Copies of the networks.
    pub replicas: usize,
    /// How each is made up.
    #[serde(flatten)]
    pub shape: ReplicaShape,
    /// GPUs that are used.
    pub gpus: usize,
}

/// The story that takes longest by itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LongestChain {
    /// The story.
    pub story: StoryId,
    /// Its shots that are to be made.
    pub shots: usize,
    /// How long they take, one after the other, with nobody in the way.
    pub seconds: f64,
}

/// What a run takes on one layout.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// The layout.
    pub layout: FarmLayout,
    /// Until the last story is done.
    pub finish_seconds: f64,
    /// GPUs that are held, until then.
    pub gpu_hours: f64,
    /// Shots in an hour, on average.
    pub shots_per_hour: f64,
    /// Share of the time in which a denoiser has a shot, on average.
    pub denoiser_busy: f64,
    /// No order of the stories is done sooner on this layout.
    pub lower_bound_seconds: f64,
    /// The longest chain.
    pub longest_chain: Option<LongestChain>,
    /// GB that the first GPU of a replica needs.
    pub gpu_memory_gb: f64,
    /// Whether it has them.
    pub fits: bool,
}

/// Tries layouts on a workload.
#[derive(Debug, Clone, Copy)]
pub struct Planner<'a> {
    /// What is to be made.
    pub workload: &'a Workload,
    /// How long it takes.
    pub table: &'a CostTable,
    /// Stories that a replica makes side by side.
    pub interleave: usize,
    /// Who plans briefs. Ranks that only plan are GPUs as well.
    pub planning: Planners,
}

impl Planner<'_> {
    /// The run on `replicas` replicas of this shape.
    pub fn try_layout(&self, shape: &ReplicaShape, replicas: usize) -> Estimate {
        let kinds = self.seconds(shape);
        let farm = self.farm(shape, replicas);
        let chains = &self.workload.chains;
        let plans = &self.workload.plans;
        let found = forecast_of_briefs(chains, plans, &kinds, &farm, &mut |_, _, _, _| {});
        let start = self.start();
        let finish = start + found.finish;
        let gpus = replicas * shape.ranks() + self.planning.ranks;
        let hours = finish / 3600.0;
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        Estimate {
            layout: FarmLayout {
                replicas,
                shape: *shape,
                gpus,
            },
            finish_seconds: finish,
            gpu_hours: gpus as f64 * hours,
            shots_per_hour: share(self.workload.shots as f64, hours),
            denoiser_busy: share(found.denoising, finish * replicas as f64),
            lower_bound_seconds: start + lower_bound(chains, plans, &kinds, &farm),
            longest_chain: self.longest_chain(&kinds),
            gpu_memory_gb: self.needed_gb(shape),
            fits: self.fits(shape),
        }
    }

    /// The layout that is done first with at most `gpus` GPUs.
    pub fn soonest(&self, shapes: &[ReplicaShape], gpus: usize) -> Option<Estimate> {
        let mut candidates = Vec::new();
        for shape in shapes.iter().filter(|shape| self.fits(shape)) {
            let replicas = gpus.saturating_sub(self.planning.ranks) / shape.ranks();
            if replicas > 0 {
                candidates.push((self.bound(shape, replicas), shape, replicas));
            }
        }
        candidates.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut best: Option<Estimate> = None;
        for (bound, shape, replicas) in candidates {
            let finish = best
                .as_ref()
                .map_or(f64::INFINITY, |best| best.finish_seconds);
            if bound >= finish {
                break;
            }
            let next = self.try_layout(shape, replicas);
            if next.finish_seconds < finish {
                best = Some(next);
            }
        }
        best
    }

    /// The layout that is done by `deadline` with the fewest GPU-hours, on at most `gpus` GPUs.
    pub fn cheapest(
        &self,
        shapes: &[ReplicaShape],
        gpus: usize,
        deadline: f64,
    ) -> Option<Estimate> {
        let mut candidates = Vec::new();
        for shape in shapes.iter().filter(|shape| self.fits(shape)) {
            let most = gpus.saturating_sub(self.planning.ranks) / shape.ranks();
            let enough = |replicas: &usize| self.bound(shape, *replicas) <= deadline;
            if let Some(fewest) = first_that(1, most, enough) {
                let held = fewest * shape.ranks() + self.planning.ranks;
                let bound = held as f64 * self.bound(shape, fewest);
                candidates.push((bound / 3600.0, shape, fewest, most));
            }
        }
        candidates.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut best: Option<Estimate> = None;
        for (bound, shape, fewest, most) in candidates {
            if best.as_ref().is_some_and(|best| bound >= best.gpu_hours) {
                break;
            }
            let next = self.fewest_replicas(shape, fewest, most, deadline);
            let next = next.filter(|next| {
                best.as_ref()
                    .is_none_or(|best| next.gpu_hours < best.gpu_hours)
            });
            best = next.or(best);
        }
        best
    }

    /// The run on the fewest replicas, from `fewest` to `most`, that is done by `deadline`.
    fn fewest_replicas(
        &self,
        shape: &ReplicaShape,
        fewest: usize,
        most: usize,
        deadline: f64,
    ) -> Option<Estimate> {
        let (mut too_few, mut replicas) = (fewest - 1, fewest);
        let mut found = loop {
            let tried = self.try_layout(shape, replicas);
            if tried.finish_seconds <= deadline {
                break tried;
            }
            if replicas == most {
                return None;
            }
            too_few = replicas;
            // In steps of a tenth: the bound that this started from is usually close.
            replicas = (replicas + replicas.div_ceil(10)).min(most);
        };
        while found.layout.replicas - too_few > 1 {
            let middle = too_few + (found.layout.replicas - too_few) / 2;
            let tried = self.try_layout(shape, middle);
            match tried.finish_seconds <= deadline {
                true => found = tried,
                false => too_few = middle,
            }
        }
        Some(found)
    }

    fn seconds(&self, shape: &ReplicaShape) -> Vec<StageSeconds> {
        let kinds = self.workload.kinds.iter();
        kinds.map(|work| self.table.shot(work, shape)).collect()
    }

    fn farm(&self, shape: &ReplicaShape, replicas: usize) -> Farm {
        let shares = self.table.shares_gpu;
        Farm {
            replicas,
            interleave: self.interleave,
            capacities: shape.capacities(),
            shared: SharedGpu {
                encode: shares && shape.encoders == 0,
                decode: shares && shape.decoders == 0,
            },
            story_end: self.table.stages.story.seconds,
            planning: self.planning,
        }
    }

    fn start(&self) -> f64 {
        match self.workload.chains.is_empty() {
            true => 0.0,
            false => self.table.stages.start.seconds,
        }
    }

    fn bound(&self, shape: &ReplicaShape, replicas: usize) -> f64 {
        let farm = self.farm(shape, replicas);
        self.start()
            + lower_bound(
                &self.workload.chains,
                &self.workload.plans,
                &self.seconds(shape),
                &farm,
            )
    }

    fn needed_gb(&self, shape: &ReplicaShape) -> f64 {
        let CostTable {
            memory,
            transformer,
            ..
        } = self.table;
        memory.needed_gb(transformer, shape, self.workload.most_tokens())
    }

    fn fits(&self, shape: &ReplicaShape) -> bool {
        let gpu_gb = self.table.memory.gpu_gb;
        gpu_gb == 0.0 || self.needed_gb(shape) <= gpu_gb
    }

    fn longest_chain(&self, kinds: &[StageSeconds]) -> Option<LongestChain> {
        let seconds = |chain: &ChainOfKinds| {
            let shots = chain.iter().map(|&kind| kinds[kind as usize].total());
            shots.sum::<f64>() + self.table.stages.story.seconds
        };
        let chains = self.workload.chains.iter().zip(&self.workload.names);
        let all = chains.map(|(chain, name)| (seconds(chain), chain.len(), name));
        let longest = all.max_by(|one, other| one.0.total_cmp(&other.0));
        longest.map(|(seconds, shots, story)| LongestChain {
            story: story.clone(),
            shots,
            seconds,
        })
    }
}

/// The smallest number from `low` to `high` that `holds`, which holds for all above it.
fn first_that(low: usize, high: usize, holds: impl Fn(&usize) -> bool) -> Option<usize> {
    if low > high || !holds(&high) {
        return None;
    }
    let (mut low, mut high) = (low, high);
    while low < high {
        let middle = low + (high - low) / 2;
        match holds(&middle) {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::cost::{Sampling, Sharing};
    use storyloom_story::{Scene, ShotScript, StoryScript};

    fn entry(name: &str, cuts: &[bool], priority: i64) -> StoryEntry {
        let shot = |cut: &bool| ShotScript {
            prompt: "p".to_owned(),
            first_frame_prompt: None,
            cut: *cut,
        };
        let shots = cuts.iter().map(shot).collect();
        let script = StoryScript {
            name: None,
            overview: None,
            scenes: vec![Scene { number: 1, shots }],
        };
        let mut entry = StoryEntry::new(StoryId::new(name).unwrap(), script);
        entry.priority = priority;
        entry
    }

    const PLANNING: Planners = Planners {
        ranks: 0,
        together: 1,
        ahead: 8,
    };

    fn manifest() -> Vec<Line> {
        let stories = [
            entry("short", &[true; 3], 0),
            entry("long", &[true; 9], 0),
            entry("first", &[true, false], 5),
            entry("middle", &[true; 6], 0),
            entry("other", &[true; 6], 0),
        ];
        stories.map(Line::Story).to_vec()
    }

    const SETTINGS: ShotSettings = ShotSettings {
        method: Method::StoryMem,
        video: VideoSpec {
            width: 832,
            height: 480,
            frames: 81,
            fps: 16,
        },
        grid: LatentGrid::WAN_2_1,
        window: WindowSettings {
            max_images: 10,
            sink: 3,
        },
        max_keyframes: 3,
        continuation: Continuation::Mi2v,
        samplings: Samplings::alike(SAMPLING),
    };

    const SAMPLING: Sampling = Sampling {
        steps: 40,
        forwards: 2.0,
    };

    fn workload(table: &CostTable) -> Workload {
        let nothing = |_: &Line| Ok(Progress::Made(0));
        Workload::new(&manifest(), &SETTINGS, table, &nothing).unwrap()
    }

    fn shapes() -> Vec<ReplicaShape> {
        let sharings = [
            (1, 1, 1),
            (2, 1, 1),
            (1, 2, 1),
            (1, 1, 2),
            (4, 1, 2),
            (1, 4, 2),
        ];
        let shape = |(tensor, sequence, cfg)| ReplicaShape {
            sharing: Sharing {
                tensor,
                sequence,
                cfg,
            },
            ..ReplicaShape::ONE
        };
        sharings.map(shape).to_vec()
    }

    #[test]
    fn stories_are_ordered_and_shots_see_what_was_before() {
        let found = workload(&CostTable::default());
        let names: Vec<&str> = found.names.iter().map(StoryId::as_str).collect();
        assert_eq!(names, ["first", "long", "middle", "other", "short"]);
        let seen = |chain: &ChainOfKinds| -> Vec<(Opening, f64)> {
            let kinds = chain.iter().map(|&kind| &found.kinds[kind as usize]);
            kinds.map(|work| (work.opening, work.memory)).collect()
        };
        assert_eq!(
            seen(&found.chains[0]),
            [(Opening::Text, 0.0), (Opening::LastFrame, 3.0)]
        );
        let memory: Vec<f64> = seen(&found.chains[1]).iter().map(|seen| seen.1).collect();
        assert_eq!(memory, [0.0, 3.0, 6.0, 9.0, 10.0, 10.0, 10.0, 10.0, 10.0]);

        let counted = CostTable {
            pictures_seen: vec![0.0, 1.5, 2.5],
            ..CostTable::default()
        };
        let found = workload(&counted);
        let last = found.kinds[found.chains[1][8] as usize];
        assert_eq!((last.memory, found.kinds.len()), (2.5, 4));
    }

    /// Shots of OneStory cost the same from the second on, and remember as much as they have latents.
    #[test]
    fn shots_of_onestory_are_counted_as_their_own() {
        let mut lines = manifest();
        for line in &mut lines {
            if let Line::Story(story) = line {
                story.method = (story.id.as_str() != "middle").then_some(Method::OneStory);
                story.reference_images.truncate(1);
            }
        }
        let table = CostTable::default();
        let nothing = |_: &Line| Ok(Progress::Made(0));
        let found = Workload::new(&lines, &SETTINGS, &table, &nothing).unwrap();
        let tokens = |chain: usize| -> Vec<f64> {
            let kinds = found.chains[chain].iter();
            kinds
                .map(|&kind| found.kinds[kind as usize].tokens())
                .collect()
        };
        // A shot without a cut is one like all others.
        assert_eq!(tokens(0), [32_760.0, 34_298.0]);
        assert_eq!(tokens(1)[1..], [34_298.0; 8]);
        assert!(
            tokens(2)[2] > 40_000.0,
            "the shots of StoryMem see more and more"
        );
        let latents = 16.0 * 21.0 * 60.0 * 104.0 * 4.0;
        assert!(found.disk(&table, 3).longest_memory >= 9.0 * latents);
        let only = Workload::new(&lines[1..2], &SETTINGS, &table, &nothing).unwrap();
        let disk = only.disk(&table, 3);
        assert_eq!(disk.longest_memory, 9.0 * latents);
        assert_eq!(disk.per_shot.remembered, latents);
    }

    /// Nothing is sampled of a video that is brought: the other shots of its story are what they are without it.
    #[test]
    fn a_ready_made_first_shot_has_no_steps() {
        let story = |first_shot: Option<&str>| {
            let mut lines = manifest();
            let Line::Story(story) = &mut lines[1] else {
                panic!("it is no story");
            };
            story.method = Some(Method::OneStory);
            story.first_shot = first_shot.map(str::to_owned);
            lines.swap_remove(1)
        };
        let table = CostTable::default();
        let nothing = |_: &Line| Ok(Progress::Made(0));
        let lines = [story(None), story(Some("one.mp4"))];
        let [plain, brought] = [&lines[..1], &lines[1..]].map(|lines| {
            let found = Workload::new(lines, &SETTINGS, &table, &nothing).unwrap();
            let kinds = found.chains[0].iter();
            let shot = |&kind: &u32| table.shot(&found.kinds[kind as usize], &ReplicaShape::ONE);
            kinds.map(shot).collect::<Vec<_>>()
        });
        assert_eq!(brought[0].denoise, 0.0);
        assert!(
            brought[0].encode > plain[0].encode,
            "a whole clip is encoded"
        );
        assert_eq!(brought[0].decode, plain[0].decode);
        assert!(plain[0].denoise > 0.0);
        assert_eq!(brought[1..], plain[1..]);
        // Stories of both kinds in one run are told apart.
        let both = Workload::new(&lines, &SETTINGS, &table, &nothing).unwrap();
        assert_ne!(both.chains[0][0], both.chains[1][0]);
        assert_eq!(both.chains[0][1..], both.chains[1][1..]);
    }

    #[test]
    fn what_exists_is_left_out() {
        let progress = |entry: &Line| {
            Ok(match entry.id().as_str() {
                "long" => Progress::Made(7),
                "middle" => Progress::Over,
                "short" => Progress::Made(3),
                _ => Progress::Made(0),
            })
        };
        let found =
            Workload::new(&manifest(), &SETTINGS, &CostTable::default(), &progress).unwrap();
        let names: Vec<&str> = found.names.iter().map(StoryId::as_str).collect();
        // With two shots left it comes after one of six.
        assert_eq!(names, ["first", "other", "long"]);
        assert_eq!((found.shots, found.left_out), (10, 16));
        let rest = found.kinds[found.chains[2][0] as usize];
        assert_eq!((rest.opening, rest.memory), (Opening::Memory, 10.0));
    }

    #[test]
    fn briefs_are_taken_for_what_they_ask_for_until_they_are_planned() {
        let id = StoryId::new("ad").unwrap();
        let brief = Brief {
            shots: 4,
            size: Some(Resolution {
                width: 480,
                height: 832,
            }),
            ..Brief::new(id)
        };
        let lines = [manifest(), vec![Line::Brief(brief)]].concat();
        let table = CostTable::default();
        let of = |progress: Progress| {
            let far = |line: &Line| match line {
                Line::Story(_) => Ok(Progress::Made(0)),
                Line::Brief(_) => Ok(progress.clone()),
            };
            let found = Workload::new(&lines, &SETTINGS, &table, &far).unwrap();
            let place = found.names.iter().position(|name| name.as_str() == "ad");
            place.map(|place| {
                let first = found.kinds[found.chains[place][0] as usize];
                let size = (first.video.width, first.video.height);
                (place, found.chains[place].len(), found.plans[place], size)
            })
        };
        // Behind those of nine and six shots.
        let unplanned = of(Progress::Made(0)).unwrap();
        assert_eq!(unplanned, (4, 4, 5.0, (480, 832)));
        let Line::Story(long) = &lines[1] else {
            panic!("it is no story");
        };
        let planned = of(Progress::Planned(long.script.clone(), 1)).unwrap();
        assert_eq!(planned, (2, 8, 0.0, (480, 832)));
        assert_eq!(of(Progress::Over), None);
    }

    /// The search tries few layouts, but none that it leaves out is better.
    #[test]
    fn the_best_layouts_are_the_best_of_all() {
        let mut table = CostTable::default();
        for gpu_gb in [141.0, 0.0] {
            table.memory.gpu_gb = gpu_gb;
            let workload = workload(&table);
            let planner = Planner {
                workload: &workload,
                table: &table,
                interleave: 2,
                planning: PLANNING,
            };
            let all: Vec<Estimate> = shapes()
                .iter()
                .flat_map(|shape| {
                    let most = 16 / shape.ranks();
                    (1..=most).map(|replicas| planner.try_layout(shape, replicas))
                })
                .filter(|estimate| estimate.fits)
                .collect();
            let soonest = planner.soonest(&shapes(), 16).unwrap();
            let best = all.iter().map(|all| all.finish_seconds);
            assert_eq!(soonest.finish_seconds, best.fold(f64::INFINITY, f64::min));
            for deadline in [1.0, 2.0, 5.0].map(|hours| hours * 3600.0) {
                let cheapest = planner.cheapest(&shapes(), 16, deadline);
                let in_time = all.iter().filter(|all| all.finish_seconds <= deadline);
                let best = in_time
                    .map(|all| all.gpu_hours)
                    .fold(f64::INFINITY, f64::min);
                let found = cheapest.map_or(f64::INFINITY, |found| found.gpu_hours);
                assert!(found <= best * 1.001, "{found} and {best} by {deadline}");
            }
        }
    }

    #[test]
    fn nothing_to_make_takes_no_time() {
        let over = |_: &Line| Ok(Progress::Over);
        let table = CostTable::default();
        let workload = Workload::new(&manifest(), &SETTINGS, &table, &over).unwrap();
        let planner = Planner {
            workload: &workload,
            table: &table,
            interleave: 3,
            planning: PLANNING,
        };
        let found = planner.try_layout(&ReplicaShape::ONE, 4);
        assert_eq!((found.finish_seconds, found.gpu_hours), (0.0, 0.0));
        assert_eq!(found.longest_chain, None);
        assert_eq!(workload.disk(&table, 3).bytes, 0.0);
    }

    #[test]
    fn the_first_that_holds() {
        for wanted in 1..=9 {
            assert_eq!(first_that(1, 9, |&number| number >= wanted), Some(wanted));
        }
        assert_eq!(first_that(1, 9, |&number| number >= 10), None);
        assert_eq!(first_that(1, 0, |_| true), None);
    }
}

//! How long each stage of a shot takes, from a model of the machine or from the records of an
//! earlier run. `docs/estimate.md` says where the figures come from.

mod loops;
mod measured;
mod transformer;

use serde::{Deserialize, Serialize};
use storyloom_story::{Capacities, LatentGrid, Opening, VideoSpec};

pub use loops::{OneStoryLoop, Sampling, Samplings};
pub use measured::{Observed, measure};
pub use transformer::{Links, Rates, Sharing, Transformer, forward_seconds, traffic};

/// What decides how long a shot takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShotWork {
    /// Size and length.
    pub video: VideoSpec,
    /// How it becomes latents and tokens.
    pub grid: LatentGrid,
    /// How it begins.
    pub opening: Opening,
    /// Pictures of the memory that it sees, each a latent frame; an average may be no whole number.
    pub memory: f64,
    /// Tokens of its memory that are no whole latent frames.
    pub context: f64,
    /// What is kept of it for later shots.
    pub remembers: Remembers,
    /// Steps of the sampling loop; none of a [ready-made](Self::ready_made) shot.
    pub steps: u32,
    /// Forwards of a step, counted for one rank: two with guidance.
    pub forwards: f64,
}

/// What is kept of a shot for later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembers {
    /// Keyframes, and the last frames without loss.
    Keyframes,
    /// All its latents. What a record keeps of every shot is one copy with them, unless they are encoded `again`
    /// from the decoded frames.
    Latents {
        /// Whether they are.
        again: bool,
    },
}

impl ShotWork {
    /// Tokens of the transformer: those of the shot and of what it sees.
    pub fn tokens(&self) -> f64 {
        let latents = self.grid.latent_frames(self.video.frames);
        let plane = self.grid.frame_tokens(self.video.resolution());
        (f64::from(latents) + self.memory) * f64::from(plane) + self.context
    }

    /// The same shot, of which a user has brought the video: it is encoded and decoded, and nothing is sampled.
    pub fn ready_made(self) -> Self {
        Self { steps: 0, ..self }
    }

    /// Frames and megapixels of the whole clip.
    fn clip(&self) -> (f64, f64) {
        let frames = f64::from(self.video.frames);
        let picture = f64::from(self.video.width) * f64::from(self.video.height);
        (frames, frames * picture / 1e6)
    }
}

/// Seconds that a shot is at each stage, without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct StageSeconds {
    /// Reading what it sees.
    pub plan: f64,
    /// Prompt and pictures.
    pub encode: f64,
    /// The sampling loop.
    pub denoise: f64,
    /// Latents to frames.
    pub decode: f64,
    /// Scores and keyframes.
    pub select: f64,
    /// Outputs, and the record that makes them count.
    pub commit: f64,
}

impl StageSeconds {
    /// From plan to commit.
    pub fn total(&self) -> f64 {
        self.plan + self.encode + self.denoise + self.decode + self.select + self.commit
    }
}

/// Time of a stage as a sum of three parts.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StageCost {
    /// Of every shot.
    pub seconds: f64,
    /// Of every frame.
    pub per_frame: f64,
    /// Of every million pixels, all frames counted.
    pub per_megapixel: f64,
}

impl StageCost {
    /// The same time for every shot.
    pub fn constant(seconds: f64) -> Self {
        Self {
            seconds,
            ..Self::default()
        }
    }

    /// Seconds of a clip.
    pub fn of(&self, frames: f64, megapixels: f64) -> f64 {
        self.seconds + self.per_frame * frames + self.per_megapixel * megapixels
    }

    fn values(&self) -> [f64; 3] {
        [self.seconds, self.per_frame, self.per_megapixel]
    }
}

/// Times of everything but the denoiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StageCosts {
    /// Stage `plan`.
    pub plan: StageCost,
    /// Stage `encode` of every shot: the prompt.
    pub encode: StageCost,
    /// What stage `encode` takes more for a shot that continues the one before: its given frames
    /// are encoded as part of a clip.
    pub continued: StageCost,
    /// Stage `decode`.
    pub decode: StageCost,
    /// Stage `select`.
    pub select: StageCost,
    /// Stage `commit` up to the record: video, pictures and blobs.
    pub commit: StageCost,
    /// The record, the names of the files, the index and the lease.
    pub record: StageCost,
    /// At the end of a story: joining its shots, its state.
    pub story: StageCost,
    /// Before the first shot of a program: loading.
    pub start: StageCost,
}

impl Default for StageCosts {
    fn default() -> Self {
        /// Decoding 832x480x81 is 275 TFLOP and encoding it 164, counted (`wan22`, section 3.6);
        /// 93 TFLOP/s is the 639 TFLOP of 1280x720x81 in the 6.9 s of section 7.
        const VAE_TFLOPS: f64 = 93.0;
        const MEGAPIXELS: f64 = 832.0 * 480.0 * 81.0 / 1e6;
        let per_megapixel = |teraflops: f64| StageCost {
            per_megapixel: teraflops / VAE_TFLOPS / MEGAPIXELS,
            ..StageCost::default()
        };
        Self {
            // Assumed: reading ten pictures.
            plan: StageCost::constant(0.05),
            // `wan22`, section 4.5, for prompts of at most 512 tokens.
            encode: StageCost::constant(0.008),
            continued: per_megapixel(164.0),
            decode: per_megapixel(275.0),
            // Assumed: resizing on the processor and 0.33 TFLOP of a ViT-H/14 for each frame.
            select: StageCost {
                per_frame: 0.02,
                ..StageCost::default()
            },
            // Measured with test patterns of 832x480x81 on the two cores of docs/benchmarks.md:
            // 2.1 s a shot, nearly all of it x264.
            commit: StageCost {
                per_megapixel: 0.066,
                ..StageCost::default()
            },
            record: StageCost::constant(0.002),
            story: StageCost::constant(0.2),
            // Assumed: 114 GB of weights at 2 GB/s.
            start: StageCost::constant(60.0),
        }
    }
}

/// Time that a brief takes to be planned.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlanCost {
    /// Of every story.
    pub seconds: f64,
    /// Of every shot that it asks for.
    pub per_shot: f64,
}

impl PlanCost {
    /// Seconds of a story of `shots` shots.
    pub fn of(&self, shots: f64) -> f64 {
        self.seconds + self.per_shot * shots
    }
}

/// Times of the denoiser.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DenoiseCosts {
    /// Of every step, besides its forwards.
    pub step_seconds: f64,
    /// What forwards took in an earlier run; without it they are computed from `transformer`,
    /// `rates` and `links`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<MeasuredForward>,
}

/// Seconds of one forward as they were measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredForward {
    /// Of every token.
    pub per_token: f64,
    /// Of every pair of tokens.
    pub per_token_squared: f64,
    /// The layout it was measured on. Others are taken to be faster or slower by as much as the
    /// model of the machine says.
    pub sharing: Sharing,
}

/// What fits into a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GpuMemory {
    /// Memory of a GPU in GB; 0 checks nothing.
    pub gpu_gb: f64,
    /// Transformers that are held at once.
    pub transformers: u32,
    /// Bytes of a weight.
    pub weight_bytes: f64,
    /// Bytes of activations for each token.
    pub bytes_per_token: f64,
    /// Text encoder, VAE, vision tower and their buffers on the rank that leads, in GB.
    pub beside_gb: f64,
}

impl Default for GpuMemory {
    fn default() -> Self {
        Self {
            // H200.
            gpu_gb: 141.0,
            // Two experts of each of the two pipelines.
            transformers: 4,
            weight_bytes: 2.0,
            // Peaks of Wan 2.2 on one GPU with one expert at a time (`wan22`, section 7): 41.3 GB
            // at 32,760 tokens and 59.8 GB at 75,600, less 28.6 GB of weights.
            bytes_per_token: 400e3,
            // Text encoder 11.4 GB, VAE 0.5, vision tower 2.5, decoding 5.5 (`wan22`, 3.4 and 4.1).
            beside_gb: 20.0,
        }
    }
}

impl GpuMemory {
    /// GB that the leader of a replica needs for a shot of `tokens` tokens.
    pub fn needed_gb(&self, transformer: &Transformer, shape: &ReplicaShape, tokens: f64) -> f64 {
        let (blocks, around) = transformer.parameters();
        let own = blocks / shape.sharing.tensor as f64 + around;
        let weights = own * self.weight_bytes * f64::from(self.transformers);
        let activations = tokens / shape.sharing.sequence as f64 * self.bytes_per_token;
        let alone = shape.encoders > 0 && shape.decoders > 0;
        let beside = if alone { 0.0 } else { self.beside_gb };
        (weights + activations) / 1e9 + beside
    }
}

/// What a shot leaves on disk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskCosts {
    /// Bits of a video file for each of its pixels.
    pub video_bits_per_pixel: f64,
    /// Bytes of a keyframe's file for each of its pixels.
    pub picture_bytes_per_pixel: f64,
    /// Bytes of an embedding.
    pub embedding_bytes: f64,
    /// Bytes of a record with its share of the story's files and of the index.
    pub record_bytes: f64,
}

impl Default for DiskCosts {
    /// Assumed: near-lossless H.264 of moving pictures, PNG of photographs, 1024 values of 4 bytes.
    fn default() -> Self {
        Self {
            video_bits_per_pixel: 0.5,
            picture_bytes_per_pixel: 1.5,
            embedding_bytes: 4096.0,
            record_bytes: 8192.0,
        }
    }
}

/// Everything that is assumed or known of the time that shots take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CostTable {
    /// Where the figures come from, in words.
    pub source: String,
    /// Whether encode, decode and select take their time from the GPU that denoises, if no other
    /// rank does them. Times that were measured side by side have that in them already.
    pub shares_gpu: bool,
    /// Keyframes that a shot adds to the bank, on average; at most `storymem.max_keyframes` count.
    pub keyframes_per_shot: f64,
    /// Pictures that the first, second, … shot of a story saw on average, where known; of longer
    /// stories the last holds.
    pub pictures_seen: Vec<f64>,
    /// The denoiser's network.
    pub transformer: Transformer,
    /// How fast a GPU is.
    pub rates: Rates,
    /// How fast GPUs talk to each other.
    pub links: Links,
    /// The denoiser.
    pub denoise: DenoiseCosts,
    /// Planning the stories of briefs.
    pub planning: PlanCost,
    /// All other stages.
    pub stages: StageCosts,
    /// What fits.
    pub memory: GpuMemory,
    /// What stays.
    pub disk: DiskCosts,
}

impl Default for CostTable {
    /// StoryMem on Wan2.2 A14B, one H200 per rank.
    fn default() -> Self {
        Self {
            source: "model of Wan2.2 A14B on H200".to_owned(),
            shares_gpu: true,
            keyframes_per_shot: 3.0,
            pictures_seen: Vec::new(),
            transformer: Transformer::default(),
            rates: Rates::default(),
            links: Links::default(),
            denoise: DenoiseCosts::default(),
            // Assumed: a model of 7B on a GPU of its own at 100 tokens a second, 100 tokens a shot
            // and as many again around them, one story at a time.
            planning: PlanCost {
                seconds: 1.0,
                per_shot: 1.0,
            },
            stages: StageCosts::default(),
            memory: GpuMemory::default(),
            disk: DiskCosts::default(),
        }
    }
}

/// How a replica is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReplicaShape {
    /// How its denoiser is shared.
    #[serde(flatten)]
    pub sharing: Sharing,
    /// Ranks that only encode.
    pub encoders: usize,
    /// Ranks that only decode and score.
    pub decoders: usize,
    /// Whether the ranks of the denoiser share the rows of pictures to decode.
    pub share_decode: bool,
}

impl ReplicaShape {
    /// One rank does it all.
    pub const ONE: Self = Self {
        sharing: Sharing::ONE,
        encoders: 0,
        decoders: 0,
        share_decode: false,
    };

    /// Ranks of a replica.
    pub fn ranks(&self) -> usize {
        self.sharing.ranks() + self.encoders + self.decoders
    }

    /// Shots that each stage can work on at once.
    pub fn capacities(&self) -> Capacities {
        Capacities {
            encode: self.encoders.max(1),
            denoise: 1,
            decode: self.decoders.max(1),
        }
    }
}

impl CostTable {
    /// A table in which only the steps of the denoiser take time.
    pub fn steps_only(step_seconds: f64) -> Self {
        let nothing = StageCost::default();
        let measured = MeasuredForward {
            per_token: 0.0,
            per_token_squared: 0.0,
            sharing: Sharing::ONE,
        };
        Self {
            source: "simulated.step_ms".to_owned(),
            shares_gpu: false,
            planning: PlanCost::default(),
            denoise: DenoiseCosts {
                step_seconds,
                measured: Some(measured),
            },
            stages: StageCosts {
                plan: nothing,
                encode: nothing,
                continued: nothing,
                decode: nothing,
                select: nothing,
                commit: nothing,
                record: nothing,
                story: nothing,
                start: nothing,
            },
            memory: GpuMemory {
                gpu_gb: 0.0,
                ..GpuMemory::default()
            },
            ..Self::default()
        }
    }

    /// The same with stages that networks make faster by these factors: encode, denoise, decode and
    /// select.
    pub fn faster(mut self, speed: f64) -> Self {
        let stages = &mut self.stages;
        for cost in [
            &mut stages.encode,
            &mut stages.continued,
            &mut stages.decode,
            &mut stages.select,
        ] {
            cost.seconds /= speed;
            cost.per_frame /= speed;
            cost.per_megapixel /= speed;
        }
        self.planning.seconds /= speed;
        self.planning.per_shot /= speed;
        self.denoise.step_seconds /= speed;
        if let Some(measured) = &mut self.denoise.measured {
            measured.per_token /= speed;
            measured.per_token_squared /= speed;
        }
        self.rates.matmul_tflops *= speed;
        self.rates.attention_tflops *= speed;
        self.links.all_to_all_gb_s *= speed;
        self.links.latency_us /= speed;
        for (_, bandwidth) in &mut self.links.all_reduce_gb_s {
            *bandwidth *= speed;
        }
        self
    }

    /// Seconds that a shot is at each stage on a replica of this shape.
    pub fn shot(&self, work: &ShotWork, shape: &ReplicaShape) -> StageSeconds {
        let (frames, megapixels) = work.clip();
        let of = |cost: &StageCost| cost.of(frames, megapixels);
        let stages = &self.stages;
        let encode = match (work.steps, work.opening.given_frames()) {
            // It has no prompt, and all of its frames are given.
            (0, _) => of(&stages.continued),
            (_, 0) => of(&stages.encode),
            _ => of(&stages.encode) + of(&stages.continued),
        };
        let decoding_ranks = match shape.share_decode && shape.decoders == 0 {
            true => shape.sharing.ranks() as f64,
            false => 1.0,
        };
        StageSeconds {
            plan: of(&stages.plan),
            encode,
            denoise: f64::from(work.steps) * self.step(work, shape.sharing),
            decode: of(&stages.decode) / decoding_ranks,
            select: self.select(frames, megapixels),
            commit: of(&stages.commit) + of(&stages.record),
        }
    }

    /// Seconds of stage `select` for a clip.
    pub fn select(&self, frames: f64, megapixels: f64) -> f64 {
        self.stages.select.of(frames, megapixels)
    }

    /// Seconds of one step of the sampling loop.
    pub fn step(&self, work: &ShotWork, sharing: Sharing) -> f64 {
        let forwards = (work.forwards / sharing.cfg as f64).max(1.0);
        self.denoise.step_seconds + forwards * self.forward(work.tokens(), sharing)
    }

    fn forward(&self, tokens: f64, sharing: Sharing) -> f64 {
        let model = |sharing: Sharing| {
            forward_seconds(&self.transformer, &self.rates, &self.links, sharing, tokens)
        };
        match &self.denoise.measured {
            None => model(sharing),
            Some(measured) => {
                let found = tokens * (measured.per_token + measured.per_token_squared * tokens);
                // Where nothing is known of the new layout, the model says how they compare.
                if sharing == measured.sharing {
                    return found;
                }
                found * model(sharing) / model(measured.sharing)
            }
        }
    }

    /// Bytes that a shot of this kind leaves on disk with its keyframes, the story's joined video
    /// included.
    pub fn bytes(&self, work: &ShotWork, keyframes: f64) -> ShotBytes {
        /// Bytes of a value of a latent.
        const F32: f64 = 4.0;
        /// Frames at the end of a shot that are kept without loss.
        const TAIL: f64 = Opening::MOST_GIVEN_FRAMES as f64;
        let picture = f64::from(work.video.width) * f64::from(work.video.height);
        let saved = f64::from(work.video.frames) - work.opening.given_frames() as f64;
        let latents = f64::from(work.grid.latent_frames(work.video.frames));
        let [channels, pixels] = [work.grid.channels, work.grid.pixels].map(f64::from);
        let latent_frame = channels * F32 * picture / (pixels * pixels);
        let disk = &self.disk;
        let latents = latents * latent_frame;
        let keyframe = disk.picture_bytes_per_pixel * picture + latent_frame + disk.embedding_bytes;
        let (beside, remembered, tail) = match work.remembers {
            Remembers::Keyframes => {
                let kept = keyframes * keyframe;
                (kept, kept, TAIL.min(saved) * picture * 3.0)
            }
            Remembers::Latents { again: true } => (latents, latents, 0.0),
            Remembers::Latents { again: false } => (0.0, latents, 0.0),
        };
        ShotBytes {
            video: 2.0 * saved * picture * disk.video_bits_per_pixel / 8.0,
            latents,
            keyframes: beside,
            tail,
            record: disk.record_bytes,
            remembered,
        }
    }

    /// What cannot be computed with.
    ///
    /// # Errors
    /// The first figure that makes no sense, by name.
    pub fn check(&self) -> Result<(), String> {
        let at_least_zero = |name: &str, value: f64| match value.is_finite() && value >= 0.0 {
            true => Ok(()),
            false => Err(format!("{name} = {value} must be a number of at least 0")),
        };
        let above_zero = |name: &str, value: f64| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(format!("{name} = {value} must be above 0")),
        };
        let stages = &self.stages;
        for (name, cost) in [
            ("plan", &stages.plan),
            ("encode", &stages.encode),
            ("continued", &stages.continued),
            ("decode", &stages.decode),
            ("select", &stages.select),
            ("commit", &stages.commit),
            ("record", &stages.record),
            ("story", &stages.story),
            ("start", &stages.start),
        ] {
            for value in cost.values() {
                at_least_zero(&format!("stages.{name}"), value)?;
            }
        }
        let network = &self.transformer;
        for (name, value) in [
            ("rates.matmul_tflops", self.rates.matmul_tflops),
            ("rates.attention_tflops", self.rates.attention_tflops),
            ("links.all_to_all_gb_s", self.links.all_to_all_gb_s),
            ("transformer.layers", f64::from(network.layers)),
            ("transformer.heads", f64::from(network.heads)),
            ("transformer.head_width", f64::from(network.head_width)),
            ("links.gpus_per_node", self.links.gpus_per_node as f64),
        ] {
            above_zero(name, value)?;
        }
        for (_, speed) in &self.links.all_reduce_gb_s {
            above_zero("links.all_reduce_gb_s", *speed)?;
        }
        for (name, value) in [
            ("links.latency_us", self.links.latency_us),
            ("planning.seconds", self.planning.seconds),
            ("planning.per_shot", self.planning.per_shot),
            ("denoise.step_seconds", self.denoise.step_seconds),
            ("keyframes_per_shot", self.keyframes_per_shot),
            ("memory.gpu_gb", self.memory.gpu_gb),
            ("memory.weight_bytes", self.memory.weight_bytes),
            ("memory.bytes_per_token", self.memory.bytes_per_token),
            ("memory.beside_gb", self.memory.beside_gb),
            ("disk.video_bits_per_pixel", self.disk.video_bits_per_pixel),
            (
                "disk.picture_bytes_per_pixel",
                self.disk.picture_bytes_per_pixel,
            ),
            ("disk.embedding_bytes", self.disk.embedding_bytes),
            ("disk.record_bytes", self.disk.record_bytes),
        ] {
            at_least_zero(name, value)?;
        }
        for value in &self.pictures_seen {
            at_least_zero("pictures_seen", *value)?;
        }
        if let Some(measured) = &self.denoise.measured {
            at_least_zero("denoise.measured.per_token", measured.per_token)?;
            let squared = measured.per_token_squared;
            at_least_zero("denoise.measured.per_token_squared", squared)?;
            if measured.sharing.ranks() == 0 {
                return Err("denoise.measured.sharing must be at least 1 each".to_owned());
            }
        }
        Ok(())
    }
}

/// What a shot leaves on disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct ShotBytes {
    /// Its video, and its share of the story's.
    pub video: f64,
    /// Its latents.
    pub latents: f64,
    /// What is remembered of it beside its latents: keyframes with their latents and embeddings, or its latents
    /// encoded again.
    pub keyframes: f64,
    /// Its last frames.
    pub tail: f64,
    /// Its record.
    pub record: f64,
    /// What later shots are given of it: a part of the above, not one more.
    pub remembered: f64,
}

impl ShotBytes {
    /// Counts another shot.
    pub fn add(&mut self, other: &Self) {
        self.video += other.video;
        self.latents += other.latents;
        self.keyframes += other.keyframes;
        self.tail += other.tail;
        self.record += other.record;
        self.remembered += other.remembered;
    }

    /// Each part of one of `shots` shots.
    pub fn divided(&self, shots: f64) -> Self {
        Self {
            video: self.video / shots,
            latents: self.latents / shots,
            keyframes: self.keyframes / shots,
            tail: self.tail / shots,
            record: self.record / shots,
            remembered: self.remembered / shots,
        }
    }

    /// All of it.
    pub fn total(&self) -> f64 {
        self.video + self.latents + self.keyframes + self.tail + self.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(memory: f64, opening: Opening) -> ShotWork {
        ShotWork {
            video: VideoSpec {
                width: 832,
                height: 480,
                frames: 81,
                fps: 16,
            },
            grid: LatentGrid::WAN_2_1,
            opening,
            memory,
            context: 0.0,
            remembers: Remembers::Keyframes,
            steps: 40,
            forwards: 2.0,
        }
    }

    /// Fails unless two numbers are the same but for a share.
    #[track_caller]
    pub(super) fn close(found: f64, wanted: f64, share: f64) {
        assert!(
            (found / wanted - 1.0).abs() < share,
            "{found}, not {wanted}"
        );
    }

    /// StoryMem specification, section 4.6 and section 7: tokens, and PFLOP of 80 forwards.
    #[test]
    fn shots_of_the_full_size() {
        assert_eq!(work(0.0, Opening::Text).tokens(), 32_760.0);
        assert_eq!(work(10.0, Opening::Memory).tokens(), 48_360.0);
        let table = CostTable::default();
        let denoise = |work: ShotWork| table.shot(&work, &ReplicaShape::ONE).denoise;
        let (bare, full) = (
            denoise(work(0.0, Opening::Text)),
            denoise(work(10.0, Opening::Memory)),
        );
        close(bare * 650e12, 134e15, 0.01);
        close(full / bare, 1.84, 0.01);
        // The decoder's figures at 1280x720 (`wan22`, sections 3.6 and 7).
        let mut large = work(0.0, Opening::Text);
        (large.video.width, large.video.height) = (1280, 720);
        close(table.shot(&large, &ReplicaShape::ONE).decode, 6.9, 0.02);
    }

    #[test]
    fn stages_depend_on_what_they_should() {
        let table = CostTable::default();
        let of = |work| table.shot(&work, &ReplicaShape::ONE);
        let cut = of(work(3.0, Opening::Memory));
        let continued = of(work(3.0, Opening::LastFrame));
        assert!(continued.encode > cut.encode + 1.0);
        assert_eq!(continued.denoise, cut.denoise);
        let mut unguided = work(3.0, Opening::Memory);
        unguided.forwards = 1.0;
        close(cut.denoise / of(unguided).denoise, 2.0, 1e-9);
        let both = Sharing {
            cfg: 2,
            ..Sharing::ONE
        };
        close(
            table.step(&work(3.0, Opening::Memory), both) * 80.0,
            cut.denoise,
            1e-9,
        );
        // A second rank for guidance helps nothing where there is no guidance.
        assert_eq!(
            table.step(&unguided, both),
            table.step(&unguided, Sharing::ONE)
        );
    }

    #[test]
    fn measured_forwards_hold_on_their_layout_and_scale_to_others() {
        let pair = Sharing {
            tensor: 2,
            ..Sharing::ONE
        };
        let mut table = CostTable::default();
        table.denoise.measured = Some(MeasuredForward {
            per_token: 1e-4,
            per_token_squared: 0.0,
            sharing: pair,
        });
        let work = work(0.0, Opening::Text);
        close(table.step(&work, pair), 2.0 * 3.276, 1e-9);
        let model = CostTable::default();
        close(
            table.step(&work, Sharing::ONE) / table.step(&work, pair),
            model.step(&work, Sharing::ONE) / model.step(&work, pair),
            1e-9,
        );
        assert_eq!(
            CostTable::steps_only(0.5)
                .shot(&work, &ReplicaShape::ONE)
                .total(),
            20.0
        );
    }

    #[test]
    fn faster_is_faster_in_every_layout() {
        let work = work(4.0, Opening::LastFrame);
        for tensor in [1, 4] {
            let sharing = Sharing {
                tensor,
                sequence: 2,
                cfg: 1,
            };
            let shape = ReplicaShape {
                sharing,
                ..ReplicaShape::ONE
            };
            let table = CostTable::default();
            let (usual, faster) = (
                table.shot(&work, &shape),
                table.clone().faster(100.0).shot(&work, &shape),
            );
            close(usual.denoise / faster.denoise, 100.0, 1e-9);
            close(usual.encode / faster.encode, 100.0, 1e-9);
            close(usual.select / faster.select, 100.0, 1e-9);
            assert_eq!(usual.commit, faster.commit);
        }
    }

    #[test]
    fn four_experts_of_the_14b_need_more_than_one_gpu() {
        let table = CostTable::default();
        let tokens = work(10.0, Opening::Memory).tokens();
        let needed = |tensor| {
            let sharing = Sharing {
                tensor,
                ..Sharing::ONE
            };
            let shape = ReplicaShape {
                sharing,
                ..ReplicaShape::ONE
            };
            table.memory.needed_gb(&table.transformer, &shape, tokens)
        };
        assert!(needed(1) > 141.0 && needed(2) < 141.0, "{}", needed(1));
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(CostTable::default().check(), Ok(()));
        let mut table = CostTable::default();
        table.stages.decode.per_frame = -1.0;
        assert!(table.check().unwrap_err().contains("stages.decode"));
        let mut table = CostTable::default();
        table.rates.matmul_tflops = 0.0;
        assert!(table.check().unwrap_err().contains("matmul_tflops"));
        let text = r#"{"rates": {"matmul": 3}}"#;
        assert!(serde_json::from_str::<CostTable>(text).is_err());
        let part = r#"{"rates": {"matmul_tflops": 3}}"#;
        let part: CostTable = serde_json::from_str(part).unwrap();
        assert_eq!(part.rates.attention_tflops, 650.0);
    }

    /// Sizes by hand: 16 channels of 60 x 104 values of 4 bytes, 21 frames of them.
    #[test]
    fn bytes_of_a_shot() {
        let bytes = CostTable::default().bytes(&work(0.0, Opening::LastFrame), 2.0);
        assert_eq!(bytes.latents, 16.0 * 60.0 * 104.0 * 4.0 * 21.0);
        assert_eq!(bytes.tail, 5.0 * 832.0 * 480.0 * 3.0);
        assert_eq!(bytes.video, 2.0 * 80.0 * 832.0 * 480.0 * 0.5 / 8.0);
    }
}

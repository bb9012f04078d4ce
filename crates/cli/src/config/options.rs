//! Every option, with its type, its default and its documentation.

use storyloom_engine::method::onestory::{Backend, MemorySource};
use storyloom_memory::IndexKind;
use storyloom_memory::select::SelectionRule;
use storyloom_models::sampler::{Reference, SamplerKind};
use storyloom_nn::lora::LoraScaling;
use storyloom_orchestrator::FilmShape;
use storyloom_parallel::Encryption;
use storyloom_planner::{ResponseFormat, Steps};
use storyloom_story::onestory::Selector;
use storyloom_story::{Continuation, Fit, Ground, Method};

use super::choices::{ResizeChoice, ScoreNormChoice, ScorerKind, TimeChoice, TimestepChoice};
use super::forms;
use super::limit::{Bounds, Limit};
use super::value::{Choice, Count, OptionValue, PerExpert, PerPhase};

/// Name, limit and documentation of an option.
pub struct OptionInfo {
    /// Where it stands in a config file: `video.width`.
    pub key: String,
    /// What its value may be, beyond its type. Every number has bounds.
    pub limit: Option<Limit>,
    /// The key that it had in earlier builds, which still works.
    pub former: Option<&'static str>,
    /// Its documentation, one entry per line.
    pub doc: &'static [&'static str],
}

/// The group whose options stand at the top of a file.
const TOP: &str = "top";

fn key_of(group: &str, name: &str) -> String {
    if group == TOP {
        name.to_owned()
    } else {
        format!("{group}.{name}")
    }
}

// An option says behind its default what it may be: `steps: u32 = 40, in 1..=1000` or, for a text,
// `deadline: String = String::new(), in forms::TIME`. An option that had another key says it, and the
// former key works wherever the present one does: `, was "sampler.steps"`.
macro_rules! options {
    ($(
        $(#[doc = $group_doc:literal])*
        $group:ident: $Group:ident {
            $(
                $(#[doc = $doc:literal])+
                $name:ident: $type:ty = $default:expr $(, in $limit:expr)? $(, was $former:literal)?,
            )+
        }
    )+) => {
        /// Resolved settings.
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct Config {
            $( $(#[doc = $group_doc])* pub $group: $Group, )+
        }

        $(
            $(#[doc = $group_doc])*
            #[derive(Debug, Clone, PartialEq)]
            pub struct $Group {
                $( $(#[doc = $doc])+ pub $name: $type, )+
            }

            impl Default for $Group {
                fn default() -> Self {
                    Self { $( $name: $default, )+ }
                }
            }
        )+

        impl Config {
            /// Every option in the order of its definition.
            pub fn options() -> Vec<OptionInfo> {
                vec![$($(
                    OptionInfo {
                        key: key_of(stringify!($group), stringify!($name)),
                        limit: [$(Limit::from($limit))?].first().copied(),
                        former: [$($former)?].first().copied(),
                        doc: &[$($doc),+],
                    },
                )+)+]
            }

            /// The present key of the option that is, or was, called `key`.
            pub fn key_now(key: &str) -> Option<String> {
                $($(
                    let now = key_of(stringify!($group), stringify!($name));
                    if key == now $(|| key == $former)? {
                        return Some(now);
                    }
                )+)+
                None
            }

            /// The value of the option `key`, if there is one. Former keys are none.
            pub fn option(&mut self, key: &str) -> Option<&mut dyn OptionValue> {
                $($(
                    if key == key_of(stringify!($group), stringify!($name)) {
                        return Some(&mut self.$group.$name);
                    }
                )+)+
                None
            }
        }
    };
}

/// Seconds that anybody may be waited for, at most.
const YEAR: u64 = 365 * 86_400;

options! {
    /// What runs, and on what.
    top: Top {
        /// How shots are conditioned and what is remembered. This version has networks for `storymem` and
        /// `onestory`; a run of the others can be rehearsed with `engine = "simulated"`. Networks make the
        /// stories of one method in a run: this one, or the one that all lines of the manifest name.
        method: Method = Method::StoryMem,
        /// What makes the pictures: networks, or a stand-in that draws test patterns and needs no
        /// checkpoint.
        engine: EngineKind = EngineKind::Torch,
        /// Where the networks run; `auto` takes a GPU if there is one.
        device: Device = Device::Auto,
        /// What follows when a run that was asked to stop has saved everything: `exit` with code
        /// 75, `wait` for the end, or ask Slurm to `requeue` the job. `auto` waits under Slurm,
        /// which takes a program that exits for a job that is done, and exits elsewhere, at a
        /// terminal, and after Ctrl-C.
        on_preempt: OnPreempt = OnPreempt::Auto,
    }
    /// The run as a whole.
    run: Run {
        /// Seed from which the seed of every shot is derived. A story of the manifest may have its
        /// own.
        seed: u64 = 0, in 0..=u64::MAX,
        /// Threads for the arithmetic; 0 takes one per core.
        threads: u32 = 0, in 0..=4096,
        /// How often a shot is tried before its story goes into quarantine.
        attempts: u32 = 2, in 1..=1000,
        /// Stories in quarantine that a run accepts before it ends with code 65; 0 accepts any
        /// number.
        quarantine_limit: u32 = 0, in 0..=1_000_000_000,
        /// Seconds without a heartbeat after which the lease on a story expires and other programs on
        /// the same run folder take it over. All programs of a run use the same.
        lease_timeout: u32 = 60, in 1..=YEAR, was "run.patience",
        /// Signals that stop a run after the running step, its state saved.
        stop_signals: String = "TERM,INT,USR1".to_owned(), in forms::SIGNALS,
        /// Signals that stop a run after the running shot.
        drain_signals: String = "USR2".to_owned(), in forms::SIGNALS,
        /// Milliseconds between two notes in the run folder of what a program is at, for
        /// `status --watch` and so that it is known when a program was killed.
        note_ms: u32 = 500, in 0..=3_600_000,
        /// When the run is to be done, as in `2026-11-22T06:00:00Z`: figures and alerts compare the
        /// time that is left with it. Empty for no such time.
        deadline: String = String::new(), in forms::TIME,
    }
    /// Checkpoints.
    models: Models {
        /// Folder of the checkpoints: `t2v` and `i2v` in the layout of the hub, `clip` for choosing
        /// keyframes, and perhaps `lora` and `aesthetic`; for OneStory `onestory`, one pipeline.
        /// `storyloom model init-tiny` writes such a folder.
        dir: String = String::new(),
        /// Precision of the transformers and the text encoder in memory. The VAE and the image
        /// encoder stay at f32.
        dtype: Dtype = Dtype::F32,
    }
    /// The LoRA that teaches the image-to-video experts of StoryMem to look at memory, or the one of the
    /// transformer of OneStory.
    lora: Lora {
        /// Folder with one LoRA file per expert; empty for `lora` in `models.dir`, or in its `onestory`, if
        /// it is there.
        dir: String = String::new(),
        /// Numerator of the scale for files that do not say it; 0 takes the rank itself, as StoryMem
        /// was trained with. Where the files say another one, that is an error.
        alpha: f64 = 0.0, in 0.0..=1e6,
        /// The scale: as the `files` say, or by a rule that overrules them: `plain` for
        /// `alpha / rank`, `rank-stabilised` for `alpha / sqrt(rank)`. Files that say nothing are
        /// plain, but for those that look like StoryMem's. See docs/checkpoints.md.
        scaling: LoraScaling = LoraScaling::Files,
        /// Add the LoRA into the weights once (faster), or apply it beside them at every step.
        merge: bool = true,
    }
    /// Size and length of shots.
    video: Video {
        /// Width of the films in pixels, an even number. What is no multiple of 16 is made larger and
        /// cropped.
        width: u32 = 832, in 16..=4096,
        /// Height of the films in pixels, an even number. As `video.width`.
        height: u32 = 480, in 16..=4096,
        /// Frames that are decoded per shot, 4n + 1. A shot that continues the one before loses
        /// the frames it was given.
        frames: u32 = 81, in 1..=4097,
        /// Frames per second of the files.
        fps: u32 = 16, in 1..=1000,
    }
    /// The files that a manifest names. See docs/inputs.md.
    inputs: Inputs {
        /// Folder below which the files lie that a manifest names: scripts, reference images, pictures
        /// of products. Their paths count from the folder of the manifest in any case; absolute ones and
        /// `..` are possible with this setting only. Empty for the folder of the manifest.
        folder: String = String::new(),
    }
    /// Pictures that users bring: photos of products and reference images.
    pictures: Pictures {
        /// How they are put into the shape of a film: all of a picture with bars beside it, the film
        /// filled and the rest cut off, or stretched to another aspect. A line of the manifest may
        /// have its own `fit`.
        fit: Fit = Fit::Pad,
        /// The colour behind what is transparent in them, and of the bars. A line of the manifest may
        /// have its own `ground`.
        ground: Ground = Ground::WHITE,
        /// What gives a film its shape where its line has no `size`: its first picture, with about as
        /// many pixels as `video.width` and `video.height` make, or these themselves, so that all
        /// films of a campaign have one shape.
        shape: FilmShape = FilmShape::Picture,
    }
    /// StoryMem on Wan2.2 (`method = "storymem"`): the way from noise to latents, and what a shot sees of
    /// the shots before it. `t2v` is the first shot of a story, `i2v` every other.
    storymem: StoryMem {
        /// Solver.
        solver: SamplerKind = SamplerKind::UniPc, was "sampler.name",
        /// Steps of the solver.
        steps: PerPhase<u32> = PerPhase { t2v: 40, i2v: 40 }, in 1..=1000, was "sampler.steps",
        /// Flow shift: larger spends more steps at high noise.
        shift: PerPhase<f64> = PerPhase { t2v: 12.0, i2v: 4.0 }, in Bounds::above(0.0, 1000.0), was "sampler.shift",
        /// Strength of classifier-free guidance, also per expert.
        guidance: PerPhase<PerExpert<f64>> = PerPhase {
            t2v: PerExpert { high: 3.5, low: 3.5 },
            i2v: PerExpert { high: 3.5, low: 3.5 },
        }, in -1000.0..=1000.0, was "sampler.guidance",
        /// Noise level from which the high-noise expert works, as a share of 1.
        boundary: PerPhase<f64> = PerPhase { t2v: 0.875, i2v: 0.9 }, in 0.0..=1.0, was "sampler.boundary",
        /// Whose noise levels are used: those of the original code, or those of diffusers.
        reference: Reference = Reference::Wan, was "sampler.reference",
        /// What no shot should look like; empty for the text that Wan2.2 was published with.
        negative_prompt: String = String::new(), was "sampler.negative_prompt",
        /// Most pictures a shot sees; 0 turns memory off: then `i2v` and `clip` in `models.dir` are
        /// not needed, as long as no shot continues the one before.
        max_images: usize = 10, in 0..=102, was "memory.max_images",
        /// Attention sink: the first `sink` pictures of a story are always among them.
        sink: usize = 3, in 0..=102, was "memory.sink",
        /// How keyframes are chosen: frames unlike the ones before, or only the first good frame.
        selection: SelectionRule = SelectionRule::Semantic, was "memory.selection",
        /// Whose resize of 8-bit frames comes before they are compared: `torch`, as in StoryMem's own
        /// code, or `pillow`, as in earlier versions, which differ by one level here and there.
        /// `auto` is `torch` for `semantic` selection and `pillow` else; a run that is there goes on
        /// with what it was begun with.
        selection_resize: ResizeChoice = ResizeChoice::Auto, was "memory.selection_resize",
        /// Most keyframes that are kept of one shot.
        max_keyframes: usize = 3, in 1..=1000, was "memory.max_keyframes",
        /// Similarity below which a frame counts as new; falls by 0.01 until few enough remain.
        similarity_start: f64 = 0.9, in -10.0..=10.0, was "memory.similarity_start",
        /// What says how good a frame is: a `rule` of sharpness and exposure without a network, 0 to
        /// 10, or the `aesthetic` predictor of LAION on CLIP ViT-L/14, about 1 to 10, from
        /// `aesthetic` in `models.dir`. See docs/checkpoints.md.
        scorer: ScorerKind = ScorerKind::Rule, was "memory.scorer",
        /// Least quality score of a keyframe, on the scale of `storymem.scorer`. 3.0 is StoryMem's, on
        /// the scale of HPSv3; for either scorer here it only keeps out what can hardly be seen.
        quality_threshold: f64 = 3.0, in -1e6..=1e6, was "memory.quality_threshold",
        /// What a shot continues from when its `cut` is false: the last frame, the last five
        /// frames, or nothing.
        continuation: Continuation = Continuation::Mi2v, was "memory.continuation",
        /// Distance in time between remembered pictures, as the transformer sees it: 5 as in the
        /// paper, 1 as in the first release.
        rope_stride: u32 = 5, in 1..=5, was "memory.rope_stride",
    }
    /// OneStory on Wan2.1 (`method = "onestory"`): the way from noise to latents, and which latent frames of
    /// the shots before it a shot sees, and how finely. See docs/methods.md.
    onestory: OneStory {
        /// Solver.
        solver: SamplerKind = SamplerKind::UniPc,
        /// Steps of the solver.
        steps: u32 = 40, in 1..=1000,
        /// Flow shift: larger spends more steps at high noise.
        shift: f64 = 3.0, in Bounds::above(0.0, 1000.0),
        /// Strength of classifier-free guidance; 1 skips the negative prompt. Both predictions of a step
        /// see the same context.
        guidance: f64 = 5.0, in -1000.0..=1000.0,
        /// Whose noise levels are used: those of the original code, or those of diffusers.
        reference: Reference = Reference::Wan,
        /// What no shot should look like; empty for the text that Wan was published with.
        negative_prompt: String = String::new(),
        /// How many tokens of earlier shots a shot sees, in units of the tokens of one latent frame; 0
        /// sees nothing.
        budget: u32 = 1, in 0..=3,
        /// Frames per patchifier, from the finest (`p2`) to the coarsest (`p16`), as in `0,4,0,0`; they
        /// must fit into `onestory.budget`. Empty for those of the budget: `0,3,3,2`, `1,3,3,2` or
        /// `2,3,3,2`, less where the frames are small.
        frames_per_kernel: String = String::new(), in forms::FRAMES_PER_KERNEL,
        /// What says how relevant an earlier frame is: the `learned` network, by caption and history; the
        /// most `recent` frames, or frames at equal distances (`uniform`), both without a network; or `clip`,
        /// likeness to the caption by CLIP and to the shots of the same characters by DINOv2, which is no
        /// OneStory and is named in what it makes. See docs/onestory.md.
        selector: Selector = Selector::Learned,
        /// How a score is made of what the network says: `auto` as the checkpoint says.
        score_norm: ScoreNormChoice = ScoreNormChoice::Auto,
        /// Where the frames that are seen stand in time: before the shot at equal distances (`shifted`),
        /// or where they are in the film (`true_distance`).
        ctx_time: TimeChoice = TimeChoice::Shifted,
        /// That distance, in latent frames.
        ctx_stride: u32 = 5, in 1..=1000,
        /// The timestep of the frames that are seen: that of the shot (`shared`), or that of clean frames
        /// (`zero`).
        ctx_timestep: TimestepChoice = TimestepChoice::Shared,
        /// What is kept of a shot: its latents as they were sampled (`latent`), or those of its decoded
        /// frames (`reencode`), as in the paper.
        memory_source: MemorySource = MemorySource::Latent,
        /// Whose weights choose and condition: trained ones of `onestory`; a plain pipeline of Wan2.1 that has
        /// never seen earlier frames (`wan14b-untrained`, `wan1.3b-fun`); or StoryMem's experts, which see
        /// the chosen frames whole (`storymem-inject`, with the checkpoints and the options of StoryMem).
        /// All but the first need another `onestory.selector` than `learned`, and are named in what they make.
        backend: Backend = Backend::OneStory,
    }
    /// The index of the memory bank.
    memory: Memory {
        /// Database of the memory bank's index. The index can be rebuilt from the run folder.
        backend: IndexKind = IndexKind::Sled,
        /// Folder of the index, for example on a fast local disk; empty for the run folder.
        path: String = String::new(),
    }
    /// The stand-in for networks.
    simulated: Simulated {
        /// How long one step takes, in milliseconds, without `costs`.
        step_ms: u64 = 0, in 0..=86_400_000,
        /// File of a cost table (TOML, or JSON by its name):
        /// stages then last as long as the table says. `built-in` for the table of Wan2.2 A14B on
        /// H200; empty for none. `storyloom estimate` computes with it, for either engine. See
        /// docs/estimate.md.
        costs: String = String::new(),
        /// How many times faster the stages are than the table says.
        speed: f64 = 1.0, in Bounds::above(0.0, 1e9),
        /// How long the planner that is called `simulated` takes for a story, in milliseconds; 0
        /// takes what the cost table says, or nothing without one.
        plan_ms: u64 = 0, in 0..=86_400_000,
        /// Whether video files are made. Without them each has a line of text that says so, and
        /// `verify` does too.
        videos: bool = true,
    }
    /// Saving inside a shot.
    checkpoint: Checkpoint {
        /// Save a shot that is being made every `every_steps` steps; 0 saves it whenever the work that a
        /// kill would lose is worth more than saving takes. A run that is asked to stop saves in
        /// any case.
        every_steps: u32 = 0, in 0..=1_000_000,
        /// Minutes between two kills, on average, for `every_steps = 0`.
        uptime: f64 = 120.0, in 0.0..=1e9,
    }
    /// What makes scripts of briefs. See docs/planner.md.
    planner: Planner {
        /// What makes them: fixed rules, for advertisements in English only; a language model that
        /// is served elsewhere; one in this program; or a stand-in that says little and takes as
        /// long as `simulated.plan_ms` says.
        backend: PlannerKind = PlannerKind::Rules,
        /// Stories that are planned before a replica has time for them, for each replica.
        ahead: u32 = 8, in 1..=10_000,
        /// How often a brief that cannot be planned is tried, each time with another seed, before
        /// its story goes into quarantine.
        attempts: u32 = 3, in 1..=1000,
        /// How often a model is asked, in each of these, to put its answers right.
        repairs: u32 = 2, in 0..=100,
        /// Name of the served model, or folder of the native one.
        model: String = String::new(),
        /// Address of an OpenAI-compatible API that serves the model, such as
        /// `http://127.0.0.1:8000/v1`.
        endpoint: String = String::new(), in forms::WEB_ADDRESS,
        /// File with the key of that API. The environment variable `STORYLOOM_PLANNER_KEY` may hold
        /// the key itself.
        key_file: String = String::new(),
        /// Briefs that a model works on at once.
        concurrency: u32 = 8, in 1..=1024,
        /// Most questions that a served model is asked in a minute; 0 for any number.
        per_minute: u32 = 0, in 0..=1_000_000,
        /// Seconds that a served model has for an answer.
        timeout_s: u32 = 180, in 1..=86_400,
        /// How often a question is sent again when the server is busy, cannot be reached or answers what cannot be read.
        retries: u32 = 5, in 0..=1000,
        /// How a served model is told the form of its answers, besides in words: by a JSON schema,
        /// as any JSON object, or not at all, for servers that refuse the others.
        format: ResponseFormat = ResponseFormat::Schema,
        /// Ask for the whole script at once, or in stages: a reference picture, scenarios, then
        /// every shot by itself.
        steps: Steps = Steps::Script,
        /// Folder of prompt templates that stand for the shipped ones of the same names; empty for
        /// these.
        prompts: String = String::new(),
        /// Most characters of the prompt of a shot.
        prompt_chars: u32 = 1200, in 200..=4000,
        /// Sampling temperature of the model; 0 is greedy.
        temperature: f64 = 0.7, in 0.0..=2.0,
        /// Nucleus sampling: share of the probability that tokens are drawn from.
        top_p: f64 = 0.9, in Bounds::above(0.0, 1.0),
        /// Number of likeliest tokens that are drawn from; 0 for all.
        top_k: u32 = 0, in 0..=1_000_000,
        /// Most tokens of one answer.
        max_tokens: u32 = 8192, in 1..=262_144,
        /// Longest side of a product's picture as a model sees it, in pixels.
        picture_side: u32 = 1024, in 56..=4096,
    }
    /// How the ranks of a world are divided. A replica is a copy of the networks that makes stories:
    /// `tensor * sequence * cfg` ranks that share a denoiser, and those of `encoders` and `decoders`.
    topology: Topology {
        /// Number of replicas; `auto` takes all ranks that there are.
        replicas: Count = Count::Auto, in 1..=65_536,
        /// Ranks that share each layer, by heads: a divisor of the model's heads and feed-forward
        /// channels.
        tensor: u32 = 1, in 1..=1024,
        /// Ranks that share the tokens of a shot (Ulysses): a divisor of the heads of each.
        sequence: u32 = 1, in 1..=1024,
        /// Ranks that share the two halves of guidance: 1 or 2.
        cfg: u32 = 1, in 1..=2,
        /// Ranks that only encode; 0 leaves it to the leader of the replica.
        encoders: u32 = 0, in 0..=1024,
        /// Ranks that only decode and score; 0 leaves it to the leader of the replica.
        decoders: u32 = 0, in 0..=1024,
        /// Ranks of the world, beside all replicas, that only plan stories of briefs; 0 leaves it to
        /// the leaders, on threads of their own.
        planners: u32 = 0, in 0..=1024,
        /// How many of the ranks that plan share one language model (`planner.backend = "native"`),
        /// each with a part of every layer; divides `planners`.
        planner_tensor: u32 = 1, in 0..=1024,
        /// Divide the rows of pictures to decode among the ranks of the denoiser.
        share_decode: bool = false,
        /// Let idle replicas compute the negative prompt of others, which shortens the end of a run.
        widen: bool = true,
        /// Stories that a replica makes side by side, so that its denoiser need not wait for the
        /// other stages.
        interleave: u32 = 3, in 1..=256,
        /// Timeout of collectives, in seconds: how long ranks wait for each other before the world ends,
        /// to be started again.
        collective_timeout: u32 = 300, in 1..=YEAR, was "topology.patience",
        /// Whether ranks without MPI encrypt what they send each other, with a key made of
        /// `STORYLOOM_TOKEN`; all ranks of a world say the same. See docs/worlds.md.
        encryption: Encryption = Encryption::None,
    }
    /// What is written down while a run goes on, besides stderr. See docs/logs.md.
    logs: Logs {
        /// Write log lines as JSON to `logs/WORLD.rank-N.jsonl` in the run folder.
        json: bool = true,
        /// Least severe lines that are written there.
        level: LogLevel = LogLevel::Info,
        /// Most bytes of the log files of one rank: four files, the oldest goes when the latest is
        /// full.
        max_bytes: u64 = 64 << 20, in 0..=1 << 40,
        /// Most bytes of all log files in the run folder when a world starts: the oldest that nobody
        /// has written to for an hour go first.
        max_total_bytes: u64 = 2 << 30, in 0..=1 << 50,
        /// Seconds between two lines about the progress of a run, where stderr is no terminal.
        progress_s: u32 = 10, in 1..=86_400,
        /// Address of an OpenTelemetry collector that gets a span for every shot and stage, such as
        /// `http://localhost:4318`; empty for none. Keys for it go into the environment variable
        /// `OTEL_EXPORTER_OTLP_HEADERS`.
        otlp: String = String::new(), in forms::HTTP_ADDRESS,
    }
    /// Figures for Prometheus and pages for those who look after a run, see docs/operations.md.
    metrics: Metrics {
        /// Address at which the leader of each replica serves `/metrics`, `/healthz`, `/readyz` and
        /// `/status`; empty to serve nothing. Where several leaders of a machine share it they take
        /// the ports after it, port 0 takes any; `DIR/metrics/targets.json` tells Prometheus.
        /// `0.0.0.0:9464` serves to other machines.
        listen: String = "127.0.0.1:0".to_owned(), in forms::LISTEN_ADDRESS,
        /// Name or address by which other machines reach this one; empty for its host name.
        host: String = String::new(),
        /// Name stories, shots and tenants on the page `/status`, for anyone who can reach it.
        names: bool = false,
        /// File with the token of those who may ask for changes: `POST /drain`. The environment
        /// variable `STORYLOOM_METRICS_TOKEN` may hold the token itself. Without one nobody may.
        token_file: String = String::new(),
        /// Address of a Pushgateway, `http://…`, that gets the figures every 30 seconds and at the
        /// end; empty for none.
        push: String = String::new(), in forms::HTTP_ADDRESS,
        /// Minutes without progress, while loading or making shots, after which `/healthz` says so.
        stall: f64 = 30.0, in Bounds::above(0.0, 1e6),
    }
}

/// What makes the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Networks on libtorch.
    Torch,
    /// Test patterns.
    Simulated,
}

impl Choice for EngineKind {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("torch", Self::Torch), ("simulated", Self::Simulated)];
}

/// What makes scripts of briefs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlannerKind {
    /// Fixed rules.
    Rules,
    /// A language model that is served elsewhere.
    Served,
    /// A language model in this program.
    Native,
    /// A stand-in.
    Simulated,
}

impl Choice for PlannerKind {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("rules", Self::Rules),
        ("served", Self::Served),
        ("native", Self::Native),
        ("simulated", Self::Simulated),
    ];
}

/// Where networks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// A CUDA device.
    Cuda,
    /// A CUDA device if there is one, else the processor.
    Auto,
}

impl Choice for Device {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("cpu", Self::Cpu),
        ("cuda", Self::Cuda),
        ("auto", Self::Auto),
    ];
}

/// Precision of weights in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits with the range of 32.
    Bf16,
}

impl Choice for Dtype {
    const CHOICES: &'static [(&'static str, Self)] = &[("f32", Self::F32), ("bf16", Self::Bf16)];
}

/// What follows when everything is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPreempt {
    /// Wait under Slurm, exit elsewhere.
    Auto,
    /// Exit with code 75.
    Exit,
    /// Wait to be ended.
    Wait,
    /// Ask Slurm to start the job again later.
    Requeue,
}

impl Choice for OnPreempt {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("exit", Self::Exit),
        ("wait", Self::Wait),
        ("requeue", Self::Requeue),
    ];
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What could not be done.
    Error,
    /// What somebody should look at.
    Warn,
    /// What happens.
    Info,
    /// Every shot and step.
    Debug,
    /// Everything.
    Trace,
}

impl Choice for LogLevel {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Choice for Steps {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("script", Self::Script), ("staged", Self::Staged)];
}

impl Choice for ResponseFormat {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("schema", Self::Schema),
        ("object", Self::Object),
        ("off", Self::Off),
    ];
}

impl Choice for IndexKind {
    const CHOICES: &'static [(&'static str, Self)] = &[("sled", Self::Sled), ("redb", Self::Redb)];
}

impl Choice for LoraScaling {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("files", Self::Files),
        ("plain", Self::Plain),
        ("rank-stabilised", Self::RankStabilised),
    ];
}

impl Choice for SelectionRule {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("semantic", Self::Semantic),
        ("first-frame", Self::FirstFrame),
    ];
}

impl Choice for Method {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("storymem", Self::StoryMem),
        ("onestory", Self::OneStory),
        ("narrative-weaver", Self::NarrativeWeaver),
        ("moviedreamer", Self::MovieDreamer),
    ];
}

impl Choice for Continuation {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("mi2v", Self::Mi2v),
        ("mm2v", Self::Mm2v),
        ("none", Self::None),
    ];
}

impl Choice for Fit {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("pad", Self::Pad),
        ("crop", Self::Crop),
        ("stretch", Self::Stretch),
    ];
}

impl Choice for FilmShape {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("picture", Self::Picture), ("video", Self::Video)];
}

impl Choice for SamplerKind {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("unipc", Self::UniPc),
        ("dpm++", Self::DpmPlusPlus),
        ("euler", Self::Euler),
    ];
}

impl Choice for Reference {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("wan", Self::Wan), ("diffusers", Self::Diffusers)];
}

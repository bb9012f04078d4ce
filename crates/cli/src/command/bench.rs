//! `storyloom bench`: figures of this machine as JSON.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use storyloom_engine::bench::share;
use storyloom_engine::bench::{
    self, BenchSettings, ContextFigures, ContextSettings, DenoiseFigures, DenoiseModel,
    KernelFigures, KernelShape, LanguageBench,
};
use storyloom_memory::IndexKind;
use storyloom_models::wan::WanConfig;
use storyloom_nn::tch::Device;
use storyloom_orchestrator::Videos;
use storyloom_orchestrator::bench::{StoreFigures, store};
use storyloom_orchestrator::pipeline::{PipelineFigures, PipelineSettings, pipeline};
use storyloom_parallel::bench::Figure;
use storyloom_parallel::topology::Degrees;
use storyloom_parallel::{CommError, Encryption, World, WorldOptions};
use storyloom_story::LatentGrid;

use super::{control, instrumentation, preempt};
use crate::engine::first_gpu;
use crate::environment::{self, Heaps};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::print_json;
use crate::world;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One forward of the denoiser, beside a plain matrix product.
    Denoise(Denoise),
    /// What the memory of OneStory costs: forwards with context beside the plain transformer, in turns, and
    /// the selection over a long history.
    Context(Context),
    /// One forward shared among the ranks of a world, beside one rank alone; under mpirun or
    /// `storyloom launch`.
    Share(Share),
    /// The collectives of a world, beside the bare calls of MPI; under mpirun or
    /// `storyloom launch`.
    Collectives(Collectives),
    /// Latents of one clip to frames.
    Decode(Clip),
    /// From a checkpoint folder to a model that is ready.
    Load(Clip),
    /// Prompts and tokens of a language model: one story alone, and several together.
    Language(Language),
    /// Every fused kernel on the GPU beside libtorch: results, which must agree, and times.
    Kernels,
    /// What the ledger of a run costs per shot, and in a large run.
    Store(Store),
    /// How well stories side by side keep the denoiser busy; on the simulated engine.
    Pipeline(Pipeline),
    /// How many shots a second the control plane commits when making them takes no time.
    Control(control::Arguments),
    /// What kills cost a run that resumes at steps, shots or stories; on the simulated engine.
    Preempt(preempt::Arguments),
    /// What journals, metrics and pages cost a run, and what a scrape costs; on the simulated
    /// engine.
    Telemetry(instrumentation::Arguments),
}

#[derive(Debug, Args)]
struct Share {
    #[command(flatten)]
    clip: Clip,
    /// Ranks that share each layer.
    #[arg(long, default_value_t = 1)]
    tensor: usize,
    /// Ranks that share the tokens.
    #[arg(long, default_value_t = 1)]
    sequence: usize,
}

impl Share {
    fn measure(&self) -> Outcome {
        let settings = self.clip.timing.settings()?;
        let degrees = Degrees {
            tensor: self.tensor,
            sequence: self.sequence,
            cfg: 1,
        };
        let world = join(Encryption::None)?;
        if degrees.ranks() != world.group().size() {
            let ranks = degrees.ranks();
            let message = format!("start {ranks} ranks: mpirun -n {ranks} storyloom bench share …");
            return Err(Failure::new(Exit::Usage, message));
        }
        let figures = share(&self.clip.model, &settings, world.group(), degrees)?;
        if world.group().rank() == 0 {
            print_json(&figures)?;
        }
        Ok(Exit::Done)
    }
}

fn join(encryption: Encryption) -> Result<World, Failure> {
    let options = WorldOptions {
        encryption,
        ..WorldOptions::default()
    };
    World::join(options).map_err(world::setup)
}

#[derive(Debug, Args)]
struct Collectives {
    /// Let the ranks encrypt what they send, as with `topology.encryption = "noise"`.
    #[arg(long)]
    encrypted: bool,
}

/// Prints the figures of all collectives.
fn collectives(arguments: &Collectives) -> Outcome {
    let encryption = match arguments.encrypted {
        true => Encryption::Noise,
        false => Encryption::None,
    };
    let world = join(encryption)?;
    let failed = |error: CommError| Failure::new(Exit::Stopped, error);
    let figures = storyloom_parallel::bench::collectives(&world).map_err(failed)?;
    let figure = |figure: &Figure| {
        let rate = figure.bytes as f64 / figure.seconds / 1e9;
        serde_json::json!({
            "operation": figure.operation,
            "bytes": figure.bytes,
            "microseconds": figure.seconds * 1e6,
            "gigabytes_per_second": rate,
            "bare_microseconds": figure.bare_seconds.map(|seconds| seconds * 1e6),
            "share_of_bare": figure.bare_seconds.map(|bare| bare / figure.seconds),
        })
    };
    if world.group().rank() == 0 {
        print_json(&serde_json::json!({
            "ranks": world.group().size(),
            "by": world.found().source.name(),
            "encryption": encryption.name(),
            "figures": figures.iter().map(figure).collect::<Vec<_>>(),
        }))?;
    }
    Ok(Exit::Done)
}

#[derive(Debug, Args)]
struct Store {
    /// Folder on the disk to measure; a new folder in it is filled and removed.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Database of the index: sled or redb.
    #[arg(long, default_value = "sled")]
    backend: String,
    /// Shots timed in each part.
    #[arg(long, default_value_t = 200)]
    shots: usize,
    /// Stories of ten shots in the large run.
    #[arg(long, default_value_t = 10_000)]
    stories: usize,
}

impl Store {
    fn measure(&self) -> Result<StoreFigures, Failure> {
        let kind = match self.backend.as_str() {
            "sled" => IndexKind::Sled,
            "redb" => IndexKind::Redb,
            other => {
                let message = format!("{other} is no database of the index; use sled or redb");
                return Err(Failure::new(Exit::Usage, message));
            }
        };
        Ok(store(&self.dir, kind, self.shots, self.stories)?)
    }
}

#[derive(Debug, Args)]
struct Pipeline {
    /// Folder to work in; a new folder in it is filled and removed.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Milliseconds of denoising a shot.
    #[arg(long, default_value_t = 200)]
    denoise_ms: u64,
    /// Denoise steps of a shot.
    #[arg(long, default_value_t = 10)]
    steps: u32,
    /// Encoding as a share of denoising.
    #[arg(long, default_value_t = 0.03)]
    encode: f64,
    /// Decoding and selecting as a share of denoising.
    #[arg(long, default_value_t = 0.35)]
    decode: f64,
    /// Shots of each run.
    #[arg(long, default_value_t = 60)]
    shots: usize,
    /// Shots of each story.
    #[arg(long, default_value_t = 5)]
    story: usize,
    /// Stories side by side; the first number is the baseline.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3, 4])]
    in_flight: Vec<usize>,
    /// Make video files, on the same processor.
    #[arg(long)]
    videos: bool,
    /// Make the same stories of briefs as well, whose planning takes this share of the time of all
    /// stages of their shots.
    #[arg(long, value_name = "SHARE")]
    plan: Option<f64>,
}

impl Pipeline {
    fn measure(&self) -> Result<PipelineFigures, Failure> {
        let share = |value: f64| (0.0..1e3).contains(&value);
        let shares = [Some(self.encode), Some(self.decode), self.plan];
        if self.denoise_ms == 0 || !shares.into_iter().flatten().all(share) {
            let message = "times and shares must be above 0";
            return Err(Failure::new(Exit::Usage, message));
        }
        Ok(pipeline(&PipelineSettings {
            place: self.dir.clone(),
            denoise: Duration::from_millis(self.denoise_ms),
            steps: self.steps,
            encode: self.encode,
            decode: self.decode,
            shots: self.shots,
            story: self.story,
            interleave: self.in_flight.iter().map(|&count| count.max(1)).collect(),
            videos: match self.videos {
                true => Videos::Encoded,
                false => Videos::Placeholders,
            },
            planning: self.plan,
        })?)
    }
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("weights").required(true).args(["model", "random"])))]
struct Transformer {
    /// Folder of the transformer.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Random weights, made in place, instead of a folder: t2v-a14b, i2v-a14b, ti2v-5b, t2v-1.3b,
    /// tiny, or a config.json.
    #[arg(long, value_name = "CONFIG")]
    random: Option<String>,
}

#[derive(Debug, Args)]
struct Denoise {
    #[command(flatten)]
    transformer: Transformer,
    /// Without fused kernels.
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    timing: Timing,
}

#[derive(Debug, Args)]
struct Context {
    #[command(flatten)]
    transformer: Transformer,
    /// Shots of the history.
    #[arg(long, default_value_t = 40)]
    shots: usize,
    /// Denoising steps of a shot, which selection is compared with.
    #[arg(long, default_value_t = 40)]
    steps: usize,
    /// Forwards of a step: two with guidance.
    #[arg(long, default_value_t = 2)]
    forwards: usize,
    #[command(flatten)]
    timing: Timing,
}

#[derive(Debug, Args)]
struct Clip {
    /// Folder of the component: a transformer, or a VAE for `decode`.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    timing: Timing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BenchDevice {
    /// The processor.
    Cpu,
    /// The first GPU.
    Cuda,
}

#[derive(Debug, Args)]
struct Timing {
    /// Where it runs.
    #[arg(long, value_enum, default_value = "cpu")]
    device: BenchDevice,
    /// Precision: f32 or bf16; bf16 on a GPU unless given.
    #[arg(long)]
    dtype: Option<String>,
    /// Threads; 0 takes the default of libtorch.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Timed repeats after a warm-up.
    #[arg(long, default_value_t = 5)]
    repeats: u32,
    /// Frames of the clip, 4n + 1.
    #[arg(long, default_value_t = 17)]
    frames: u32,
    /// Height of the clip in pixels.
    #[arg(long, default_value_t = 384)]
    height: u32,
    /// Width of the clip in pixels.
    #[arg(long, default_value_t = 448)]
    width: u32,
}

#[derive(Debug, Args)]
struct Language {
    /// Folder of the language model.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Where it runs.
    #[arg(long, value_enum, default_value = "cpu")]
    device: BenchDevice,
    /// Precision of the weights: f32 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// Threads; 0 takes the default of libtorch.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Timed repeats after a warm-up.
    #[arg(long, default_value_t = 3)]
    repeats: u32,
    /// Tokens of every prompt.
    #[arg(long, default_value_t = 256)]
    prompt: u32,
    /// Tokens of every story.
    #[arg(long, default_value_t = 64)]
    tokens: u32,
    /// Stories that are made together.
    #[arg(long, default_value_t = 8)]
    stories: usize,
}

impl Language {
    fn settings(&self) -> Result<LanguageBench, Failure> {
        Ok(LanguageBench {
            dtype: self.dtype.clone(),
            threads: self.threads,
            repeats: self.repeats,
            prompt: self.prompt,
            tokens: self.tokens,
            stories: self.stories,
            device: match self.device {
                BenchDevice::Cpu => Device::Cpu,
                BenchDevice::Cuda => first_gpu()?,
            },
        })
    }
}

impl Transformer {
    /// What `measure` finds with this transformer.
    fn with<T>(
        &self,
        measure: impl FnOnce(DenoiseModel) -> storyloom_nn::Result<T>,
    ) -> Result<T, Failure> {
        let Some(name) = &self.random else {
            let folder = self.model.as_deref().unwrap_or(Path::new(""));
            return Ok(measure(DenoiseModel::Folder(folder))?);
        };
        let config = match WanConfig::named(name) {
            Some(config) => config,
            None if name.ends_with(".json") => WanConfig::read_file(Path::new(name))?,
            None => {
                let names = WanConfig::NAMES.join(", ");
                let message =
                    format!("{name} is no config; use one of {names}, or the path of a .json");
                return Err(Failure::new(Exit::Usage, message));
            }
        };
        let config = &config;
        Ok(measure(DenoiseModel::Random { name, config })?)
    }
}

impl Denoise {
    fn measure(&self) -> Result<DenoiseFigures, Failure> {
        let settings = self.timing.settings()?;
        self.transformer
            .with(|model| bench::denoise(model, &settings, self.plain))
    }
}

impl Context {
    fn measure(&self) -> Result<ContextFigures, Failure> {
        let settings = self.timing.settings()?;
        if self.steps == 0 || self.forwards == 0 {
            let message = "a shot has at least one step, and a step at least one forward";
            return Err(Failure::new(Exit::Usage, message));
        }
        let story = ContextSettings {
            shots: self.shots,
            steps: self.steps,
            forwards: self.forwards,
        };
        self.transformer
            .with(|model| bench::context(model, &settings, story))
    }
}

impl Timing {
    fn settings(&self) -> Result<BenchSettings, Failure> {
        // The smallest that each of the published models takes.
        let (grid, side) = (LatentGrid::WAN_2_1, LatentGrid::WAN_2_1.token_side());
        if !grid.is_length(self.frames) || self.height < side || self.width < side {
            let each = grid.frames;
            let message =
                format!("a clip has {each}n + 1 frames and at least {side} x {side} pixels");
            return Err(Failure::new(Exit::Usage, message));
        }
        let (device, dtype) = match self.device {
            BenchDevice::Cpu => (Device::Cpu, "f32"),
            BenchDevice::Cuda => (first_gpu()?, "bf16"),
        };
        Ok(BenchSettings {
            dtype: self.dtype.clone().unwrap_or_else(|| dtype.to_owned()),
            device,
            threads: self.threads,
            repeats: self.repeats,
            clip: [self.frames, self.height, self.width].map(i64::from),
        })
    }
}

/// Checks the kernels on the first GPU.
fn kernels() -> Result<KernelFigures, Failure> {
    let shapes = [KernelShape::ODD, KernelShape::FULL];
    Ok(bench::kernels(first_gpu()?, &shapes)?)
}

/// Measures, and prints the figures.
pub fn run(arguments: &Arguments) -> Outcome {
    environment::settle(Heaps::Own, &[]);
    match &arguments.what {
        What::Denoise(what) => print_json(&what.measure()?)?,
        What::Context(what) => print_json(&what.measure()?)?,
        What::Share(what) => return what.measure(),
        What::Collectives(arguments) => return collectives(arguments),
        What::Decode(clip) => print_json(&bench::decode(&clip.model, &clip.timing.settings()?)?)?,
        What::Telemetry(what) => print_json(&instrumentation::measure(what)?)?,
        What::Pipeline(what) => print_json(&what.measure()?)?,
        What::Control(what) => print_json(&control::measure(what)?)?,
        What::Preempt(what) => print_json(&preempt::measure(what)?)?,
        What::Store(what) => print_json(&what.measure()?)?,
        What::Load(clip) => print_json(&bench::load(&clip.model, &clip.timing.settings()?)?)?,
        What::Language(what) => {
            print_json(&bench::language(&what.model, &what.settings()?)?)?;
        }
        What::Kernels => {
            let figures = kernels()?;
            print_json(&figures)?;
            if !figures.passed {
                return Err(Failure::new(
                    Exit::Unexpected,
                    "a kernel computes something else",
                ));
            }
        }
    }
    Ok(Exit::Done)
}

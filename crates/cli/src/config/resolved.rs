//! The settings as the parts of the program take them: each part gets what is its own, and nothing
//! below the commands sees the whole [`Config`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use storyloom_orchestrator::cost::{ReplicaShape, Sharing};
use storyloom_orchestrator::{CheckpointSettings, FilmShape, PictureSettings, Videos};
use storyloom_parallel::WorldOptions;
use storyloom_parallel::topology::{Degrees, Plan};
use storyloom_story::{Ground, LatentGrid, Method, Resolution, VideoSpec};

use super::choices::ResizeChoice;
use super::grid::networks_of;
use super::options::{
    Device, Dtype, EngineKind, Inputs, Logs, Lora, Memory, Metrics, OnPreempt, OneStory, Planner,
    Run, Simulated, StoryMem, Topology,
};
use super::value::Count;
use super::{Config, options};

/// The settings, divided among those who use them.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The run as a whole.
    pub run: Run,
    /// What follows when a run that was asked to stop has saved everything.
    pub on_preempt: OnPreempt,
    /// Where the files of a manifest lie.
    pub inputs: Inputs,
    /// What every film is.
    pub films: FilmConfig,
    /// What makes the pictures.
    pub engine: EngineConfig,
    /// The ranks.
    pub world: WorldConfig,
    /// What makes scripts of briefs.
    pub planner: PlannerConfig,
    /// How long everything takes.
    pub costs: CostConfig,
    /// When a shot that is being made is saved.
    pub checkpoint: CheckpointSettings,
    /// What is written down.
    pub logs: Logs,
    /// Figures for Prometheus.
    pub metrics: Metrics,
    /// Stories that a replica makes side by side.
    pub interleave: usize,
    config: Config,
}

/// Size, length and shape of films.
#[derive(Debug, Clone, Copy)]
pub struct FilmConfig {
    /// The video that every shot is asked to be.
    pub video: VideoSpec,
    /// How the networks divide it.
    pub grid: LatentGrid,
    /// How users' pictures are put into it.
    pub pictures: PictureSettings,
}

/// Where networks run, and at which precision.
#[derive(Debug, Clone, Copy)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// Precision of weights in memory.
    pub dtype: Dtype,
}

/// What makes the pictures.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Networks or the stand-in.
    pub kind: EngineKind,
    /// How shots are conditioned and what is remembered.
    pub method: Method,
    /// Where the networks run.
    pub compute: Compute,
    /// Folder of the checkpoints; empty if none is named.
    pub models_dir: String,
    /// The adapter.
    pub lora: Lora,
    /// The options of StoryMem.
    pub storymem: StoryMem,
    /// The options of OneStory.
    pub onestory: OneStory,
    /// The index of the memory bank.
    pub index: Memory,
    /// Threads for the arithmetic; 0 takes one per core.
    pub threads: u32,
    /// Whether the ranks of the denoiser divide the rows of pictures to decode.
    pub share_decode: bool,
    /// Whether idle replicas compute the negative prompt of others.
    pub widen: bool,
    /// How long ranks wait for each other.
    pub collective_timeout: Duration,
    /// Whether the stand-in makes video files.
    simulated_videos: bool,
}

/// The ranks and how they are divided.
#[derive(Debug, Clone)]
pub struct WorldConfig {
    /// How the ranks of a world are divided.
    pub plan: Plan,
    /// How they reach each other.
    pub options: WorldOptions,
    /// What the replicas run.
    pub engine: EngineKind,
    /// By which method, unless the lines of the manifest say another one.
    pub method: Method,
    /// Folder of the checkpoints.
    pub models_dir: PathBuf,
}

/// What makes scripts of briefs.
#[derive(Debug, Clone)]
pub struct PlannerConfig {
    /// Its own options.
    pub options: Planner,
    /// Where a native model runs.
    pub compute: Compute,
    /// The colour behind what is transparent in pictures of products.
    pub ground: Ground,
    /// How long ranks that share a model wait for each other.
    pub collective_timeout: Duration,
}

/// What an estimate starts from.
#[derive(Debug, Clone)]
pub struct CostConfig {
    /// Networks or the stand-in.
    pub engine: EngineKind,
    /// The method whose networks are counted.
    pub method: Method,
    /// Where the networks run.
    pub compute: Compute,
    /// Folder of the checkpoints; empty if none is named.
    pub models_dir: String,
    /// The cost table and its speed.
    pub simulated: Simulated,
    /// The sampling loops.
    pub storymem: StoryMem,
    /// The sampling loop of OneStory, and what it sees of earlier shots.
    pub onestory: OneStory,
    /// How replicas are made up.
    pub shape: ReplicaShape,
    /// Replicas that are asked for; `None` takes all ranks that there are.
    pub replicas: Option<usize>,
    /// Stories that a replica makes side by side.
    pub interleave: usize,
    /// Size and length of shots.
    pub video: VideoSpec,
    /// How the networks divide them.
    pub grid: LatentGrid,
}

impl Resolved {
    /// Divides `config` among its users.
    pub fn new(config: Config) -> Self {
        let (top, topology) = (&config.top, &config.topology);
        let collective_timeout = Duration::from_secs(u64::from(topology.collective_timeout));
        let compute = Compute {
            device: top.device,
            dtype: config.models.dtype,
        };
        let films = FilmConfig {
            video: config.video_spec(),
            grid: config.latent_grid(),
            pictures: PictureSettings {
                fit: config.pictures.fit,
                ground: config.pictures.ground,
                shape: config.pictures.shape,
            },
        };
        Self {
            run: config.run.clone(),
            on_preempt: top.on_preempt,
            inputs: config.inputs.clone(),
            films,
            engine: EngineConfig {
                kind: top.engine,
                method: top.method,
                compute,
                models_dir: config.models.dir.clone(),
                lora: config.lora.clone(),
                storymem: config.storymem.clone(),
                onestory: config.onestory.clone(),
                index: config.memory.clone(),
                threads: config.run.threads,
                share_decode: topology.share_decode,
                widen: topology.widen,
                collective_timeout,
                simulated_videos: config.simulated.videos,
            },
            world: WorldConfig {
                plan: plan(topology),
                options: WorldOptions {
                    collective_timeout,
                    encryption: topology.encryption,
                },
                engine: top.engine,
                method: networks_of(top.method, &config.onestory),
                models_dir: PathBuf::from(&config.models.dir),
            },
            planner: PlannerConfig {
                options: config.planner.clone(),
                compute,
                ground: config.pictures.ground,
                collective_timeout,
            },
            costs: CostConfig {
                engine: top.engine,
                method: top.method,
                compute,
                models_dir: config.models.dir.clone(),
                simulated: config.simulated.clone(),
                storymem: config.storymem.clone(),
                onestory: config.onestory.clone(),
                shape: shape(topology),
                replicas: plan(topology).replicas,
                interleave: topology.interleave as usize,
                video: films.video,
                grid: films.grid,
            },
            checkpoint: checkpoint(&config.checkpoint),
            logs: config.logs.clone(),
            metrics: config.metrics.clone(),
            interleave: topology.interleave as usize,
            config,
        }
    }

    /// The same settings with another resize before keyframes are told apart.
    pub fn with_selection_resize(&self, resize: ResizeChoice) -> Self {
        let mut config = self.config.clone();
        config.storymem.selection_resize = resize;
        Self::new(config)
    }

    /// The same settings for a run of another method.
    pub fn with_method(&self, method: Method) -> Self {
        let mut config = self.config.clone();
        config.top.method = method;
        Self::new(config)
    }

    /// All settings, for the record of a run.
    pub fn to_json(&self) -> Value {
        self.config.to_json()
    }

    /// All settings as a config file that would give them.
    pub fn to_toml(&self) -> String {
        self.config.to_toml()
    }
}

impl FilmConfig {
    /// What gives a film its shape where its line has no size.
    pub fn shape(&self) -> FilmShape {
        self.pictures.shape
    }

    /// The size of a film whose line says `own`, or nothing; `None` for one that takes its shape from its first
    /// picture, which is only known when that is opened.
    pub fn size_of(&self, own: Option<Resolution>, has_picture: bool) -> Option<Resolution> {
        let of_picture = has_picture && self.shape() == FilmShape::Picture;
        own.or_else(|| (!of_picture).then(|| self.video.resolution()))
    }
}

impl EngineConfig {
    /// What becomes of the frames.
    pub fn videos(&self) -> Videos {
        match self.kind {
            EngineKind::Simulated if !self.simulated_videos => Videos::Placeholders,
            _ => Videos::Encoded,
        }
    }

    /// The folder of the checkpoints.
    pub fn models(&self) -> &Path {
        Path::new(&self.models_dir)
    }
}

fn plan(topology: &Topology) -> Plan {
    Plan {
        replicas: match topology.replicas {
            Count::Auto => None,
            Count::Exactly(count) => Some(count as usize),
        },
        degrees: Degrees {
            tensor: topology.tensor as usize,
            sequence: topology.sequence as usize,
            cfg: topology.cfg as usize,
        },
        encoders: topology.encoders as usize,
        decoders: topology.decoders as usize,
        planners: topology.planners as usize,
        planner_tensor: topology.planner_tensor as usize,
    }
}

/// How replicas are made up.
fn shape(topology: &Topology) -> ReplicaShape {
    ReplicaShape {
        sharing: Sharing {
            tensor: topology.tensor as usize,
            sequence: topology.sequence as usize,
            cfg: topology.cfg as usize,
        },
        encoders: topology.encoders as usize,
        decoders: topology.decoders as usize,
        share_decode: topology.share_decode,
    }
}

fn checkpoint(options: &options::Checkpoint) -> CheckpointSettings {
    match options.every_steps {
        0 => CheckpointSettings::Auto {
            uptime: Duration::from_secs_f64(60.0 * options.uptime),
        },
        steps => CheckpointSettings::Every(steps as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    /// What a run writes down is what its parts were given.
    #[test]
    fn a_resize_that_was_found_out_is_in_the_part_and_in_the_record() {
        let sets = ["topology.tensor=2", "topology.collective_timeout=7"].map(str::to_owned);
        let before = Resolved::new(load(None, [], &sets).unwrap());
        let after = before.with_selection_resize(ResizeChoice::Pillow);
        assert_eq!(after.engine.storymem.selection_resize, ResizeChoice::Pillow);
        assert_eq!(after.to_json()["storymem"]["selection_resize"], "pillow");
        assert!(after.to_toml().contains("selection_resize = \"pillow\""));
        // Each part that needs an option has the same.
        assert_eq!(after.world.plan.degrees.tensor, 2);
        assert_eq!(after.costs.shape.sharing.tensor, 2);
        for timeout in [
            after.world.options.collective_timeout,
            after.engine.collective_timeout,
            after.planner.collective_timeout,
        ] {
            assert_eq!(timeout, Duration::from_secs(7));
        }
    }
}

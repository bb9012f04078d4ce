//! What the settings say of the time that shots take.

use std::path::Path;

use storyloom_engine::method::onestory::MemorySource;
use storyloom_models::sampler::{SamplerSettings, Schedule};
use storyloom_models::tiny::folders;
use storyloom_models::wan::WanConfig;
use storyloom_nn::checkpoint::component_folder;
use storyloom_orchestrator::RunFolder;
use storyloom_orchestrator::cost::{
    CostTable, Observed, OneStoryLoop, PlanCost, Sampling, Samplings, StageCost, Transformer,
    measure,
};
use storyloom_orchestrator::simulated::Pace;
use storyloom_pictures::text_at_most;
use storyloom_story::Method;

use crate::command::folder;
use crate::config::options::OneStory;
use crate::config::options::{Device, Dtype, EngineKind};
use crate::config::resolved::CostConfig;
use crate::config::value::PerExpert;
use crate::config::{self, Resolved, paths};
use crate::exit::{Exit, Failure};

/// `simulated.costs` for the table that is built in.
pub const BUILT_IN: &str = "built-in";

/// The times that a run with these settings is expected to take, and what a reader should know of
/// them.
#[derive(Debug, Clone)]
pub struct Costs {
    /// The times.
    pub table: CostTable,
    /// What they leave out or assume.
    pub notes: Vec<String>,
    /// What they are costs of.
    pub subject: Subject,
}

/// Whether a cost table is of the machine that the settings ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// It is, or nobody can know.
    AsAsked,
    /// It is of GPUs, and the CPU is to do the work: times and GPU memory say nothing.
    Gpus,
}

/// The cost table of `config`: that of `simulated.costs`, or the one built in.
///
/// # Errors
/// The file cannot be read, or is no cost table.
pub fn table(config: &CostConfig) -> Result<Costs, Failure> {
    let simulated = &config.simulated;
    let mut costs = Costs {
        table: CostTable::default(),
        notes: Vec::new(),
        subject: Subject::AsAsked,
    };
    match simulated.costs.as_str() {
        "" if config.engine == EngineKind::Simulated => {
            costs.table = CostTable::steps_only(simulated.step_ms as f64 / 1e3);
        }
        "" | BUILT_IN => {
            if config.method == Method::OneStory {
                costs.table.source = "model of Wan2.1 14B on H200".to_owned();
                // One network for all shots.
                costs.table.memory.transformers = 1;
            }
            costs.table.memory.weight_bytes = match config.compute.dtype {
                Dtype::F32 => 4.0,
                Dtype::Bf16 => 2.0,
            };
        }
        path => costs.table = read(Path::new(path))?,
    }
    match config.engine {
        EngineKind::Simulated => {
            costs.table = costs.table.faster(simulated.speed);
            costs.table.shares_gpu = false;
            costs.table.stages.start = StageCost::default();
            costs.table.memory.gpu_gb = 0.0;
        }
        EngineKind::Torch => costs.note_network(config)?,
    }
    if simulated.plan_ms > 0 {
        costs.table.planning = PlanCost {
            seconds: simulated.plan_ms as f64 / 1e3,
            per_shot: 0.0,
        };
    }
    Ok(costs)
}

/// What the simulated planner takes: `simulated.plan_ms`, or what the table of `simulated.costs`
/// says if there is one.
///
/// # Errors
/// As [`table`].
pub fn plan_cost(config: &CostConfig) -> Result<PlanCost, Failure> {
    match (config.simulated.plan_ms, config.simulated.costs.as_str()) {
        (0, "") => Ok(PlanCost::default()),
        _ => Ok(table(config)?.table.planning),
    }
}

/// As [`table`], with everything that the records of the run in `folder` know.
///
/// # Errors
/// It is no run, or nothing in it is finished.
pub fn measured(config: &CostConfig, folder: &RunFolder) -> Result<Costs, Failure> {
    let run = folder.run_file().map_err(folder::failure)?;
    let name = folder.root().join("run.json").display().to_string();
    let wrong = |reason: String| Failure::new(Exit::Input, format!("{name}: {reason}"));
    let text = toml::to_string(&run.config).map_err(|error| wrong(error.to_string()))?;
    let before = config::load(Some((&name, &text)), [], &[]).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        wrong(format!("its settings cannot be read: {}", lines.join("; ")))
    })?;
    let before = CostConfig {
        method: config.method,
        ..Resolved::new(before).costs
    };
    let mut base = table(&before).unwrap_or_else(|_| Costs {
        table: CostTable::default(),
        notes: Vec::new(),
        subject: Subject::AsAsked,
    });
    // What is measured says more than what was assumed of the same stages.
    base.notes.clear();
    base.table.stages.record = CostTable::default().stages.record;
    let observed = Observed {
        samplings: samplings(&before)?,
        shape: before.shape,
        grid: before.grid,
    };
    let table = measure(folder, &observed, base.table).map_err(folder::failure)?;
    let mut notes =
        vec!["the start of the programs is not in the records, so not in this".to_owned()];
    if before.interleave != config.interleave {
        notes.push(format!(
            "measured with {} stories side by side, asked for {}: where stages share a machine, \
             each takes longer the more of them run at once",
            before.interleave, config.interleave
        ));
    }
    if before.video != config.video {
        notes.push("measured at another size or length; the times are scaled".to_owned());
    }
    Ok(Costs {
        table,
        notes,
        subject: Subject::AsAsked,
    })
}

/// What a reader should know of times with `device = "cpu"`, where those of the cost table are given or not.
fn note_of_cpu(subject: Subject, source: &str) -> String {
    let times = match subject {
        Subject::AsAsked => format!("but the times are of GPUs ({source})"),
        Subject::Gpus => format!("of which the cost table ({source}) has no times"),
    };
    format!("device = \"cpu\", {times}: measure a short run and give it with --measured")
}

impl Costs {
    /// Takes the shape of the transformer from the checkpoint, if it is here.
    fn note_network(&mut self, config: &CostConfig) -> Result<(), Failure> {
        if config.compute.device == Device::Cpu {
            self.table.memory.gpu_gb = 0.0;
            if matches!(config.simulated.costs.as_str(), "" | BUILT_IN) {
                self.subject = Subject::Gpus;
            }
            self.notes
                .push(note_of_cpu(self.subject, &self.table.source));
        }
        let pipeline = match config.method {
            Method::OneStory => folders::ONESTORY,
            _ => folders::IMAGE_TO_VIDEO,
        };
        let pipeline = Path::new(&config.models_dir).join(pipeline);
        let transformer = component_folder(&pipeline, "transformer");
        if config.models_dir.is_empty() || !transformer.is_dir() {
            self.notes.push(
                "no checkpoint in models.dir: the transformer of the cost table is assumed"
                    .to_owned(),
            );
            return Ok(());
        }
        let shape = WanConfig::read_file(&transformer.join("config.json"))
            .map_err(|error| Failure::new(Exit::Config, error))?;
        let found = transformer_of(&shape, self.table.transformer.text_rows);
        if found != self.table.transformer {
            self.table.transformer = found;
            let note = format!("the transformer is that of {}", transformer.display());
            self.notes.push(note);
        }
        Ok(())
    }
}

/// The network of a checkpoint as cost tables have it: what a prediction of it costs is counted in one
/// place, [`TransformerShape`](storyloom_story::TransformerShape).
fn transformer_of(shape: &WanConfig, text_rows: u32) -> Transformer {
    let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    Transformer {
        layers: number(shape.num_layers),
        heads: number(shape.num_attention_heads),
        head_width: number(shape.attention_head_dim),
        ffn: number(shape.ffn_dim),
        text_rows,
    }
}

/// Reads a cost table: JSON if the name says so, else TOML.
fn read(path: &Path) -> Result<CostTable, Failure> {
    let wrong = |reason: &dyn std::fmt::Display| {
        let message = format!("simulated.costs: {}: {reason}", path.display());
        Failure::new(Exit::Config, message)
    };
    if !path.exists() {
        let message = paths::missing("simulated.costs", &path.display().to_string());
        return Err(Failure::new(Exit::Config, message));
    }
    let text = text_at_most(path, paths::LARGEST).map_err(|problem| wrong(&problem))?;
    let is_json = path
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let table: CostTable = match is_json {
        true => serde_json::from_str(&text).map_err(|error| wrong(&error))?,
        false => toml::from_str(&text).map_err(|error| wrong(&error))?,
    };
    table.check().map_err(|reason| wrong(&reason))?;
    Ok(table)
}

/// The sampling loops of a run.
///
/// # Errors
/// The sampler cannot have these settings.
pub fn samplings(config: &CostConfig) -> Result<Samplings, Failure> {
    let sampler = &config.storymem;
    let loop_of = |steps: u32, shift: f64, boundary: f64, guidance: PerExpert<f64>| {
        let settings = SamplerSettings {
            kind: sampler.solver,
            reference: sampler.reference,
            steps: steps as usize,
            shift,
        };
        let schedule = Schedule::new(&settings)?;
        let high = schedule.steps_above(boundary);
        let parts = [
            (high, guidance.high),
            (schedule.steps() - high, guidance.low),
        ];
        // Guidance of exactly 1 needs no forward with the negative prompt.
        let guided = parts.into_iter().filter(|(_, scale)| *scale != 1.0);
        let twice: usize = guided.map(|(steps, _)| steps).sum();
        Ok::<_, Failure>(Sampling {
            steps,
            forwards: 1.0 + twice as f64 / f64::from(steps.max(1)),
        })
    };
    let (steps, shift) = (sampler.steps, sampler.shift);
    let (boundary, guidance) = (sampler.boundary, sampler.guidance);
    Ok(Samplings {
        text: loop_of(steps.t2v, shift.t2v, boundary.t2v, guidance.t2v)?,
        pictures: loop_of(steps.i2v, shift.i2v, boundary.i2v, guidance.i2v)?,
        onestory: onestory_loop(&config.onestory),
    })
}

/// The loop of OneStory. Guidance of exactly 1 needs no forward with the negative prompt.
fn onestory_loop(options: &OneStory) -> OneStoryLoop {
    OneStoryLoop {
        sampling: Sampling {
            steps: options.steps,
            forwards: if options.guidance == 1.0 { 1.0 } else { 2.0 },
        },
        budget: options.budget(),
        reencodes: options.memory_source == MemorySource::Reencode,
    }
}

/// The pace of the simulated engine; none without `simulated.costs`.
///
/// # Errors
/// As [`table`].
pub fn pace(config: &CostConfig) -> Result<Option<Pace>, Failure> {
    if config.simulated.costs.is_empty() {
        return Ok(None);
    }
    Ok(Some(Pace {
        table: table(config)?.table,
        shape: config.shape,
        samplings: samplings(config)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn config(sets: &[&str]) -> CostConfig {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        Resolved::new(load(None, [], &sets).unwrap()).costs
    }

    #[test]
    fn guidance_counts_forwards() {
        let forwards = |sets: &[&str]| {
            let found = samplings(&config(sets)).unwrap();
            (found.text.forwards, found.pictures.forwards)
        };
        assert_eq!(forwards(&[]), (2.0, 2.0));
        assert_eq!(forwards(&["storymem.guidance=1"]), (1.0, 1.0));
        // Of 40 steps, 26 and 13 are above the boundary (specifications, 5.2 and 5.5).
        let high = forwards(&["storymem.guidance.low=1"]);
        assert_eq!(high, (1.0 + 26.0 / 40.0, 1.0 + 13.0 / 40.0));
    }

    /// An estimate and the network itself count the same.
    #[test]
    fn a_prediction_costs_what_the_network_says() {
        for name in WanConfig::NAMES {
            let config = WanConfig::named(name).unwrap();
            let estimated = transformer_of(&config, 512);
            assert_eq!(estimated.work(), config.shape(512).work(), "{name}");
            let latent = config.latent([81, 480, 832]);
            let (products, attention) = estimated.work().flops(config.tokens(latent) as f64);
            assert_eq!(
                products + attention,
                config.forward_flops(latent, 512),
                "{name}"
            );
        }
        let assumed = CostTable::default().transformer;
        let published = WanConfig::named("t2v-a14b").unwrap();
        assert_eq!(transformer_of(&published, assumed.text_rows), assumed);
    }

    /// The estimate of a run with a checkpoint is of its network.
    #[test]
    fn the_transformer_is_that_of_the_checkpoint() {
        for (method, pipeline, networks) in [("storymem", "i2v", 4), ("onestory", "onestory", 1)] {
            check_transformer(method, pipeline, networks);
        }
    }

    fn check_transformer(method: &str, pipeline: &str, networks: u32) {
        let folder = tempfile::tempdir().unwrap();
        let transformer = folder.path().join(pipeline).join("transformer");
        std::fs::create_dir_all(&transformer).unwrap();
        let text = r#"{"_class_name": "WanTransformer3DModel", "num_layers": 2, "ffn_dim": 192,
            "num_attention_heads": 4, "attention_head_dim": 24}"#;
        std::fs::write(transformer.join("config.json"), text).unwrap();
        let dir = format!("models.dir={}", folder.path().display());
        let method = format!("method={method}");
        let found = table(&config(&[&dir, &method])).unwrap();
        assert_eq!(found.table.memory.transformers, networks);
        let tiny = WanConfig::named("tiny").unwrap();
        assert_eq!(found.table.transformer.work(), tiny.shape(512).work());
        let told = found.notes.join("; ");
        assert!(told.contains("the transformer is that of"), "{told}");
    }

    #[test]
    fn tables_come_from_where_the_settings_say() {
        let simulated = config(&["engine=simulated", "simulated.step_ms=50"]);
        let found = table(&simulated).unwrap().table;
        assert_eq!(found.denoise.step_seconds, 0.05);
        assert!(pace(&simulated).unwrap().is_none());

        let built_in = [
            "engine=simulated",
            "simulated.costs=built-in",
            "simulated.speed=10",
        ];
        let found = table(&config(&built_in)).unwrap().table;
        assert_eq!(found.rates.matmul_tflops, 6_500.0);
        assert!(pace(&config(&built_in)).unwrap().is_some());

        let torch = table(&config(&[])).unwrap();
        assert_eq!(torch.table.memory.weight_bytes, 4.0);
        assert!(torch.notes.iter().any(|note| note.contains("models.dir")));

        let folder = tempfile::tempdir().unwrap();
        for (name, text, problem) in [
            ("good.toml", "[rates]\nmatmul_tflops = 1.5", ""),
            ("good.json", r#"{"rates": {"matmul_tflops": 1.5}}"#, ""),
            ("bad.toml", "[rates]\nmatmul = 1.5", "matmul"),
            ("low.toml", "[rates]\nmatmul_tflops = 0", "above 0"),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            let set = format!("simulated.costs={}", path.display());
            match table(&config(&[&set])) {
                Ok(found) => assert_eq!((found.table.rates.matmul_tflops, problem), (1.5, "")),
                Err(failure) => {
                    assert!(!problem.is_empty() && failure.message.contains(problem));
                    assert!(failure.message.contains(name), "{}", failure.message);
                }
            }
        }
        let nowhere = table(&config(&["simulated.costs=no/such/file"])).unwrap_err();
        assert!(nowhere.message.contains("no/such/file"));
    }
}

//! The loop that all stages share: steps, the log, checkpoints, resuming.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use storyloom_nn::checkpoint::Checkpoint;
use storyloom_nn::gradients::with_gradients;
use storyloom_nn::tch::{Tensor, no_grad, set_num_threads};

use crate::error::{Result, TrainError};
use crate::optimizer::{AdamSettings, AdamW};
use crate::params::{self, Params, Tensors};

/// A part of a step: makes the loss, a number that gradients flow back from, with the parameters.
pub type Job = Box<dyn FnOnce(&Checkpoint) -> Result<Tensor> + Send>;

/// A stage of training.
pub trait Stage {
    /// Short name, also of its files.
    fn name(&self) -> &'static str;

    /// What is trained.
    fn params(&self) -> &Params;

    /// The work of `step`, in parts that are done side by side. It depends on the parameters, the
    /// step and what [`state`](Stage::state) holds, and on nothing else.
    fn jobs(&mut self, step: u64) -> Result<Vec<Job>>;

    /// Says how many steps there will be in all, before the first of them.
    fn plan(&mut self, _steps: u64) {}

    /// The part of the learning rate that the parameter `name` moves by.
    fn share_of_rate(&self, _name: &str) -> f64 {
        1.0
    }

    /// What must be saved beside the parameters for an exact resume.
    fn state(&self) -> Result<Tensors> {
        Ok(Tensors::new())
    }

    /// Draws what the stage can do by now, with averaged weights.
    fn preview(&mut self, average: &Tensors, folder: &Path, step: u64) -> Result<()>;
}

/// When the loop looks up from its work.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// Steps of the stage in all.
    pub steps: u64,
    /// Steps between lines of the log.
    pub log_every: u64,
    /// Time between checkpoints.
    pub save_every: Duration,
    /// Time between previews.
    pub preview_every: Duration,
    /// Time after which the loop stops, resumable; `None`: when all steps are done.
    pub time: Option<Duration>,
}

/// A line of the loss curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps done.
    pub step: u64,
    /// Mean loss since the line before.
    pub loss: f64,
    /// Mean length of the gradients.
    pub gradient: f64,
    /// Seconds of training so far, over all runs.
    pub seconds: f64,
}

/// What is saved of the loop itself.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Progress {
    step: u64,
    seconds: f64,
    loss: f64,
    gradient: f64,
    counted: u64,
}

/// Files of a stage in the folder of a training run.
#[derive(Debug, Clone)]
pub struct StageFiles {
    folder: PathBuf,
}

impl StageFiles {
    /// The files of stage `name`.
    pub fn new(run: &Path, name: &str) -> Result<Self> {
        let folder = run.join(name);
        fs::create_dir_all(&folder).map_err(|error| TrainError::io(&folder, error))?;
        Ok(Self { folder })
    }

    /// Everything that a resume needs.
    fn checkpoint(&self) -> PathBuf {
        self.folder.join("checkpoint.safetensors")
    }

    /// The loss curve, one JSON object a line.
    pub fn curve(&self) -> PathBuf {
        self.folder.join("curve.jsonl")
    }

    /// The averaged weights so far, if the stage has begun, and the steps behind them.
    pub fn average(&self) -> Result<Option<(Tensors, u64)>> {
        let path = self.checkpoint();
        if !path.exists() {
            return Ok(None);
        }
        let mut saved = Saved::read(&path)?;
        Ok(Some((saved.part("average"), saved.progress.step)))
    }

    /// What the set that the run goes on from has in the place of this stage.
    pub fn given(&self) -> Result<Option<Tensors>> {
        let path = self.folder.join("given.safetensors");
        path.exists().then(|| params::read(&path)).transpose()
    }

    /// Puts down what the set has.
    pub fn give(&self, tensors: &Tensors) -> Result<()> {
        params::save(&self.folder.join("given.safetensors"), tensors)
    }

    /// The saved extra state of the stage.
    pub fn state(&self) -> Result<Tensors> {
        let path = self.checkpoint();
        if !path.exists() {
            return Ok(Tensors::new());
        }
        Ok(Saved::read(&path)?.part("state"))
    }

    /// The saved parameters of the stage.
    pub fn params(&self) -> Result<Option<Tensors>> {
        let path = self.checkpoint();
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(Saved::read(&path)?.part("params")))
    }
}

/// A checkpoint in memory.
struct Saved {
    progress: Progress,
    tensors: Tensors,
}

impl Saved {
    fn read(path: &Path) -> Result<Self> {
        let mut tensors = params::read(path)?;
        let bad = || TrainError::bad_file(path, "it has no progress");
        let numbers = tensors.remove("progress").ok_or_else(bad)?;
        let numbers = Vec::<f64>::try_from(&numbers)?;
        let &[step, seconds, loss, gradient, counted] = numbers.as_slice() else {
            return Err(bad());
        };
        let progress = Progress {
            step: step as u64,
            seconds,
            loss,
            gradient,
            counted: counted as u64,
        };
        Ok(Self { progress, tensors })
    }

    /// The tensors below `name`.
    fn part(&mut self, name: &str) -> Tensors {
        let prefix = format!("{name}/");
        let below = |(name, tensor): (&String, &Tensor)| {
            let name = name.strip_prefix(&prefix)?;
            Some((name.to_owned(), tensor.shallow_clone()))
        };
        self.tensors.iter().filter_map(below).collect()
    }
}

/// Trains `stage` from where it stands until its steps or the time are used up or `stop` is set.
///
/// Returns whether all steps are done. Stopping and starting again gives the same weights, bit for
/// bit, as going on.
pub fn train(
    stage: &mut dyn Stage,
    files: &StageFiles,
    settings: AdamSettings,
    rhythm: Rhythm,
    stop: &AtomicBool,
) -> Result<bool> {
    let mut progress = Progress::default();
    let checkpoint = files.checkpoint();
    let mut optimizer = if checkpoint.exists() {
        let mut saved = Saved::read(&checkpoint)?;
        progress = saved.progress;
        let state = ["first", "second", "average"].map(|name| saved.part(name));
        AdamW::resume(settings, state)
    } else {
        AdamW::new(settings, stage.params())?
    };
    tracing::info!(
        stage = stage.name(),
        parameters = stage.params().count(),
        step = progress.step,
        of = rhythm.steps,
        "training"
    );
    stage.plan(rhythm.steps);
    let begun = Instant::now();
    let (mut saved, mut shown, mut looked) = (begun, begun, begun);
    while progress.step < rhythm.steps {
        let jobs = stage.jobs(progress.step)?;
        let (value, gradients) = gradients(stage.params(), jobs)?;
        if !value.is_finite() {
            return Err(TrainError::Diverged {
                stage: stage.name(),
                step: progress.step,
                loss: value,
            });
        }
        let share = |name: &str| stage.share_of_rate(name);
        progress.gradient += optimizer.step(stage.params(), gradients, progress.step, share)?;
        progress.loss += value;
        progress.counted += 1;
        progress.step += 1;
        progress.seconds += looked.elapsed().as_secs_f64();
        looked = Instant::now();
        if progress.step.is_multiple_of(rhythm.log_every) {
            log(stage.name(), files, &mut progress)?;
        }
        if shown.elapsed() >= rhythm.preview_every || progress.step == rhythm.steps {
            stage.preview(optimizer.average(), &files.folder, progress.step)?;
            shown = Instant::now();
            looked = shown;
        }
        let is_over =
            stop.load(Ordering::Relaxed) || rhythm.time.is_some_and(|time| begun.elapsed() >= time);
        if is_over || saved.elapsed() >= rhythm.save_every || progress.step == rhythm.steps {
            save(stage, &optimizer, &checkpoint, &progress)?;
            saved = Instant::now();
        }
        if is_over {
            break;
        }
    }
    Ok(progress.step >= rhythm.steps)
}

/// The mean loss of `jobs` and the gradients of it, in the order of the names of `params`.
///
/// Each job has a thread and leaves of its own on the same memory: on a CPU that is faster than
/// sharing every operation among threads, and sums keep one order.
fn gradients(params: &Params, jobs: Vec<Job>) -> Result<(f64, Vec<Tensor>)> {
    let share = 1.0 / jobs.len().max(1) as f64;
    let leaves = jobs.iter().map(|_| Params::on_the_same_memory(params));
    let leaves = leaves.collect::<Result<Vec<_>>>()?;
    let pairs = jobs.into_iter().zip(leaves);
    let results = in_parallel(pairs.map(|(job, leaves)| {
        move || {
            let loss = with_gradients(|| job(&leaves.checkpoint()))?;
            loss.f_mul_scalar(share)?.f_backward()?;
            let gradients = leaves.tensors().values().map(Tensor::f_grad);
            let gradients = gradients.collect::<Result<Vec<_>, _>>()?;
            Ok((loss.f_double_value(&[])? * share, gradients))
        }
    }))?;
    let (mut loss, mut sum) = (0.0, Vec::new());
    for (value, gradients) in results {
        loss += value;
        if sum.is_empty() {
            sum = gradients;
            continue;
        }
        for (sum, gradient) in sum.iter_mut().zip(gradients) {
            *sum = no_grad(|| add(sum, gradient))?;
        }
    }
    Ok((loss, sum))
}

/// The sum of two gradients, of which either may be undefined.
fn add(sum: &mut Tensor, other: Tensor) -> Result<Tensor> {
    Ok(match (sum.defined(), other.defined()) {
        (true, true) => sum.f_add_(&other)?,
        (false, _) => other,
        (true, false) => sum.shallow_clone(),
    })
}

/// Does `works` on a thread each; results in the order of the works.
pub fn in_parallel<T: Send>(
    works: impl Iterator<Item = impl FnOnce() -> Result<T> + Send>,
) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = works
            .map(|work| {
                scope.spawn(|| {
                    set_num_threads(1);
                    work()
                })
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<Result<T>>| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(join).collect()
    })
}

fn log(name: &str, files: &StageFiles, progress: &mut Progress) -> Result<()> {
    let counted = progress.counted.max(1) as f64;
    let point = Point {
        step: progress.step,
        loss: progress.loss / counted,
        gradient: progress.gradient / counted,
        seconds: progress.seconds,
    };
    (progress.loss, progress.gradient, progress.counted) = (0.0, 0.0, 0);
    tracing::info!(
        stage = name,
        step = point.step,
        loss = format!("{:.5}", point.loss),
        gradient = format!("{:.3}", point.gradient),
        seconds = format!("{:.0}", point.seconds),
    );
    let path = files.curve();
    let line = serde_json::to_string(&point).map_err(|error| TrainError::bad_file(&path, error))?;
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|error| TrainError::io(&path, error))?;
    writeln!(file, "{line}").map_err(|error| TrainError::io(&path, error))
}

fn save(stage: &dyn Stage, optimizer: &AdamW, path: &Path, progress: &Progress) -> Result<()> {
    let mut all = Tensors::new();
    let mut put = |prefix: &str, tensors: &Tensors| {
        for (name, tensor) in tensors {
            all.insert(format!("{prefix}/{name}"), tensor.detach());
        }
    };
    put("params", stage.params().tensors());
    let [first, second, average] = optimizer.state();
    put("first", &first);
    put("second", &second);
    put("average", &average);
    put("state", &stage.state()?);
    let numbers = [
        progress.step as f64,
        progress.seconds,
        progress.loss,
        progress.gradient,
        progress.counted as f64,
    ];
    all.insert("progress".to_owned(), Tensor::f_from_slice(&numbers)?);
    params::save(path, &all)
}

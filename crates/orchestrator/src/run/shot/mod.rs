//! One shot, from its request to its commit record. **Start reading here.**

mod clock;
mod commit;
mod select;
mod steps;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use storyloom_memory::arrays::decode_frames;
use storyloom_memory::{
    Basis, BlobRef, Committed, MemoryBank, Remembered, SeenRecord, ShotRecord, Stored, Visible,
};
use storyloom_story::{
    Clip, ErrorClass, HostTensor, PassName, Resolution, ShotInputs, ShotRequest, Stage,
};
use storyloom_telemetry::Reporter;

use crate::config::{StopAt, StopFlag};
use crate::engine::{Encoded, EngineError, Pass, PassOutput, ShotEngine};
use crate::error::RunError;
use crate::folder::output::VideoFiles;
use crate::folder::terms::RunTerms;
use crate::run::gate::Gates;
use crate::run::lease::Lease;
use crate::run::lost_record::Lost;
use clock::StageClock;
pub(crate) use commit::keyframes;
use commit::store_outputs;
use select::select;
pub(crate) use select::{Admitted, check_scores, keep, remember, vector};
pub use steps::Checkpoints;
use steps::Steps;

/// What every shot of a run is made with.
pub struct ShotContext<'a> {
    /// Makes the pictures.
    pub engine: &'a dyn ShotEngine,
    /// What is remembered.
    pub bank: &'a MemoryBank,
    /// Writes videos.
    pub videos: &'a VideoFiles,
    /// By which method each shot is conditioned, and what it keeps.
    pub terms: &'a RunTerms,
    /// Hears of progress.
    pub reporter: &'a dyn Reporter,
    /// Asks to stop.
    pub stop: &'a StopFlag,
    /// When a shot that is being made is saved.
    pub checkpoints: Checkpoints,
    /// Where shots wait for the networks.
    pub gates: Gates,
}

/// What one shot is given besides its request.
pub struct ShotPlan {
    /// What is asked for.
    pub request: ShotRequest,
    /// The whole bank of the story, oldest first.
    pub history: Vec<Remembered>,
    /// What the shot may see of it.
    pub visible: Visible,
    /// Positions in `history` that the shot is given.
    pub window: Vec<usize>,
    /// The frames it continues, as the shot before stored them.
    pub continues: Option<BlobRef>,
    /// Digest of the record of the shot before.
    pub previous: Option<String>,
    /// Digest of the plan that its story follows, if that was planned from a brief.
    pub story_plan: Option<String>,
    /// The record that is to be made again, if it was there before and others follow from it.
    pub(crate) lost: Option<Lost>,
    /// Size of the story's film: the middle of each frame.
    pub film: Resolution,
    /// Shots of the story that are still to be made, this one included: the longer the way, the
    /// sooner its turn.
    pub remaining: usize,
}

impl ShotPlan {
    /// All that decides the latents of the shot.
    fn basis(&self, engine: String) -> Basis {
        Basis {
            request: self.request.clone(),
            engine,
            memory_seen: self.memory_seen(),
            continues: self.continues.clone(),
            previous: self.previous.clone(),
        }
    }

    /// How a record names all that the shot is given.
    pub(crate) fn memory_seen(&self) -> Vec<SeenRecord> {
        let window = self.window.iter();
        window.map(|&at| self.history[at].seen()).collect()
    }

    /// How records name all that the story remembers.
    pub(crate) fn bank(&self) -> Vec<SeenRecord> {
        self.history.iter().map(Remembered::seen).collect()
    }

    /// Whether a network decides what the shot sees of what it is given.
    fn is_chosen(&self) -> bool {
        matches!(self.visible, Visible::ChosenByNetwork { .. })
    }
}

/// How much of what a story remembers are reference images.
pub(crate) fn stored(history: &[Remembered]) -> Stored {
    let references = history.iter().take_while(|item| item.shot.is_none());
    Stored {
        items: history.len(),
        references: references.count(),
    }
}

/// Makes a shot: every stage by name, in order. Nothing exists before the last line.
///
/// Only the holder of the story's lease commits; if another program did so before, its record is
/// the answer.
pub fn make_shot(
    context: &ShotContext,
    lease: &Lease,
    plan: &ShotPlan,
) -> Result<ShotRecord, RunError> {
    let mut record = make_files(context, plan, BTreeMap::new())?;
    if let Some(lost) = &plan.lost {
        lost.restore(&mut record)?;
    }
    let begun = Instant::now();
    context.engine.check_weights()?;
    lease.check()?;
    let mut record = match context.bank.commit(&mut record)? {
        Committed::New => record,
        Committed::Before(theirs) => *theirs,
    };
    // The record on disk cannot say what it took itself; the story sums up what we return.
    record.add_seconds(Stage::Commit, begun.elapsed().as_secs_f64());
    Ok(record)
}

/// The stages of a shot up to what its record names, durably; the record itself is not written.
///
/// `finished` has the latents of passes that were denoised before.
pub(crate) fn make_files(
    context: &ShotContext,
    plan: &ShotPlan,
    mut finished: BTreeMap<PassName, HostTensor>,
) -> Result<ShotRecord, RunError> {
    let mut clock = StageClock::new(context.reporter, plan);
    let (engine, gates) = (context.engine, &context.gates);

    let inputs = clock.time(Stage::Plan, None, || load_inputs(context.bank, plan))?;
    let passes = engine.passes(&inputs);
    finished.extend(steps::finished_passes(context, plan, &passes));
    let mut made: Vec<PassOutput> = Vec::with_capacity(passes.len());
    let mut chosen = Chosen::default();
    let mut decoding = None;
    for (at, name) in passes.iter().enumerate() {
        // Only the last decoded pass goes on to `select` in the same turn.
        drop(decoding.take());
        let pass = Pass {
            name,
            before: &made,
        };
        let latents = match finished.remove(name) {
            // What the networks choose to see stands in no saved step.
            Some(latents) if plan.is_chosen() => {
                chosen.add(plan, &encode(context, &inputs, pass, &mut clock)?)?;
                latents
            }
            Some(latents) => latents,
            None => {
                let encoded = encode(context, &inputs, pass, &mut clock)?;
                chosen.add(plan, &encoded)?;
                denoise(context, plan, &inputs, pass, &encoded, &mut clock)?
            }
        };
        // One way in for both: a decoded shot need not wait for another one's decoding, and what comes
        // next of its story waits for it.
        decoding = Some(clock.enter(&gates.decode));
        let clip = clock.time(Stage::Decode, None, || {
            let clip = engine.decode(&inputs, pass, &latents)?;
            if at + 1 == passes.len() {
                expect_frames(&plan.request, &clip)?;
            }
            Ok(clip)
        })?;
        made.push(PassOutput {
            name: name.clone(),
            latents,
            clip,
        });
    }
    if made.is_empty() {
        return Err(no_passes().into());
    }
    let kept = clock.time(Stage::Select, None, || select(context, plan, &made))?;
    drop(decoding);
    let record = clock.time(Stage::Commit, None, || {
        store_outputs(context, plan, &chosen.seen(plan), &made, &kept)
    })?;
    Ok(record.with_seconds(clock.into_seconds()))
}

/// What the networks of a shot have chosen to see, over all of its passes.
#[derive(Debug, Default)]
struct Chosen(Vec<usize>);

impl Chosen {
    /// Adds what was chosen for a pass.
    ///
    /// # Errors
    /// The engine does not choose as the method's policy says.
    fn add(&mut self, plan: &ShotPlan, encoded: &Encoded) -> Result<(), EngineError> {
        let wrong = |message: String| EngineError {
            stage: Stage::Encode,
            class: ErrorClass::Run,
            message,
        };
        let (at_most, places) = match (&plan.visible, &encoded.seen) {
            (Visible::Items(_), None) => return Ok(()),
            (Visible::Items(_), Some(_)) => {
                return Err(wrong(
                    "its networks choose what they see, which this method does not".to_owned(),
                ));
            }
            (Visible::ChosenByNetwork { .. }, None) => {
                return Err(wrong(
                    "the engine does not say what it has chosen".to_owned(),
                ));
            }
            (Visible::ChosenByNetwork { at_most }, Some(places)) => (*at_most, places),
        };
        self.0.extend(places);
        self.0.sort_unstable();
        self.0.dedup();
        let offered = plan.window.len();
        if self.0.len() > at_most || self.0.last().is_some_and(|&place| place >= offered) {
            let message = format!(
                "it has chosen the places {:?} of {offered}, and may choose {at_most}",
                self.0
            );
            return Err(wrong(message));
        }
        Ok(())
    }

    /// How the record names what the shot saw.
    fn seen(&self, plan: &ShotPlan) -> Vec<SeenRecord> {
        let given = plan.memory_seen();
        match plan.is_chosen() {
            true => self.0.iter().map(|&place| given[place].clone()).collect(),
            false => given,
        }
    }
}

/// Stage `encode` of a pass.
fn encode(
    context: &ShotContext,
    inputs: &ShotInputs,
    pass: Pass,
    clock: &mut StageClock,
) -> Result<Encoded, RunError> {
    clock.time(Stage::Encode, Some(&context.gates.encode), || {
        Ok(context.engine.encode(inputs, pass)?)
    })
}

/// Stage `denoise` of a pass.
fn denoise(
    context: &ShotContext,
    plan: &ShotPlan,
    inputs: &ShotInputs,
    pass: Pass,
    encoded: &Encoded,
    clock: &mut StageClock,
) -> Result<HostTensor, RunError> {
    let (engine, gates) = (context.engine, &context.gates);
    clock.time(Stage::Denoise, Some(&gates.denoise), || {
        if context.stop.asked() == Some(StopAt::Step) {
            return Err(RunError::Stopped);
        }
        let terms = context.terms.of(plan.request.method)?;
        let basis = plan.basis(terms.engine.fingerprint.clone());
        let mut steps = Steps::new(context, basis, pass);
        let resume = steps.resume();
        let latents = engine.denoise(inputs, encoded, resume, &mut steps);
        steps.end()?;
        let latents = latents?;
        finite(Stage::Denoise, &latents)?;
        Ok(latents)
    })
}

/// What follows the record of a shot: its files get their names, and nobody needs the saved step.
/// All of it can be done again.
pub(crate) fn tidy_up(context: &ShotContext, record: &ShotRecord) -> Result<(), RunError> {
    let ShotRequest { story, shot, .. } = record.request();
    context.bank.install(story, &record.pictures())?;
    Ok(context.bank.forget_step(story, *shot)?)
}

/// Stage `plan`: reads the pictures that the shot sees, checked against their records.
fn load_inputs(bank: &MemoryBank, plan: &ShotPlan) -> Result<ShotInputs, RunError> {
    let story = &plan.request.story;
    let memory = plan
        .window
        .iter()
        .map(|&position| bank.load(story, &plan.history[position]))
        .collect::<Result<_, _>>()?;
    let given = plan.request.opening.given_frames();
    let previous_tail = match &plan.continues {
        Some(blob) => {
            let frames = decode_frames(Path::new(&blob.blake3), &bank.blobs().get(blob)?)?;
            frames[frames.len().saturating_sub(given)..].to_vec()
        }
        None => Vec::new(),
    };
    Ok(ShotInputs {
        request: plan.request.clone(),
        memory,
        previous_tail,
    })
}

fn finite(stage: Stage, array: &HostTensor) -> Result<(), EngineError> {
    match array.first_non_finite() {
        None => Ok(()),
        Some(position) => Err(EngineError {
            stage,
            class: ErrorClass::Shot,
            message: format!(
                "the latents are not finite (first at position {position}); \
                 check the checkpoint with `storyloom model inspect`"
            ),
        }),
    }
}

fn no_passes() -> EngineError {
    EngineError {
        stage: Stage::Plan,
        class: ErrorClass::Run,
        message: "the engine names no pass that makes the shot".to_owned(),
    }
}

fn expect_frames(request: &ShotRequest, clip: &Clip) -> Result<(), EngineError> {
    let wanted = request.saved_frames();
    let found = clip.frames().len();
    if found == wanted as usize {
        return Ok(());
    }
    let message = format!("{found} frames were decoded, {wanted} are needed");
    Err(EngineError {
        stage: Stage::Decode,
        class: ErrorClass::Shot,
        message,
    })
}

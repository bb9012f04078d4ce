//! `plan.json`: the plan of a story, and who made it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use storyloom_memory::{DigestedRecord, MemoryError};
use storyloom_story::{
    Brief, Method, PlanRequest, PlannedScript, PlannerDescription, Seed, StoryId, StoryScript,
};

use crate::error::RunError;

/// The format of `plan.json`.
pub(crate) const FORMAT: u32 = 1;

/// `plan.json`: the plan of a story.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The story.
    pub story: StoryId,
    /// Digest of the brief, see [`brief_digest`].
    pub brief: String,
    /// Who planned it.
    pub planner: PlannerDescription,
    /// Which attempt it was, from 0.
    pub attempt: u32,
    /// Its seed.
    pub seed: Seed,
    /// The script.
    pub script: StoryScript,
    /// Prompt of a picture of the product or the main character, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// SHA-256 of the picture of the product, as it was read for a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// What the model wrote.
    pub text: String,
    /// Times it was asked to mend that.
    pub repairs: u32,
    /// What was mended without it, and what of the brief was not used.
    pub notes: Vec<String>,
    /// How the model was asked otherwise than the recipe says, since its server takes no other
    /// question.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub departures: Vec<String>,
    /// Tokens that it read.
    pub tokens_read: u64,
    /// Tokens that it wrote.
    pub tokens: u64,
    /// How long it took from the beginning of its batch; of earlier builds, how long the batch took.
    pub seconds: f64,
    /// Stories of its batch.
    pub batch: u32,
    /// Of a plan whose record was lost after shots had been made from it: the digest of that record, which
    /// the shots name. This one has the script as `story.json` had kept it, and nothing else of the old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<String>,
    /// blake3 of this record with this field empty.
    pub digest: String,
}

impl DigestedRecord for PlanRecord {
    const FORMAT: u32 = FORMAT;

    fn format(&self) -> u32 {
        self.format
    }

    fn digest_mut(&mut self) -> &mut String {
        &mut self.digest
    }
}

impl PlanRecord {
    /// The record of a plan that was there `seconds` after its batch of `batch` stories was begun;
    /// not sealed yet.
    pub(crate) fn new(
        request: &PlanRequest,
        planner: PlannerDescription,
        planned: PlannedScript,
        (seconds, batch): (f64, usize),
    ) -> Self {
        Self {
            format: FORMAT,
            story: request.brief.id.clone(),
            brief: brief_digest(request.brief),
            planner,
            attempt: request.attempt,
            seed: request.seed,
            script: planned.script,
            reference: planned.reference,
            picture: planned.picture,
            text: planned.raw,
            repairs: planned.repairs,
            notes: planned.notes,
            departures: planned.departures,
            tokens_read: planned.tokens.prompt,
            tokens: planned.tokens.completion,
            seconds,
            batch: u32::try_from(batch).unwrap_or(u32::MAX),
            restored: None,
            digest: String::new(),
        }
    }

    /// The plan of `story` that stands at `path`, from its bytes.
    ///
    /// # Errors
    /// It was changed after it was written, or is another story's.
    pub(crate) fn of_story(story: &StoryId, path: &Path, bytes: &[u8]) -> Result<Self, RunError> {
        let record = Self::open(path, bytes)?;
        if &record.story != story {
            return Err(RunError::Folder {
                path: path.to_owned(),
                reason: format!("it is the plan of {}, not of {story}", record.story),
            });
        }
        Ok(record)
    }

    /// Whether it was planned from `brief`, in a run with the method `run`. A brief that names this method
    /// is the same as one that names none, and has another digest.
    pub(crate) fn is_of(&self, brief: &Brief, run: Method) -> bool {
        let methods = match brief.method.unwrap_or(run) == run {
            true => [None, Some(run)],
            false => [brief.method; 2],
        };
        methods.into_iter().any(|method| {
            let brief = Brief {
                method,
                ..brief.clone()
            };
            brief_digest(&brief) == self.brief
        })
    }

    /// The digest by which records of shots name the plan.
    pub fn name(&self) -> &String {
        self.restored.as_ref().unwrap_or(&self.digest)
    }
}

/// What of a brief decides the script: who it is for and how soon does not.
pub(crate) fn essence(brief: &Brief) -> Brief {
    Brief {
        tenant: None,
        priority: 0,
        ..brief.clone()
    }
}

/// blake3 of what of a brief decides its script, in hexadecimal.
pub fn brief_digest(brief: &Brief) -> String {
    // Plain data into memory: this does not fail.
    let bytes = serde_json::to_vec(&essence(brief)).unwrap_or_default();
    blake3::hash(&bytes).to_hex().to_string()
}

/// Whether an error says that there is no plan in the file, rather than that nobody can
/// read it now.
pub(crate) fn is_damage(error: &RunError) -> bool {
    matches!(
        error,
        RunError::Folder { .. } | RunError::Memory(MemoryError::Damaged { .. })
    )
}

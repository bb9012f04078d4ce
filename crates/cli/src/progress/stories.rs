//! The stories of a run in words: all of them, or those that somebody asks for.

use serde::Serialize;
use storyloom_orchestrator::StoryState;
use storyloom_orchestrator::status::{Looks, Status, StoryStatus};
use storyloom_story::{Method, ShotId};

/// Stories that are named where nobody asked for a list.
const NAMED: usize = 20;

/// Which stories are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of these states; of any if empty.
    pub states: Vec<Looks>,
    /// Of these tenants; of any if empty.
    pub tenants: Vec<String>,
}

impl Wanted {
    /// The stories of a run that are wanted.
    pub fn of<'a>(&self, status: &'a Status) -> impl Iterator<Item = &'a StoryStatus> {
        status.list.iter().filter(|story| self.has(story))
    }

    fn has(&self, story: &StoryStatus) -> bool {
        let tenant = story.tenant.as_ref();
        (self.states.is_empty() || self.states.contains(&story.looks()))
            && (self.tenants.is_empty()
                || tenant.is_some_and(|tenant| self.tenants.contains(tenant)))
    }
}

/// The wanted stories, one a line.
pub fn list(status: &Status, wanted: &Wanted) -> String {
    wanted.of(status).map(line).collect()
}

/// The first of those that were given up, and how the others are listed.
pub fn trouble(status: &Status) -> String {
    let wanted = Wanted {
        states: vec![Looks::Failed, Looks::Quarantined, Looks::Changed],
        tenants: Vec::new(),
    };
    let mut text: String = wanted.of(status).take(NAMED).map(line).collect();
    let count = wanted.of(status).count();
    if count > NAMED {
        let more = count - NAMED;
        text.push_str(&format!(
            "… {more} more of these; --failed lists all of them\n"
        ));
    }
    text
}

fn line(story: &StoryStatus) -> String {
    let state = match (&story.state, story.looks()) {
        (_, Looks::Changed) => {
            let reason = story.set_aside.as_deref().unwrap_or_default();
            format!("changed input: {reason}")
        }
        (StoryState::Failed { shot, reason }, _) => given_up("failed", *shot, reason),
        (StoryState::Quarantined { shot, reason }, _) => given_up("in quarantine", *shot, reason),
        (_, Looks::Pending) if story.planned == Some(false) => "not planned".to_owned(),
        (_, Looks::Pending) => "pending".to_owned(),
        (_, Looks::Interrupted) => "interrupted".to_owned(),
        (_, Looks::Running) => "running".to_owned(),
        (_, Looks::Done | Looks::Failed | Looks::Quarantined) => "done".to_owned(),
    };
    let (id, done, shots) = (story.id.as_str(), story.done, story.shots);
    format!("{id:<32} {done:>3}/{shots:<3} {state}\n")
}

fn given_up(how: &str, shot: Option<ShotId>, reason: &str) -> String {
    let shot = shot.map_or_else(String::new, |shot| format!(" at {shot}"));
    format!("{how}{shot}: {reason}")
}

/// A story as JSON.
#[derive(Debug, Serialize)]
pub struct Listed<'a> {
    id: &'a str,
    state: Looks,
    shots: usize,
    done: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<Method>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shot: Option<ShotId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> Listed<'a> {
    /// A story of a run.
    pub fn of(story: &'a StoryStatus) -> Self {
        let (shot, reason) = match &story.state {
            _ if story.set_aside.is_some() => (None, story.set_aside.as_deref()),
            StoryState::Failed { shot, reason } | StoryState::Quarantined { shot, reason } => {
                (*shot, Some(reason.as_str()))
            }
            _ => (None, None),
        };
        Self {
            id: story.id.as_str(),
            state: story.looks(),
            shots: story.shots,
            done: story.done,
            tenant: story.tenant.as_deref(),
            method: story.method,
            shot,
            reason,
        }
    }
}

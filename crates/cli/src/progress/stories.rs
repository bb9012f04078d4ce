//! The stories of a run in words: all of them, or those that somebody asks for.

use serde::Serialize;
use storyloom_orchestrator::StoryState;
use storyloom_orchestrator::set_aside::tells_of_change;
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
pub fn given_up(status: &Status) -> String {
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
            match tells_of_change(reason) {
                true => format!("changed input: {reason}"),
                false => format!("unusable input: {reason}"),
            }
        }
        (StoryState::Failed { shot, reason }, _) => ended("failed", *shot, reason),
        (StoryState::Quarantined { shot, reason }, _) => ended("in quarantine", *shot, reason),
        (_, Looks::Pending) if story.planned == Some(false) => "not planned".to_owned(),
        (_, Looks::Pending) => "pending".to_owned(),
        (_, Looks::Interrupted) => "interrupted".to_owned(),
        (_, Looks::Running) => "running".to_owned(),
        (_, Looks::Done | Looks::Failed | Looks::Quarantined) => "done".to_owned(),
    };
    let (id, done, shots) = (story.id.as_str(), story.done, story.shots);
    format!("{id:<32} {done:>3}/{shots:<3} {state}\n")
}

fn ended(how: &str, shot: Option<ShotId>, reason: &str) -> String {
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

#[cfg(test)]
mod tests {
    use storyloom_orchestrator::status::Counts;
    use storyloom_story::StoryId;
    use storyloom_telemetry::shift::Split;

    use super::*;

    fn status(list: Vec<StoryStatus>) -> Status {
        Status {
            stories: Counts::default(),
            shots: Counts::default(),
            eta_seconds: None,
            shots_per_hour: None,
            goodput: None,
            plans: None,
            time: Split::default(),
            tenants: Default::default(),
            methods: Default::default(),
            without_keyframes: 0,
            list,
        }
    }

    fn story(number: usize, state: StoryState) -> StoryStatus {
        StoryStatus {
            id: StoryId::new(format!("story-{number}")).unwrap(),
            state,
            tenant: (number == 1).then(|| "north".to_owned()),
            method: None,
            interrupted: false,
            set_aside: None,
            shots: 4,
            done: 1,
            planned: None,
            no_keyframes: None,
        }
    }

    fn failed() -> StoryState {
        let shot = Some(ShotId { scene: 1, shot: 2 });
        let reason = "no disk".to_owned();
        StoryState::Failed { shot, reason }
    }

    /// Ten thousand stories that failed at once do not fill the terminal, and none is forgotten.
    #[test]
    fn the_first_that_were_given_up_are_named_and_the_others_counted() {
        let mut list = vec![story(0, StoryState::Done)];
        list.extend((1..=NAMED + 2).map(|number| story(number, failed())));
        let said = given_up(&status(list));
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), NAMED + 1, "{said}");
        assert!(
            lines[0].starts_with("story-1 ") && lines[0].contains("  1/4 "),
            "{said}"
        );
        assert!(lines[0].ends_with("failed at 01_02: no disk"), "{said}");
        assert!(lines[NAMED].contains("2 more of these; --failed"), "{said}");
        assert_eq!(given_up(&status(vec![story(0, StoryState::Done)])), "");
    }

    /// A file that only cannot be read has not changed.
    #[test]
    fn a_story_that_is_set_aside_has_changed_or_unusable_input() {
        let said = |reason: &str| {
            line(&StoryStatus {
                set_aside: Some(reason.to_owned()),
                ..story(3, StoryState::Pending)
            })
        };
        let changed = said("its script has changed since the story was begun; what was made stays");
        assert!(changed.contains(" changed input: its script"), "{changed}");
        let unusable = said("a.png: the picture is cut off");
        assert!(unusable.contains(" unusable input: a.png"), "{unusable}");
    }

    #[test]
    fn a_list_has_the_states_and_tenants_that_are_asked_for() {
        let set_aside = StoryStatus {
            set_aside: Some("its script changed".to_owned()),
            ..story(3, StoryState::Done)
        };
        let interrupted = StoryStatus {
            interrupted: true,
            ..story(2, StoryState::Running)
        };
        let all = [
            story(0, StoryState::Pending),
            story(1, failed()),
            interrupted,
            set_aside,
        ];
        let status = status(all.to_vec());
        let names = |states: &[Looks], tenants: &[&str]| {
            let wanted = Wanted {
                states: states.to_vec(),
                tenants: tenants.iter().map(|&tenant| tenant.to_owned()).collect(),
            };
            list(&status, &wanted).lines().count()
        };
        assert_eq!(names(&[], &[]), 4);
        assert_eq!(names(&[Looks::Changed, Looks::Interrupted], &[]), 2);
        assert_eq!(names(&[], &["north"]), 1);
        assert_eq!(names(&[Looks::Pending], &["north"]), 0);
        let listed = serde_json::to_value(Listed::of(&status.list[3])).unwrap();
        assert_eq!(listed["reason"], "its script changed");
        assert!(
            listed.get("shot").is_none(),
            "what was made of it stays: {listed}"
        );
    }
}

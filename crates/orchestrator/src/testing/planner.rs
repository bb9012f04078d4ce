//! A planner without a model: its scripts say little, but depend on everything that a real one
//! depends on, and take as long as they should. For tests of the orchestrator and for
//! `engine = "simulated"`.

use std::time::{Duration, Instant};

use storyloom_story::{
    Brief, ErrorClass, PlanError, PlanRequest, PlannedScript, Scene, Seed, Settle, ShotScript,
    StoryScript,
};

use crate::config::StopFlag;
use crate::forecast::cost::PlanCost;
use crate::run::planning::{PlannerDescription, StoryPlanner};

/// Writes stand-ins for scripts.
#[derive(Debug, Clone, Default)]
pub struct SimulatedPlanner {
    /// How long a story takes; those of a batch are planned side by side.
    pub cost: PlanCost,
    /// Stories of a batch; 0 counts as 1.
    pub batch: usize,
    /// Asks it to stop.
    pub stop: StopFlag,
}

impl StoryPlanner for SimulatedPlanner {
    fn describe(&self) -> PlannerDescription {
        PlannerDescription {
            backend: "simulated".to_owned(),
            recipe: serde_json::json!({"version": 1}),
        }
    }

    fn capacity(&self) -> usize {
        self.batch.max(1)
    }

    fn plan(&self, requests: &[PlanRequest], settle: &Settle) {
        let begun = Instant::now();
        let time = |request: &PlanRequest| {
            let seconds = self.cost.of(f64::from(request.brief.shots));
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
        };
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&place| time(&requests[place]));
        for place in order {
            let request = &requests[place];
            settle(
                place,
                match self.wait(begun, time(request)) {
                    true => Ok(PlannedScript::plain(script(request.brief, request.seed))),
                    false => Err(PlanError::new(ErrorClass::Interrupted, "asked to stop")),
                },
            );
        }
    }
}

impl SimulatedPlanner {
    /// Sleeps until `time` has passed; false if it was asked to stop before.
    fn wait(&self, begun: Instant, time: Duration) -> bool {
        const NAP: Duration = Duration::from_millis(50);
        loop {
            let left = time.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return true;
            }
            if self.stop.asked().is_some() {
                return false;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

/// As many shots as the brief asks for; the seed says where they cut.
fn script(brief: &Brief, seed: Seed) -> StoryScript {
    let name = brief.title.clone().or_else(|| brief.idea.clone());
    let subject = name.clone().unwrap_or_else(|| brief.id.to_string());
    let shot = |place: u32| ShotScript {
        prompt: format!("Shot {place} of {subject}, variant {:04x}.", seed.0 >> 48),
        first_frame_prompt: None,
        cut: place == 1 || seed.0 >> (place % 48) & 1 == 1,
    };
    StoryScript {
        name,
        overview: None,
        scenes: vec![Scene {
            number: 1,
            shots: (1..=brief.shots.max(1)).map(shot).collect(),
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_story::StoryId;

    fn plan(planner: &SimulatedPlanner, seed: u64) -> Result<PlannedScript, PlanError> {
        let brief = Brief {
            idea: Some("A lighthouse".to_owned()),
            shots: 5,
            ..Brief::new(StoryId::new("tale").unwrap())
        };
        let request = PlanRequest {
            brief: &brief,
            seed: Seed(seed),
            attempt: 0,
        };
        let answer = std::sync::Mutex::new(None);
        planner.plan(&[request], &|_, planned| {
            answer.lock().unwrap().replace(planned);
        });
        answer.into_inner().unwrap().unwrap()
    }

    #[test]
    fn the_same_request_gets_the_same_script_and_another_seed_another() {
        let planner = SimulatedPlanner::default();
        let one = plan(&planner, 1).unwrap();
        assert_eq!(one, plan(&planner, 1).unwrap());
        assert_eq!(one.script.shot_count(), 5);
        crate::run::planning::check_script(&one.script).unwrap();
        assert_ne!(one, plan(&planner, u64::MAX).unwrap());
    }

    #[test]
    fn one_that_is_asked_to_stop_ends_soon() {
        let planner = SimulatedPlanner {
            cost: PlanCost {
                seconds: 3600.0,
                per_shot: 0.0,
            },
            ..SimulatedPlanner::default()
        };
        planner.stop.set(crate::config::StopAt::Step);
        let error = plan(&planner, 1).unwrap_err();
        assert_eq!(error.class, ErrorClass::Interrupted);
    }
}

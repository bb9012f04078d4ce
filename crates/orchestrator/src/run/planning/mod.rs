//! Stage `plan` of a whole story: a brief becomes a script, durably, before the first shot.
//!
//! ```text
//! DIR/planner.json               who plans the briefs of the run
//! DIR/stories/ID/plan.json       the script of one, the text it was read from, and its recipe
//! ```
//!
//! A plan is created once, like the record of a shot: under the lease of its story, on disk before
//! its name is. A program that is killed leaves its plans to others, and plans only what is
//! missing. Records of shots name the digest of the plan they follow.
//!
//! [`StoryPlanner`] makes plans; [`plan_queue`] asks it for those that come next, ahead of the shots but
//! not far, and writes each when it is there; [`ranks`] is the program that does nothing else. A
//! planner that is [`away`] is asked again now and then, as long as anything else is to be made.
//! [`beforehand`] plans for a manifest, without a run.

pub(crate) mod away;
pub mod beforehand;
mod hands;
pub(crate) mod plan_queue;
pub mod ranks;
mod record;
pub(crate) mod restored;
pub mod shelf;
mod who;

use storyloom_story::{PlanRequest, Settle};

pub use crate::folder::plan_record::{PlanRecord, brief_digest};
pub use crate::folder::plans::{is_planned, read_plan};
pub use storyloom_story::PlannerDescription;
pub use who::planners_of;

pub(crate) use crate::folder::plan_record::is_damage;
pub(crate) use crate::folder::plans::sound_plan;
pub(crate) use record::{check_script, commit_plan};
pub(crate) use who::{PlannerFile, settle_planner};

/// Makes scripts of briefs.
///
/// In a run one thread calls it, [`beforehand`] several. What may take long looks now and then at the
/// [`StopFlag`](crate::StopFlag) that it was made with, and ends as
/// [`Interrupted`](storyloom_story::ErrorClass::Interrupted).
pub trait StoryPlanner: Sync {
    /// What it is; part of the recipe of every plan.
    fn describe(&self) -> PlannerDescription;

    /// Whether it may go on with what the planner `before` has begun, although it is another one: a
    /// later version of the same, whose scripts are as good.
    fn continues(&self, _before: &PlannerDescription) -> bool {
        false
    }

    /// Briefs that it likes to work on at once, at least one.
    fn capacity(&self) -> usize {
        1
    }

    /// Plans each of `requests`, at most [`capacity`](Self::capacity) of them, and tells what came of
    /// each as soon as it is known. The same request gets the same script.
    fn plan(&self, requests: &[PlanRequest], settle: &Settle);
}

//! What is to be done in a run, as far as one program knows: who takes which story next. No clock
//! but the one it is given, no disk.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use storyloom_story::StoryId;

use crate::error::RunError;
use crate::run::admission_policy::{fair_share, may_plan_ahead};
use crate::run::outcome::RunOutcome;
use crate::run::planning::away::pause;

/// The order of stories: larger priorities first, then more missing shots, since a chain is made
/// one shot after the other and a long one begun late is what the run ends with. The order of the
/// manifest among equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// Whether nothing is missing: such stories are only looked at, when all others are begun.
    over: bool,
    priority: Reverse<i64>,
    missing: Reverse<usize>,
    place: usize,
}

impl Rank {
    /// Of the story at `place` of the manifest, of which `missing` shots are missing.
    pub(crate) fn new(priority: i64, missing: usize, place: usize) -> Self {
        Self {
            over: missing == 0,
            priority: Reverse(priority),
            missing: Reverse(missing),
            place,
        }
    }

    /// Before all others.
    pub(crate) fn first(place: usize) -> Self {
        Self::new(i64::MAX, usize::MAX, place)
    }

    /// The place of the story in the manifest.
    pub(crate) fn place(self) -> usize {
        self.place
    }

    /// The same story, now that another number of shots is known to be missing.
    pub(crate) fn with_missing(self, missing: usize) -> Self {
        Self {
            over: missing == 0,
            missing: Reverse(missing),
            ..self
        }
    }
}

/// A story that has a place in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ranked {
    pub(crate) rank: Rank,
    pub(crate) id: StoryId,
}

/// A brief that is not planned, and how often that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unplanned {
    pub(crate) id: StoryId,
    /// The attempt that comes next; each has a seed of its own.
    pub(crate) attempt: u32,
    /// How often the same attempt ended with a transient error.
    pub(crate) retries: usize,
    /// Not to be looked at before, if not now: others work on it, or it waits after a transient error.
    pub(crate) not_before: Option<Instant>,
}

impl Unplanned {
    /// One that nobody has tried.
    pub(crate) fn new(id: StoryId) -> Self {
        Self {
            id,
            attempt: 0,
            retries: 0,
            not_before: None,
        }
    }
}

/// Stories that this program or others have to make.
#[derive(Debug, Default)]
pub(crate) struct RunQueue {
    /// Stories with a script, the next first.
    ready: BTreeMap<Rank, StoryId>,
    /// Briefs without one.
    unplanned: BTreeMap<Rank, Unplanned>,
    /// Briefs in the hands of this program's planner.
    planning: usize,
    /// Places of stories in `ready` that were planned since this program began.
    ahead: BTreeSet<usize>,
    /// Whether there ever was a brief without a script.
    plans: bool,
    /// Others work on them; and when they were looked at last.
    elsewhere: Vec<Ranked>,
    looked: Option<Instant>,
    /// Programs that share the stories.
    pub(crate) replicas: usize,
    /// Stories in the hands of this program.
    pub(crate) in_hand: usize,
    /// When others were offered help last.
    pub(crate) offered: Option<Instant>,
    pub(crate) outcome: RunOutcome,
    /// What ends the run.
    pub(crate) error: Option<RunError>,
    /// Why nothing more is planned; the run ends with it when all else is over.
    pub(crate) unplannable: Option<RunError>,
    /// Whether other programs make the stories that this one plans.
    pub(crate) others_make: bool,
    /// How often the planner was away since it has planned something, and when it is asked again.
    away: (u32, Option<Instant>),
    /// How often others had found their planner away when this program had nothing else to do.
    pub(crate) heard: Option<u32>,
}

/// Time between two looks at stories that others work on, and what each adds to it.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1));
/// Time between two looks at the work that other threads may hand back.
pub(crate) const MOMENT: Duration = Duration::from_millis(20);

/// What a place for a story does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try this story.
    Take(Ranked),
    /// Come again; nothing is ready, or others need theirs.
    Wait,
    /// Come again: there are stories, but none of them is planned.
    AwaitPlan,
    /// All is over.
    Over,
}

/// What a planner does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Briefs {
    /// See to these.
    Take(Vec<(Rank, Unplanned)>),
    /// Come again: enough is planned for now, or all that is left is with others.
    Wait,
    /// Every brief is planned or given up.
    Over,
}

impl RunQueue {
    /// For programs that are `replicas` in number.
    pub(crate) fn new(replicas: usize) -> Self {
        Self {
            replicas: replicas.max(1),
            ..Self::default()
        }
    }

    /// A story that has its script.
    pub(crate) fn add(&mut self, story: Ranked) {
        self.ready.insert(story.rank, story.id);
    }

    /// A brief that has to be planned.
    pub(crate) fn add_brief(&mut self, rank: Rank, brief: Unplanned) {
        self.plans = true;
        self.unplanned.insert(rank, brief);
    }

    /// Whether any brief had to be planned since the program began.
    pub(crate) fn plans(&self) -> bool {
        self.plans
    }

    /// Whether any brief has to be planned.
    pub(crate) fn has_briefs(&self) -> bool {
        !self.unplanned.is_empty() || self.planning > 0
    }

    /// Stories that are not over, as far as this program knows.
    fn unfinished(&self) -> usize {
        let known = self.ready.len() + self.elsewhere.len() + self.in_hand;
        known + self.unplanned.len() + self.planning
    }

    /// Whether nothing new is to be begun.
    pub(crate) fn is_ending(&self) -> bool {
        self.error.is_some() || self.outcome.stopped
    }

    /// The next story to try, at the moment `now`.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        if self.is_ending() {
            return Next::Over;
        }
        if self.ready.is_empty() && !self.elsewhere.is_empty() {
            let pause = PAUSE.0 + PAUSE.1 * self.elsewhere.len() as u32;
            let looked = self.looked;
            if looked.is_none_or(|looked| now.duration_since(looked) >= pause) {
                self.looked = Some(now);
                let stories = self.elsewhere.drain(..);
                self.ready
                    .extend(stories.map(|story| (story.rank, story.id)));
            }
        }
        if self.in_hand >= fair_share(self.unfinished(), self.replicas) {
            return Next::Wait;
        }
        if let Some((rank, id)) = self.ready.pop_first() {
            self.ahead.remove(&rank.place);
            self.in_hand += 1;
            return Next::Take(Ranked { rank, id });
        }
        match (self.has_briefs(), self.in_hand + self.elsewhere.len()) {
            (true, _) => Next::AwaitPlan,
            (false, 0) => Next::Over,
            (false, _) => Next::Wait,
        }
    }

    /// Others work on a story that was taken; nobody of this program does any more.
    pub(crate) fn leave_to_others(&mut self, story: Ranked, now: Instant) {
        self.looked.get_or_insert(now);
        self.elsewhere.push(story);
    }

    /// The first briefs that may be planned at `now`, at most `most`. They are in the planner's
    /// hands until each is [planned](Self::planned), put back, or over.
    ///
    /// So far ahead and no further: a brief is left alone while `ahead` stories that come before it
    /// are ready, and while that number of planned ones wait in all. Only the first `window` briefs are
    /// looked at.
    pub(crate) fn briefs(
        &mut self,
        most: usize,
        ahead: usize,
        window: usize,
        now: Instant,
    ) -> Briefs {
        if self.is_ending() || !self.has_briefs() {
            return Briefs::Over;
        }
        // Before the run ends it is asked once more.
        if self.away.1.is_some_and(|at| at > now) && !self.is_alone() {
            return Briefs::Wait;
        }
        let mut taken = Vec::new();
        for (rank, brief) in self.unplanned.iter().take(window) {
            let in_flight = self.ahead.len() + self.planning + taken.len();
            let before = self.ready.range(..rank).take(ahead).count() + taken.len();
            if taken.len() >= most || !may_plan_ahead(ahead, in_flight, before) {
                break;
            }
            if brief.not_before.is_none_or(|at| at <= now) {
                taken.push((*rank, brief.clone()));
            }
        }
        if taken.is_empty() {
            return Briefs::Wait;
        }
        for (rank, _) in &taken {
            self.unplanned.remove(rank);
        }
        self.planning += taken.len();
        Briefs::Take(taken)
    }

    /// Stories that were planned since this program began and wait to be made.
    pub(crate) fn ahead(&self) -> usize {
        self.ahead.len()
    }

    /// A brief in the planner's hands has its script now, of which `missing` shots are missing.
    pub(crate) fn planned(&mut self, rank: Rank, id: StoryId, missing: usize) {
        self.planning -= 1;
        self.ahead.insert(rank.place);
        self.ready.insert(rank.with_missing(missing), id);
    }

    /// A brief in the planner's hands is to be tried again.
    pub(crate) fn put_back(&mut self, rank: Rank, brief: Unplanned) {
        self.planning -= 1;
        self.unplanned.insert(rank, brief);
    }

    /// A brief in the planner's hands is over: nothing more is done for it here.
    pub(crate) fn brief_is_over(&mut self) {
        self.planning -= 1;
    }

    /// Whether nothing is left to make but what is not planned.
    pub(crate) fn is_alone(&self) -> bool {
        let made_elsewhere = self.others_make || !self.elsewhere.is_empty();
        self.ready.is_empty() && self.in_hand == 0 && !made_elsewhere
    }

    /// The planner cannot be reached at `now`; says how long it is left alone, if anything else is to
    /// be made meanwhile.
    pub(crate) fn planner_is_away(&mut self, now: Instant) -> Option<Duration> {
        let tries = self.away.0 + 1;
        let pause = pause(tries);
        self.away = (tries, Some(now + pause));
        (!self.is_alone()).then_some(pause)
    }

    /// The planner has planned something; says whether it was away.
    pub(crate) fn planner_is_back(&mut self) -> bool {
        std::mem::take(&mut self.away).0 > 0
    }

    /// How often the planner was away since it has planned something.
    pub(crate) fn tries(&self) -> u32 {
        self.away.0
    }

    /// Whether others have found their planner away once more since this program has nothing else to
    /// do; they say how often they have now.
    pub(crate) fn hears_again(&mut self, tries: u32) -> bool {
        *self.heard.get_or_insert(tries) != tries
    }

    /// The briefs that are not planned, in their order.
    pub(crate) fn unplanned(&self) -> Vec<StoryId> {
        let briefs = self.unplanned.values();
        briefs.map(|brief| brief.id.clone()).collect()
    }

    /// Nothing more is planned, and this is why.
    pub(crate) fn end_planning(&mut self, error: RunError) {
        self.unplanned.clear();
        self.planning = 0;
        self.unplannable.get_or_insert(error);
    }

    /// Planned stories that wait, for somebody who does not make any.
    pub(crate) fn waiting(&self) -> Vec<Ranked> {
        let stories = self.ready.iter();
        stories
            .map(|(rank, id)| Ranked {
                rank: *rank,
                id: id.clone(),
            })
            .collect()
    }

    /// Somebody has begun to make a planned story.
    pub(crate) fn forget(&mut self, rank: Rank) {
        self.ready.remove(&rank);
        self.ahead.remove(&rank.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: usize = usize::MAX;

    #[test]
    fn what_is_planned_is_made_after_planning_has_ended() {
        let mut queue = briefs(&[3, 2, 1]);
        let taken = take(&mut queue, 2, 2);
        assert_eq!(taken.len(), 2);
        queue.planned(taken[0].0, id(0), 3);
        queue.put_back(taken[1].0, taken[1].1.clone());
        assert_eq!(queue.unplanned(), [id(1), id(2)]);
        queue.end_planning(RunError::Setting("gone".to_owned()));
        assert_eq!(queue.briefs(2, 2, ALL, Instant::now()), Briefs::Over);
        assert_eq!(next_place(&mut queue), Some(0));
        assert_eq!(queue.next(Instant::now()), Next::Over);
        assert!(queue.unplannable.is_some() && queue.error.is_none());
    }

    #[test]
    fn a_planner_that_is_away_is_asked_again_and_once_more_at_the_end() {
        let mut queue = briefs(&[3]);
        queue.add(Ranked {
            rank: Rank::new(0, 1, 9),
            id: id(9),
        });
        let now = Instant::now();
        let put_back = |queue: &mut RunQueue| {
            let (rank, brief) = take(queue, 1, 8).remove(0);
            queue.put_back(rank, brief);
        };
        put_back(&mut queue);
        let pause = queue.planner_is_away(now).unwrap();
        assert_eq!(queue.briefs(1, 8, ALL, now), Briefs::Wait);
        let later = now + pause;
        assert!(matches!(queue.briefs(1, 8, ALL, later), Briefs::Take(_)));
        queue.put_back(Rank::new(0, 3, 0), Unplanned::new(id(0)));
        assert!(queue.planner_is_away(later).unwrap() > pause);
        // Then all else is made.
        assert_eq!(next_place(&mut queue), Some(9));
        put_back(&mut queue);
        assert_eq!(queue.planner_is_away(later), None);
        assert!(queue.planner_is_back() && !queue.planner_is_back());
    }

    fn id(place: usize) -> StoryId {
        StoryId::new(format!("story-{place}")).unwrap()
    }

    fn briefs(shots: &[usize]) -> RunQueue {
        let mut queue = RunQueue::new(1);
        for (place, &shots) in shots.iter().enumerate() {
            queue.add_brief(Rank::new(0, shots, place), Unplanned::new(id(place)));
        }
        queue
    }

    /// Places of the stories that a planner would take.
    fn take(queue: &mut RunQueue, most: usize, ahead: usize) -> Vec<(Rank, Unplanned)> {
        match queue.briefs(most, ahead, ALL, Instant::now()) {
            Briefs::Take(taken) => taken,
            Briefs::Wait | Briefs::Over => Vec::new(),
        }
    }

    fn next_place(queue: &mut RunQueue) -> Option<usize> {
        match queue.next(Instant::now()) {
            Next::Take(story) => {
                queue.in_hand -= 1;
                Some(story.rank.place)
            }
            _ => None,
        }
    }

    #[test]
    fn the_longest_asked_for_are_planned_first_and_taken_by_what_they_became() {
        let mut queue = briefs(&[3, 9, 5, 7]);
        let taken = take(&mut queue, 2, 8);
        let places: Vec<usize> = taken.iter().map(|(rank, _)| rank.place).collect();
        assert_eq!(places, [1, 3]);
        assert_eq!(queue.next(Instant::now()), Next::AwaitPlan);
        // The first came out shorter than it was asked for.
        for ((rank, brief), missing) in taken.into_iter().zip([2, 7]) {
            queue.planned(rank, brief.id, missing);
        }
        assert_eq!(next_place(&mut queue), Some(3));
        assert_eq!(next_place(&mut queue), Some(1));
        assert_eq!(next_place(&mut queue), None);
    }

    #[test]
    fn the_look_ahead_is_bounded_whatever_comes_out() {
        // All plans are short, so that each goes behind all that is not planned.
        let mut queue = briefs(&[10; 40]);
        for _ in 0..40 {
            for (rank, brief) in take(&mut queue, 3, 8) {
                queue.planned(rank, brief.id, 1);
            }
        }
        assert_eq!((queue.ahead(), queue.unplanned.len()), (8, 32));
        assert!(next_place(&mut queue).is_some());
        assert_eq!(take(&mut queue, 3, 8).len(), 1);
    }

    #[test]
    fn scripts_in_front_leave_briefs_behind_them_unplanned() {
        let mut queue = briefs(&[5, 50]);
        for place in 10..20 {
            queue.add(Ranked {
                rank: Rank::new(0, 20, place),
                id: id(place),
            });
        }
        // The long one comes before all scripts, the short one after ten of them.
        let taken = take(&mut queue, 4, 8);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].0.place, 1);
        assert_eq!(next_place(&mut queue), Some(10), "nobody waits for a plan");
        assert_eq!(queue.briefs(4, 8, ALL, Instant::now()), Briefs::Wait);
    }

    #[test]
    fn what_is_with_others_is_looked_at_later_and_nothing_is_over_before() {
        let mut queue = briefs(&[5]);
        let now = Instant::now();
        let (rank, mut brief) = take(&mut queue, 1, 8).remove(0);
        brief.not_before = Some(now + Duration::from_secs(5));
        queue.put_back(rank, brief);
        assert_eq!(queue.briefs(1, 8, ALL, now), Briefs::Wait);
        assert_eq!(queue.next(now), Next::AwaitPlan);
        let later = now + Duration::from_secs(6);
        assert!(matches!(queue.briefs(1, 8, ALL, later), Briefs::Take(_)));
        queue.brief_is_over();
        assert_eq!(queue.briefs(1, 8, ALL, later), Briefs::Over);
        assert_eq!(queue.next(later), Next::Over);
    }

    #[test]
    fn nobody_takes_more_than_a_share_while_briefs_are_unplanned() {
        let mut queue = briefs(&[5, 5]);
        queue.replicas = 3;
        for place in 10..12 {
            queue.add(Ranked {
                rank: Rank::new(0, 3, place),
                id: id(place),
            });
        }
        assert!(matches!(queue.next(Instant::now()), Next::Take(_)));
        assert!(matches!(queue.next(Instant::now()), Next::Take(_)));
        assert_eq!(
            queue.next(Instant::now()),
            Next::Wait,
            "two of four for one of three"
        );
    }
}

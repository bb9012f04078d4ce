//! What is asked of the model in a sample: a shot, what came before it, and what of that should matter.
//! Pure choices over the stories of a pool.

use storyloom_story::onestory::{Budget, ChosenFrame, Counts, Kernel, Plane, choose};
use storyloom_tinyworld::draws::Draws;
use storyloom_tinyworld::{News, Scene, Story, caption};

use super::OneStorySettings;
use crate::error::Result;
use crate::latents::copied_shots;

/// A shot of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// A shot of the story itself, by its number from 0.
    Real(usize),
    /// A shot of another story of the pool.
    Inserted {
        /// Place of the story in the pool.
        story: usize,
        /// Number of the shot, from 0.
        shot: usize,
    },
    /// An augmented copy of a shot of the story, by its place among the copies.
    Copied(usize),
}

/// A sample: the last shot is to be made, and its history is what comes before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Lesson {
    /// Place of the story in the pool.
    pub story: usize,
    /// The shot that is to be made.
    pub target: usize,
    /// What comes before it, oldest first.
    pub history: Vec<Past>,
    /// What it is asked for by.
    pub caption: String,
    /// Whether its first frame is given.
    pub is_given_image: bool,
}

/// What the samples of a part see of their history.
#[derive(Debug, Clone, PartialEq)]
pub enum Sees {
    /// Nothing.
    Nothing,
    /// Frames that do not depend on the selector, for each sample.
    Fixed(Vec<Vec<ChosenFrame>>),
    /// What the selector finds relevant.
    Selected(Counts),
}

/// Which part of the training it is (arXiv 2512.07802, section 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Inflated pairs alone, whose real shot is seen at random.
    WarmUp,
    /// All data; what is seen is selected.
    Selection,
}

/// The samples of a part of a step. All have the same number of shots before them and see as many frames
/// with each kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Whether a single picture is to be made of each.
    pub is_still: bool,
    /// What they see.
    pub sees: Sees,
    /// The samples.
    pub lessons: Vec<Lesson>,
}

/// Share of samples whose caption tells everything although it was told before.
const TOLD_AGAIN: f64 = 0.1;
/// Share of the parts with real histories that have at most five shots, as stories of six shots have.
const SHORT: f64 = 0.8;
const SHORT_SHOTS: usize = 5;
/// Share of the parts with context that see frames at random: the model must not rely on a choice.
const RANDOM: f64 = 0.1;
/// Shares of budgets of two units and of three.
const LARGER: [f64; 2] = [0.08, 0.07];
/// Share of the parts with context that have one of these frames per kernel, if they fit: those of the
/// ablations, and the coarsest kernel, which small latent frames have no room for otherwise.
const NAMED: f64 = 0.18;
const NAMES: [Counts; 3] = [
    Counts([1, 0, 0, 0]),
    Counts([0, 4, 0, 0]),
    Counts([0, 3, 1, 3]),
];

/// Latent frames as the choices see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frames {
    /// Rows and columns of one.
    pub plane: Plane,
    /// Those of a shot.
    pub count: usize,
}

impl Plan {
    /// Draws the samples of a part from the stories of a pool.
    pub fn draw(
        draws: &mut Draws,
        stories: &[&Story],
        settings: &OneStorySettings,
        phase: Phase,
        frames: Frames,
    ) -> Self {
        let flow = &settings.flow;
        let is_still = draws.chance(flow.stills);
        let samples = flow.samples * if is_still { 2 } else { 1 };
        let kind = draws.unit();
        if kind < settings.opening {
            let opening = |_| opening(draws, stories, !is_still);
            return Self {
                is_still,
                sees: Sees::Nothing,
                lessons: (0..samples).map(opening).collect(),
            };
        }
        let is_bare = kind < settings.opening + settings.bare;
        let is_inflated = phase == Phase::WarmUp || draws.chance(settings.inflated);
        let lessons: Vec<Lesson> = match is_inflated {
            true => (0..samples).map(|_| inflated(draws, stories)).collect(),
            false => {
                let shots = history_length(draws, stories);
                let real = |_| real(draws, stories, shots);
                (0..samples).map(real).collect()
            }
        };
        let sees = match phase {
            _ if is_bare => Sees::Nothing,
            Phase::WarmUp => uniform(draws, &lessons, frames),
            Phase::Selection => selected(draws, &lessons, frames),
        };
        Self {
            is_still,
            sees,
            lessons,
        }
    }
}

/// A shot without anything before it, whose caption tells everything; a share of first shots is given its
/// first frame, where `may_be_given` is set.
fn opening(draws: &mut Draws, stories: &[&Story], may_be_given: bool) -> Lesson {
    let story = draws.below(stories.len());
    let is_given_image = draws.chance(0.5) && may_be_given;
    let target = match is_given_image {
        true => 0,
        false => draws.below(stories[story].shots.len()),
    };
    Lesson {
        story,
        target,
        history: Vec::new(),
        caption: caption(&stories[story].shots[target].scene, News::ALL),
        is_given_image,
    }
}

/// How many shots of history the samples of a part with real histories have.
fn history_length(draws: &mut Draws, stories: &[&Story]) -> usize {
    let longest = stories.iter().map(|story| story.shots.len() - 1).max();
    let longest = longest.unwrap_or(1);
    match draws.chance(SHORT) {
        true => 1 + draws.below(SHORT_SHOTS.min(longest)),
        false => 1 + draws.below(longest),
    }
}

/// A shot of a story after the `shots` that came before it.
fn real(draws: &mut Draws, stories: &[&Story], shots: usize) -> Lesson {
    let is_long = |place: &usize| stories[*place].shots.len() > shots;
    let long: Vec<usize> = (0..stories.len()).filter(is_long).collect();
    let story = long[draws.below(long.len())];
    let shot = &stories[story].shots[shots];
    let caption = match draws.chance(TOLD_AGAIN) {
        true => caption(&shot.scene, News::ALL),
        false => shot.caption.clone(),
    };
    Lesson {
        story,
        target: shots,
        history: (0..shots).map(Past::Real).collect(),
        caption,
        is_given_image: false,
    }
}

/// A pair of shots of a story that share something, inflated by a third: one of another story, or an
/// augmented copy of the first (section 4.4 of the paper). The third stands after the first or before it.
fn inflated(draws: &mut Draws, stories: &[&Story]) -> Lesson {
    let number = draws.below(stories.len());
    let story = stories[number];
    let is_copied = draws.chance(0.5);
    let (first, target, third) = match is_copied {
        true => {
            let copies = copied_shots(story);
            let copy = draws.below(copies.len());
            let later = (copies[copy] + 1..story.shots.len()).collect();
            let target = related(draws, story, later, |target| (copies[copy], target));
            (copies[copy], target, Past::Copied(copy))
        }
        false => {
            let target = 1 + draws.below(story.shots.len() - 1);
            let earlier = (0..target).collect();
            let first = related(draws, story, earlier, |first| (first, target));
            let other = (number + 1 + draws.below(stories.len().max(2) - 1)) % stories.len();
            let third = Past::Inserted {
                story: other,
                shot: draws.below(stories[other].shots.len()),
            };
            (first, target, third)
        }
    };
    let history = match draws.chance(0.5) {
        true => vec![Past::Real(first), third],
        false => vec![third, Past::Real(first)],
    };
    let scene = &story.shots[target].scene;
    let news = match draws.chance(TOLD_AGAIN) {
        true => News::ALL,
        false => unseen(scene, &story.shots[first].scene),
    };
    Lesson {
        story: number,
        target,
        history,
        caption: caption(scene, news),
        is_given_image: false,
    }
}

/// One of `shots` of which the pair has something in common, if there is one.
fn related(
    draws: &mut Draws,
    story: &Story,
    shots: Vec<usize>,
    pair: impl Fn(usize) -> (usize, usize),
) -> usize {
    let share = |shot: usize| {
        let (first, target) = pair(shot);
        shared(&story.shots[target].scene, &story.shots[first].scene)
    };
    let related: Vec<usize> = shots.iter().copied().filter(|&s| share(s) > 0.0).collect();
    let among = if related.is_empty() { shots } else { related };
    among[draws.below(among.len())]
}

/// The things of `scene` that `earlier` does not show.
fn unseen(scene: &Scene, earlier: &Scene) -> News {
    let (now, before) = (&scene.subject, &earlier.subject);
    News {
        product: now.product() != before.product(),
        character: now.character() != before.character(),
        place: scene.place != earlier.place,
    }
}

/// The share of the things of `target` (product, character and place) that `scene` shows, from 0 to 1.
pub(super) fn shared(target: &Scene, scene: &Scene) -> f32 {
    let new = unseen(target, scene);
    let things = [
        Some(new.place),
        target.subject.product().map(|_| new.product),
        target.subject.character().map(|_| new.character),
    ];
    let things = things.into_iter().flatten();
    let (all, seen) = things.fold((0.0, 0.0), |(all, seen), is_new| {
        (all + 1.0, seen + f32::from(u8::from(!is_new)))
    });
    seen / all
}

impl Lesson {
    /// How relevant each of the latent `frames` of the history is, in its order: what the selector is to say
    /// (specification `onestory`, section 5.3). `similarity` has that of each frame of a real shot to the
    /// target.
    ///
    /// # Errors
    /// `similarity` fails.
    pub fn labels(
        &self,
        frames: usize,
        similarity: impl Fn(usize) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let label = |past: &Past| match *past {
            Past::Real(shot) => similarity(shot),
            Past::Inserted { .. } => Ok(vec![-1.0; frames]),
            Past::Copied(_) => Ok(vec![0.0; frames]),
        };
        let labels = self.history.iter().map(label);
        Ok(labels.collect::<Result<Vec<_>>>()?.concat())
    }

    /// The latent frames of the history that belong to a real shot.
    fn real_frames(&self, frames: usize) -> Vec<usize> {
        let shots = self.history.iter().enumerate();
        let real = shots.filter(|(_, past)| matches!(past, Past::Real(_)));
        real.flat_map(|(place, _)| place * frames..(place + 1) * frames)
            .collect()
    }
}

/// The kernels of `counts`, the finest first.
fn kernels(counts: Counts) -> Vec<Kernel> {
    let classes = Kernel::ALL.into_iter().zip(counts.0);
    classes
        .flat_map(|(kernel, count)| std::iter::repeat_n(kernel, count as usize))
        .collect()
}

fn shuffle<T>(draws: &mut Draws, all: &mut [T]) {
    for last in (1..all.len()).rev() {
        all.swap(last, draws.below(last + 1));
    }
}

/// Frames of the real shots, drawn uniformly and without replacement, with kernels in any order.
fn uniform(draws: &mut Draws, lessons: &[Lesson], frames: Frames) -> Sees {
    let mut kernels = kernels(counts(draws, frames.plane));
    shuffle(draws, &mut kernels);
    kernels.truncate(frames.count);
    let mut one = |lesson: &Lesson| {
        let real = lesson.real_frames(frames.count);
        let drawn = draws.some_of(kernels.len(), real.len());
        shuffle(draws, &mut kernels);
        let pairs = drawn.into_iter().zip(&kernels);
        let seen = pairs.map(|(frame, &kernel)| ChosenFrame {
            frame: real[frame],
            score: 0.0,
            kernel,
        });
        seen.collect()
    };
    Sees::Fixed(lessons.iter().map(&mut one).collect())
}

/// What the selector chooses, and in a share of parts anything.
fn selected(draws: &mut Draws, lessons: &[Lesson], frames: Frames) -> Sees {
    let counts = counts(draws, frames.plane);
    if !draws.chance(RANDOM) {
        return Sees::Selected(counts);
    }
    let mut one = |lesson: &Lesson| {
        let scores = (0..lesson.history.len() * frames.count).map(|_| draws.unit() as f32);
        choose(&scores.collect::<Vec<_>>(), counts)
    };
    Sees::Fixed(lessons.iter().map(&mut one).collect())
}

/// Frames per kernel: mostly those of one unit.
fn counts(draws: &mut Draws, plane: Plane) -> Counts {
    let fitting = |counts: Option<Counts>, units| Budget { units, counts }.counts(plane).ok();
    let plain = |units| fitting(None, units).unwrap_or_default();
    let kind = draws.unit();
    let [two, three] = LARGER;
    if kind < two {
        plain(2)
    } else if kind < two + three {
        plain(3)
    } else if kind < two + three + NAMED {
        let named = NAMES[draws.below(NAMES.len())];
        fitting(Some(named), 1).unwrap_or_else(|| plain(1))
    } else {
        plain(1)
    }
}

#[cfg(test)]
mod tests {
    use storyloom_tinyworld::{Outline, Pattern, Split};

    use super::*;
    use crate::preset::Preset;

    const FRAMES: Frames = Frames {
        plane: [12, 20],
        count: 3,
    };

    fn stories() -> Vec<Story> {
        let plain = (0..6).map(|seed| Story::draw(seed, Split::Train));
        let outlines = Pattern::ALL.iter().map(|pattern| Outline::of(*pattern));
        let patterns = outlines.flat_map(|of| (0..2).map(move |seed| of.draw(seed, Split::Train)));
        plain.chain(patterns).collect()
    }

    fn plans(phase: Phase, count: u64) -> Vec<Plan> {
        let stories = stories();
        let stories: Vec<&Story> = stories.iter().collect();
        let (settings, _) = Preset::tiny().onestory;
        let plan = |step| {
            let mut draws = Draws::new(5, "plan", step);
            Plan::draw(&mut draws, &stories, &settings, phase, FRAMES)
        };
        (0..count).map(plan).collect()
    }

    /// Specification `onestory`, section 8, item 8.
    #[test]
    fn all_four_orders_occur_and_have_their_labels() {
        let stories = stories();
        let stories: Vec<&Story> = stories.iter().collect();
        let mut orders = [[0; 2]; 2];
        for lesson in plans(Phase::WarmUp, 80).iter().flat_map(|p| &p.lessons) {
            if lesson.history.is_empty() {
                continue;
            }
            let labels = lesson.labels(3, |_| Ok(vec![0.5; 3])).unwrap();
            assert_eq!((lesson.history.len(), labels.len()), (2, 6));
            let place = lesson
                .history
                .iter()
                .position(|p| !matches!(p, Past::Real(_)));
            let place = place.unwrap();
            let (kind, label) = match lesson.history[place] {
                Past::Inserted { story, .. } => {
                    assert_ne!(story, lesson.story);
                    (0, -1.0)
                }
                _ => (1, 0.0),
            };
            orders[kind][place] += 1;
            assert_eq!(labels[3 * place..3 * place + 3], [label; 3]);
            let Past::Real(first) = lesson.history[1 - place] else {
                panic!("{lesson:?}")
            };
            assert!(first < lesson.target, "the target is last: {lesson:?}");
            if let Past::Copied(copy) = lesson.history[place] {
                assert_eq!(copied_shots(stories[lesson.story])[copy], first);
            }
            let real = 3 * (1 - place);
            assert_eq!(labels[real..real + 3], [0.5; 3]);
            let scenes =
                [lesson.target, first].map(|shot| &stories[lesson.story].shots[shot].scene);
            assert!((0.0..=1.0).contains(&shared(scenes[0], scenes[1])));
        }
        assert!(orders.as_flattened().iter().all(|&n| n > 20), "{orders:?}");
    }

    /// Specification `onestory`, section 8, item 9.
    #[test]
    fn the_warm_up_sees_the_real_shot_at_random() {
        let mut first_kernels = std::collections::BTreeSet::new();
        for plan in plans(Phase::WarmUp, 60) {
            let Sees::Fixed(chosen) = &plan.sees else {
                assert_eq!(plan.sees, Sees::Nothing, "nothing is selected");
                continue;
            };
            for (lesson, chosen) in plan.lessons.iter().zip(chosen) {
                let real = lesson.real_frames(3);
                assert_eq!(real.len(), 3);
                assert!(!chosen.is_empty() && chosen.len() <= 3);
                assert!(chosen.is_sorted_by(|a, b| a.frame < b.frame));
                assert!(chosen.iter().all(|frame| real.contains(&frame.frame)));
                first_kernels.insert(chosen[0].kernel);
            }
        }
        assert!(first_kernels.contains(&Kernel::P4) && first_kernels.contains(&Kernel::P8));
    }

    #[test]
    fn the_second_phase_has_all_data_and_all_budgets() {
        let (mut lengths, mut counts) = ([0; 8], std::collections::BTreeSet::new());
        let (mut fixed, mut images, mut bare) = (0, 0, 0);
        for plan in plans(Phase::Selection, 600) {
            let length = plan.lessons[0].history.len();
            match &plan.sees {
                Sees::Selected(these) => drop(counts.insert(these.0)),
                Sees::Fixed(_) => fixed += 1,
                Sees::Nothing => bare += usize::from(length > 0),
            }
            for lesson in &plan.lessons {
                assert_eq!(lesson.history.len(), length);
                lengths[length] += 1;
                images += usize::from(lesson.is_given_image);
                assert!(!lesson.is_given_image || (lesson.target == 0 && !plan.is_still));
                let real = lesson.history.iter().all(|p| matches!(p, Past::Real(_)));
                assert!(!real || length == 0 || lesson.target == length);
            }
        }
        assert!(lengths.iter().all(|&n| n > 5), "{lengths:?}");
        assert!(fixed > 10 && images > 10 && bare > 10);
        let budgets = [1, 2, 3].map(|units| Budget {
            units,
            counts: None,
        });
        for budget in budgets {
            assert!(counts.contains(&budget.counts(FRAMES.plane).unwrap().0));
        }
        assert!(NAMES.iter().all(|named| counts.contains(&named.0)));
    }

    /// What the real shot shows need not be told; the rest is.
    #[test]
    fn captions_tell_what_cannot_be_remembered() {
        let stories = stories();
        let story = &stories[0];
        let (scene, other) = (&story.shots[0].scene, &stories[1].shots[0].scene);
        assert_eq!(shared(scene, scene), 1.0);
        assert_eq!(shared(scene, other), 0.0);
        let all = unseen(scene, other);
        assert!(all.place && caption(scene, all) == caption(scene, News::ALL));
        let none = unseen(scene, scene);
        assert!(!none.place && !none.product && !none.character);
    }
}

//! The metrics, one file each. A new one is its file and a row here.

mod consistency;
mod identity;
mod pairs;
mod prompt_following;
mod recalled;
mod remembered;
mod right;
mod selected;

use serde::Serialize;

use crate::folder::StoryReading;

pub(crate) use pairs::Pair;
pub(crate) use right::each_right;

/// Pairs of shots that count as the most related ones of a story.
const RELATED: usize = 10;

// A row has the name in tables and what computes the metric of a story.
macro_rules! metrics {
    ($( $(#[doc = $doc:literal])+ $name:ident = $text:literal, $of:expr; )+) => {
        /// What is measured of a story; every figure is a share from 0 to 1.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Metric {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl Metric {
            /// All of them, in the order of tables.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its name in tables.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// Its value for a story; `None` where the story has nothing to measure it on.
            pub(crate) fn of(self, story: &Measured) -> Option<f64> {
                let of: fn(&Measured) -> Option<f64> = match self {
                    $(Self::$name => $of,)+
                };
                of(story)
            }
        }
    };
}

metrics! {
    /// Over pairs of shots that show the same thing: the share of its remembered attributes that
    /// look alike in both.
    Consistency = "consistency, all pairs", |story| consistency::of(story.pairs.iter());
    /// The same over the ten pairs whose captions are most alike.
    ConsistencyRelated = "consistency, ten most related pairs", |story| consistency::of(story.related());
    /// Over pairs of shots that show the same thing: whether all remembered attributes of all such
    /// things look alike.
    Identity = "identity, all pairs", |story| identity::of(story.pairs.iter());
    /// The same over the ten pairs whose captions are most alike.
    IdentityRelated = "identity, ten most related pairs", |story| identity::of(story.related());
    /// Over what a shot shows but its caption does not tell: the share that is as it was introduced.
    Remembered = "remembered", remembered::of;
    /// The same over things that neither of the two shots before shows.
    Recalled = "recalled", recalled::of;
    /// Over what captions tell: the share that is to be seen.
    PromptFollowing = "prompt following", prompt_following::of;
    /// Over latent frames that a network chose for shots that name something known: the share of shots that
    /// hold it.
    Selected = "selected frames that hold it", |story| selected::share(story, selected::held);
    /// These frames as a share of those that the best choice would have.
    SelectedOfBest = "of the best frames that hold it", |story| selected::share(story, selected::held_of_best);
    /// The same as the first of the frames that are seen finest.
    SelectedFinest = "finest frames that hold it", |story| selected::share(story, selected::held_finest);
    /// What random frames would have on average.
    SelectedByChance = "random frames that hold it", |story| selected::share(story, selected::by_chance);
    /// What the best choice of as many frames would have.
    SelectedAtBest = "best frames that hold it", |story| selected::share(story, selected::at_best);
}

/// A story as metrics see it.
pub(crate) struct Measured<'a> {
    /// What was read of its pictures.
    pub reading: &'a StoryReading,
    /// Pairs of its shots that show the same thing.
    pub pairs: Vec<Pair>,
    /// Places of the most related of these, the most related first.
    related: Vec<usize>,
}

impl<'a> Measured<'a> {
    /// Pairs the shots of a story.
    pub fn new(reading: &'a StoryReading) -> Self {
        let pairs = pairs::pairs(reading);
        let mut related: Vec<usize> = (0..pairs.len()).collect();
        // A stable sort: of equals the earlier pair.
        related.sort_by(|&a, &b| pairs[b].relation.total_cmp(&pairs[a].relation));
        related.truncate(RELATED);
        Self {
            reading,
            pairs,
            related,
        }
    }

    fn related(&self) -> impl Iterator<Item = &Pair> {
        self.related.iter().map(|&place| &self.pairs[place])
    }
}

/// Counts of what is and what could be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Share {
    is: usize,
    of: usize,
}

impl Share {
    /// One more.
    pub fn count(&mut self, is: bool) {
        self.is += usize::from(is);
        self.of += 1;
    }

    /// The share; `None` of nothing.
    pub fn value(self) -> Option<f64> {
        (self.of > 0).then(|| self.is as f64 / self.of as f64)
    }
}

//! The sampling loops of a run, and what each makes of a shot.

use storyloom_story::onestory::Budget;
use storyloom_story::{LatentGrid, Method, Opening, VideoSpec};

use super::{Remembers, ShotWork};

/// The sampling loop of a shot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Steps.
    pub steps: u32,
    /// Forwards of a step on one rank: two with guidance.
    pub forwards: f64,
}

/// The sampling loops of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Samplings {
    /// Of shots of StoryMem that begin with text alone; other methods but OneStory are counted as StoryMem.
    pub text: Sampling,
    /// Of all others of StoryMem.
    pub pictures: Sampling,
    /// Of shots of OneStory.
    pub onestory: OneStoryLoop,
}

/// How shots of OneStory are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OneStoryLoop {
    /// The loop.
    pub sampling: Sampling,
    /// What of the history goes into it.
    pub budget: Budget,
    /// Whether the history is encoded again from decoded frames, and not what was sampled.
    pub reencodes: bool,
}

impl Samplings {
    /// The same loop for all shots; those of OneStory see a budget of one latent frame.
    pub const fn alike(sampling: Sampling) -> Self {
        Self {
            text: sampling,
            pictures: sampling,
            onestory: OneStoryLoop {
                sampling,
                budget: Budget {
                    units: 1,
                    counts: None,
                },
                reencodes: false,
            },
        }
    }

    /// The work of a shot that begins so and sees `seen` items of its story's memory: pictures, or earlier shots.
    pub fn work(
        &self,
        method: Method,
        opening: Opening,
        (video, grid): (VideoSpec, LatentGrid),
        seen: f64,
    ) -> ShotWork {
        let (sampling, memory, context, remembers) = match (method, opening) {
            (Method::OneStory, _) => {
                let again = self.onestory.reencodes;
                let context = match seen > 0.0 {
                    true => self.onestory.context((video, grid)),
                    false => 0.0,
                };
                let sampling = self.onestory.sampling;
                (sampling, 0.0, context, Remembers::Latents { again })
            }
            (_, Opening::Text) => (self.text, seen, 0.0, Remembers::Keyframes),
            _ => (self.pictures, seen, 0.0, Remembers::Keyframes),
        };
        ShotWork {
            video,
            grid,
            opening,
            memory,
            context,
            remembers,
            steps: sampling.steps,
            forwards: sampling.forwards,
        }
    }
}

impl OneStoryLoop {
    /// Tokens of the history that a shot sees, whatever its history: the frames of the budget, each with its kernel
    /// (`onestory`, section 4). Frames per kernel that do not fit, which no run takes, count as the whole budget.
    fn context(&self, (video, grid): (VideoSpec, LatentGrid)) -> f64 {
        let plane = grid.plane(video.resolution());
        let counts = self.budget.counts(plane);
        let tokens = counts.map_or(self.budget.cap(plane), |counts| counts.tokens(plane));
        f64::from(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::cost::{CostTable, ReplicaShape, Transformer, tests::close};

    const FULL: VideoSpec = VideoSpec {
        width: 832,
        height: 480,
        frames: 81,
        fps: 16,
    };

    fn loops(units: u32) -> Samplings {
        let mut loops = Samplings::alike(Sampling {
            steps: 40,
            forwards: 2.0,
        });
        loops.onestory.budget.units = units;
        loops
    }

    fn shot(units: u32, seen: f64) -> ShotWork {
        let opening = if seen > 0.0 {
            Opening::Memory
        } else {
            Opening::Text
        };
        loops(units).work(Method::OneStory, opening, (FULL, LatentGrid::WAN_2_1), seen)
    }

    /// Specification `onestory`, section 4.2: TFLOP of one forward of the 14B by budget, products (without those of
    /// cross-attention), self-attention and both, for the full budget; ours fills it but for 22 tokens.
    #[test]
    fn a_forward_costs_what_the_specification_says() {
        for (units, tokens, linear, attention, total) in [
            (0, 32_760.0, 783.0, 879.0, 1662.0),
            (1, 34_298.0, 821.0, 965.0, 1785.0),
            (2, 35_858.0, 858.0, 1055.0, 1912.0),
            (3, 37_418.0, 895.0, 1148.0, 2043.0),
        ] {
            let found = shot(units, 3.0).tokens();
            assert_eq!(found, tokens);
            let (products, squares) = Transformer::default().work().flops(found);
            close(squares / 1e12, attention, 0.003);
            // Attention to 512 rows of text: 4 of its products per token, block and channel.
            let text = 4.0 * 40.0 * found * 512.0 * 5120.0;
            close((products - text) / 1e12, linear, 0.002);
            close((products + squares) / 1e12, total, 0.01);
        }
    }

    /// Flat from the second shot on, whatever the history is: section 8, item 3.
    #[test]
    fn a_shot_costs_the_same_after_one_shot_and_after_forty() {
        let table = CostTable::default();
        let denoise = |seen| table.shot(&shot(1, seen), &ReplicaShape::ONE).denoise;
        assert_eq!(denoise(1.0), denoise(40.0));
        close(denoise(1.0) / denoise(0.0), 1785.0 / 1662.0, 0.005);
        assert_eq!(shot(0, 9.0).tokens(), shot(1, 0.0).tokens());
        // 40 steps of two forwards of 1785 TFLOP (section 9).
        close(denoise(9.0) * 650e12, 143e15, 0.01);
    }

    #[test]
    fn frames_per_kernel_decide_what_is_seen() {
        let mut loops = loops(1);
        let counts = |counts| Some(storyloom_story::onestory::Counts(counts));
        loops.onestory.budget.counts = counts([0, 4, 0, 0]);
        let tokens = |loops: &Samplings| {
            let video = (FULL, LatentGrid::WAN_2_1);
            let work = loops.work(Method::OneStory, Opening::Memory, video, 2.0);
            work.tokens() - 32_760.0
        };
        assert_eq!(tokens(&loops), 1560.0);
        loops.onestory.budget.counts = counts([0, 0, 2, 0]);
        assert_eq!(tokens(&loops), 208.0);
    }

    /// 16 channels of 21 x 60 x 104 values of 4 bytes, which the record of a shot and its memory share.
    #[test]
    fn a_shot_is_remembered_by_its_latents() {
        const LATENTS: f64 = 16.0 * 21.0 * 60.0 * 104.0 * 4.0;
        let table = CostTable::default();
        let once = table.bytes(&shot(1, 3.0), 3.0);
        assert_eq!((once.latents, once.remembered), (LATENTS, LATENTS));
        assert_eq!((once.keyframes, once.tail), (0.0, 0.0));
        let mut loops = loops(1);
        loops.onestory.reencodes = true;
        let video = (FULL, LatentGrid::WAN_2_1);
        let twice = table.bytes(
            &loops.work(Method::OneStory, Opening::Memory, video, 3.0),
            3.0,
        );
        assert_eq!(twice.total() - once.total(), LATENTS);
        assert_eq!(twice.remembered, LATENTS);
        let storymem = loops.work(Method::StoryMem, Opening::Memory, video, 3.0);
        let storymem = table.bytes(&storymem, 2.0);
        assert_eq!(storymem.remembered, storymem.keyframes);
    }
}

//! The model card of a set: what was trained for how long.

use std::fmt::Write as _;

use super::Run;
use super::given::Origin;
use crate::curve;
use crate::error::Result;
use crate::stage::Point;
use crate::stages::StageName;

/// The beginning of the model card.
const CARD: &str = "\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
---

# storyloom-tiny

A small model of the drawn world of storyloom: text to video, and memory pictures and text to video,
in the layout of Wan 2.1 checkpoints (`WanPipeline`, `WanImageToVideoPipeline`; one expert each). It
knows the words of that world and nothing else. Trained from nothing on pictures that are drawn from
a seed, by `storyloom train tiny`; `docs/training.md` has the commands and what was measured.

Licence: Apache-2.0, as the project.

";

/// The beginning of what was trained.
const TABLE: &str = "\
| stage | steps | loss at the end | minutes |
|---|---|---|---|
";

/// What is said of training that went on from a set.
const FURTHER: &str = "
Trained on from there (`storyloom train tiny --from`):

";

/// The beginning of the model card of OneStory.
const ONESTORY_CARD: &str = "\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
---

# storyloom-tiny, OneStory

A small model of the drawn world of storyloom that sees what matters of earlier shots (OneStory,
arXiv 2512.07802; not its authors' weights): a transformer of Wan 2.1 that takes pictures, and `onestory`,
the selector and the patchifiers beside it. Trained by `storyloom train onestory` from the transformer of the
set that takes memory pictures; text encoder, tokenizer and autoencoder are those of the set.
`docs/training.md` has the commands and what was measured.

Licence: Apache-2.0, as the project.

";

impl Run {
    /// The model card of OneStory: what was trained for how long.
    pub(super) fn onestory_card(&self) -> Result<String> {
        let mut card = format!("{ONESTORY_CARD}{TABLE}");
        self.write_rows(&mut card, &StageName::ONESTORY)?;
        Ok(card)
    }

    /// The model card: what was trained for how long.
    pub(super) fn card(&self) -> Result<String> {
        let mut card = match Origin::of(&self.folder)? {
            Some(origin) => origin.card + FURTHER + TABLE,
            None => format!("{CARD}{TABLE}"),
        };
        self.write_rows(&mut card, &StageName::of_set())?;
        Ok(card)
    }

    /// Writes a row for each of the `stages` that has begun, and the seed.
    fn write_rows(&self, card: &mut String, stages: &[StageName]) -> Result<()> {
        for &stage in stages {
            let points = curve::read(&self.files(stage)?.curve())?;
            if let Some(last) = points.last() {
                let Point {
                    step,
                    loss,
                    seconds,
                    ..
                } = last;
                let minutes = seconds / 60.0;
                // Writing to a text cannot fail.
                let _ = writeln!(
                    card,
                    "| {} | {step} | {loss:.4} | {minutes:.0} |",
                    stage.name()
                );
            }
        }
        let _ = writeln!(card, "\nSeed {}.", self.seed);
        Ok(())
    }
}

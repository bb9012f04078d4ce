//! What a story remembers, as a shot of OneStory sees it, and what it chose, as a picture.

use storyloom_nn::error::{ModelError, Result};
use storyloom_story::onestory::{Choice, History, Kernel};
use storyloom_story::{Clip, HostTensor, MemoryFrame, RgbImage, ShotInputs, StoredArray};

/// The memory of a shot: reference images, which are pictures, or a ready-made first shot, and then the latents of
/// each earlier shot.
pub(super) fn history(inputs: &ShotInputs) -> Result<History> {
    let is_first_shot = |item: &MemoryFrame| item.arrays.contains_key(MemoryFrame::FIRST_SHOT);
    let references = inputs.memory.iter();
    let references = references
        .take_while(|item| item.image.is_some() || is_first_shot(item))
        .count();
    let first_shot = inputs.memory.iter().position(is_first_shot);
    let shots = inputs.memory[references..].iter();
    let shots = shots
        .map(|item| Ok(shape(item)?[1]))
        .collect::<Result<_>>()?;
    Ok(History {
        references,
        first_shot,
        shots,
    })
}

/// Channels, frames, rows and columns of the latents of a shot. Reads none of their values.
pub(super) fn shape(item: &MemoryFrame) -> Result<[usize; 4]> {
    let shape = latents(item)?.shape();
    <[usize; 4]>::try_from(shape).map_err(|_| {
        let reason = format!("its latents are {shape:?}, not [channels, frames, rows, columns]");
        of_item(item, reason)
    })
}

/// The latents of a shot.
pub(super) fn latents(item: &MemoryFrame) -> Result<&StoredArray> {
    let latents = item.arrays.get(MemoryFrame::LATENTS);
    latents.ok_or_else(|| of_item(item, "it has no latents".to_owned()))
}

/// The latents of a ready-made first shot, which must have the shape of those that are sampled.
pub(super) fn first_shot(item: &MemoryFrame, wanted: [usize; 4]) -> Result<HostTensor> {
    let latents = item.arrays.get(MemoryFrame::FIRST_SHOT);
    let latents = latents.ok_or_else(|| of_item(item, "it is no ready-made shot".to_owned()))?;
    if latents.shape() != wanted {
        let reason = format!(
            "the latents of the ready-made first shot are {:?}, and those of the shot {wanted:?}",
            latents.shape()
        );
        return Err(of_item(item, reason));
    }
    Ok(latents.read()?.as_ref().clone())
}

/// Something is wrong with an item of the memory.
pub(super) fn of_item(item: &MemoryFrame, reason: String) -> ModelError {
    ModelError::input(format!("the item {} of the memory", item.hash), reason)
}

/// The first frame of a story, for its first shot.
pub(super) fn first_image<'a>(
    inputs: &'a ShotInputs,
    history: &History,
) -> Result<Option<&'a RgbImage>> {
    if history.references > 1 {
        let reason = format!(
            "there are {}, and a story of OneStory begins with one image at most: give the others to \
             stories of their own, or use method = \"storymem\"",
            history.references
        );
        return Err(ModelError::input("reference images", reason));
    }
    let is_first = history.shots.is_empty();
    let reference = inputs.memory.first().filter(|_| is_first);
    Ok(reference.and_then(|item| item.image.as_ref()))
}

/// Side of a cell in pixels, the line behind it included.
const CELL: usize = 12;

/// How bright a frame is that is not seen, and the frames of each kernel.
const UNSEEN: u8 = 40;

fn brightness(kernel: Kernel) -> u8 {
    match kernel {
        Kernel::P2 => 255,
        Kernel::P4 => 210,
        Kernel::P8 => 160,
        Kernel::P16 => 110,
    }
}

/// The history as a picture: a row of cells for each shot, a cell for each latent frame, brighter where it is
/// seen more finely. Without history it is one black cell.
fn draw(history: &History, choice: &Choice) -> Result<RgbImage> {
    let columns = history.shots.iter().copied().max().unwrap_or(0).max(1);
    let (width, height) = (columns * CELL, history.shots.len().max(1) * CELL);
    let mut data = vec![0; width * height * 3];
    let mut fill = |shot: usize, frame: usize, value: u8| {
        for row in shot * CELL..(shot + 1) * CELL - 1 {
            let from = (row * width + frame * CELL) * 3;
            data[from..from + (CELL - 1) * 3].fill(value);
        }
    };
    for (shot, &frames) in history.shots.iter().enumerate() {
        (0..frames).for_each(|frame| fill(shot, frame, UNSEEN));
    }
    for seen in &choice.frames {
        fill(seen.shot, seen.frame, brightness(seen.kernel));
    }
    RgbImage::new(width as u32, height as u32, data)
        .map_err(|error| ModelError::input("picture of the history", error.to_string()))
}

/// [`draw`] as the only frame of a clip.
pub(super) fn draw_clip(history: &History, choice: &Choice) -> Result<Clip> {
    Clip::new(vec![draw(history, choice)?])
        .ok_or_else(|| ModelError::input("scores", "there is no picture"))
}

#[cfg(test)]
mod tests {
    use storyloom_story::onestory::{Budget, Counts, scores_table};

    use super::*;

    #[test]
    fn a_ready_made_first_shot_is_no_history() {
        use storyloom_story::{Method, Opening, Seed, ShotId, ShotRequest, StoryId, VideoSpec};

        let item = |name: &str, values: f32| {
            let latents = HostTensor::new(vec![1, 2, 1, 1], vec![values; 2]).unwrap();
            MemoryFrame {
                hash: "x".to_owned(),
                image: None,
                arrays: [(name.to_owned(), StoredArray::from(latents))].into(),
            }
        };
        let request = ShotRequest {
            story: StoryId::new("s").unwrap(),
            shot: ShotId { scene: 1, shot: 1 },
            attempt: 0,
            seed: Seed(0),
            method: Method::OneStory,
            opening: Opening::Memory,
            prompt: "A cat.".to_owned(),
            related: Vec::new(),
            video: VideoSpec {
                width: 16,
                height: 16,
                frames: 5,
                fps: 16,
            },
        };
        let mut inputs = ShotInputs {
            request,
            memory: vec![item(MemoryFrame::FIRST_SHOT, 0.5)],
            previous_tail: Vec::new(),
        };
        let begun = history(&inputs).unwrap();
        assert_eq!((begun.ready_made(), begun.frames()), (Some(0), 0));
        assert!(first_image(&inputs, &begun).unwrap().is_none());
        let latents = first_shot(&inputs.memory[0], [1, 2, 1, 1]).unwrap();
        assert_eq!(latents.data(), [0.5, 0.5]);
        let other = first_shot(&inputs.memory[0], [1, 3, 1, 1])
            .unwrap_err()
            .to_string();
        assert!(
            other.contains("[1, 2, 1, 1], and those of the shot [1, 3, 1, 1]"),
            "{other}"
        );
        inputs.memory.push(item(MemoryFrame::LATENTS, 0.5));
        let later = history(&inputs).unwrap();
        assert_eq!((later.ready_made(), later.references), (None, 1));
        assert_eq!(later.shots, [2]);
    }

    #[test]
    fn what_is_seen_more_finely_is_brighter() {
        let history = History {
            references: 0,
            first_shot: None,
            shots: vec![2, 3],
        };
        let budget = Budget {
            units: 1,
            counts: Some(Counts([0, 1, 1, 0])),
        };
        let scores = scores_table(vec![0.0, 0.9, 0.1, 0.0, 0.5]);
        let choice = history.choose(&scores, budget, [8, 12]).unwrap();
        let picture = draw(&history, &choice).unwrap();
        assert_eq!((picture.width(), picture.height()), (36, 24));
        let at = |shot: usize, frame: usize| {
            let (row, column) = (shot * CELL + 3, frame * CELL + 3);
            picture.data()[(row * 36 + column) * 3]
        };
        assert_eq!([at(0, 0), at(0, 1), at(0, 2)], [UNSEEN, 210, 0]);
        assert_eq!([at(1, 0), at(1, 1), at(1, 2)], [UNSEEN, UNSEEN, 160]);
        let nothing = draw(&History::default(), &Choice::default()).unwrap();
        assert!(nothing.data().iter().all(|&value| value == 0));
    }
}

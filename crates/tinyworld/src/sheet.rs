//! Contact sheets of drawn stories.

use image::RgbImage;
use storyloom_story as story;

use super::story::Story;

/// Pixels between pictures.
const GAP: u32 = 3;

/// The moment of a shot that is shown.
const MOMENT: f32 = 0.3;

/// One row per story, one picture of `width` x `height` per shot; `None` if there is nothing to
/// draw.
pub fn sheet(stories: &[Story], width: u32, height: u32) -> Option<RgbImage> {
    let row = |story: &Story| {
        let shots = story.shots.iter();
        shots
            .map(|shot| shot.scene.render_at(MOMENT, width, height))
            .collect()
    };
    let rows: Option<Vec<Vec<story::RgbImage>>> = stories.iter().map(row).collect();
    grid(&rows?)
}

/// Rows of pictures of one size; `None` if there is none or if sizes differ.
pub fn grid(rows: &[Vec<story::RgbImage>]) -> Option<RgbImage> {
    let first = rows.first()?.first()?;
    let (width, height) = (first.width(), first.height());
    let columns = rows.iter().map(Vec::len).max()? as u32;
    let size = (columns * (width + GAP), rows.len() as u32 * (height + GAP));
    let white = image::Rgb([255; 3]);
    let mut sheet = RgbImage::from_pixel(size.0 - GAP, size.1 - GAP, white);
    for (row, pictures) in (0..).zip(rows) {
        for (column, picture) in (0..).zip(pictures) {
            if (picture.width(), picture.height()) != (width, height) {
                return None;
            }
            let picture = RgbImage::from_raw(width, height, picture.data().to_vec())?;
            let (x, y) = (column * (width + GAP), row * (height + GAP));
            image::imageops::replace(&mut sheet, &picture, i64::from(x), i64::from(y));
        }
    }
    Some(sheet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Split;

    #[test]
    fn a_sheet_has_a_row_for_each_story() {
        let stories: Vec<Story> = (0..3).map(|seed| Story::draw(seed, Split::Train)).collect();
        let sheet = sheet(&stories, 40, 24).unwrap();
        assert_eq!((sheet.width(), sheet.height()), (8 * 43 - 3, 3 * 27 - 3));
        assert_eq!(sheet.get_pixel(41, 5).0, [255; 3]);
        let first = stories[1].shots[2].scene.render_at(MOMENT, 40, 24).unwrap();
        assert_eq!(sheet.get_pixel(86, 27).0, first.data()[..3]);
    }
}

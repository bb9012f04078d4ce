//! Draws a contact sheet: `cargo run --example sheet -- OUT.png [stories|products|characters|places] [SEED]`.

use std::error::Error;

use storyloom_training::world::{Sample, Split, Story};

const SIZE: (u32, u32) = (160, 96);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let out = arguments.first().ok_or("give the file to write")?;
    let what = arguments.get(1).map_or("stories", String::as_str);
    let seed: u64 = arguments.get(2).map_or(Ok(0), |seed| seed.parse())?;
    let scenes: Vec<_> = match what {
        "stories" => (seed..seed + 8)
            .flat_map(|seed| Story::draw(seed, Split::Train).shots)
            .map(|shot| shot.scene)
            .collect(),
        "motion" => (seed..seed + 8)
            .flat_map(|index| [Sample::draw(1, index, Split::Train).scene; 8])
            .collect(),
        _ => (seed * 64..seed * 64 + 64)
            .map(|index| Sample::draw(0, index, Split::Train).scene)
            .collect(),
    };
    let mut sheet = image::RgbImage::new(SIZE.0 * 8, SIZE.1 * 8);
    for (cell, scene) in (0..).zip(&scenes) {
        let moment = if what == "motion" {
            (cell % 8) as f32 / 7.0
        } else {
            0.3
        };
        let picture = scene.render_at(moment, SIZE.0, SIZE.1).ok_or("no size")?;
        let picture = image::RgbImage::from_raw(SIZE.0, SIZE.1, picture.data().to_vec())
            .ok_or("a picture of another size")?;
        let (x, y) = (i64::from(cell % 8 * SIZE.0), i64::from(cell / 8 * SIZE.1));
        image::imageops::replace(&mut sheet, &picture, x, y);
    }
    sheet.save(out)?;
    if what == "stories" {
        for shot in Story::draw(seed, Split::Train).shots {
            println!(
                "{} {}",
                if shot.cut { "cut " } else { "on  " },
                shot.caption
            );
        }
    }
    Ok(())
}

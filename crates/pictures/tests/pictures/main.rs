//! Pictures of every kind that is read, made here so that the right pixels are known.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod files;

use files::{
    DISPLAY_P3, INKS, Tiff, exif, jpeg, jpeg_segment, png, png_chunk, quarters, saved, tiff,
    webp_turned, with_chunk,
};
use image::{DynamicImage, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba};
use proptest::prelude::*;
use storyloom_pictures::{Limits, PictureProblem, fitted, read};
use storyloom_story::{Fit, Ground, Resolution};

const RED: [u8; 3] = [200, 30, 60];
const GREEN: [u8; 3] = [30, 140, 70];

fn decoded(bytes: &[u8]) -> RgbImage {
    read(bytes, &Limits::default(), Ground::WHITE).unwrap()
}

#[track_caller]
fn near(picture: &RgbImage, (x, y): (u32, u32), wanted: [u8; 3], levels: u8) {
    let found = picture.get_pixel(x, y).0;
    let off = found.iter().zip(wanted).map(|(a, b)| a.abs_diff(b)).max();
    assert!(off.unwrap() <= levels, "{found:?} and not {wanted:?}");
}

/// The four corners of a picture, from the upper left with the clock.
fn corners(picture: &RgbImage) -> [[u8; 3]; 4] {
    let (right, below) = (picture.width() - 4, picture.height() - 4);
    [(3, 3), (right, 3), (right, below), (3, below)].map(|(x, y)| picture.get_pixel(x, y).0)
}

/// The names of the corners of [`quarters`], from the upper left with the clock.
fn letters(picture: &RgbImage) -> String {
    let name = |[red, green, blue]: [u8; 3]| match (red > 128, green > 128, blue > 128) {
        (true, false, false) => 'R',
        (false, true, false) => 'G',
        (false, false, true) => 'B',
        _ => 'W',
    };
    corners(picture).map(name).iter().collect()
}

#[test]
fn a_camera_may_be_held_in_any_way() {
    // How the stored corners red, green, blue and white are to be seen.
    let seen = [
        "RGBW", "GRWB", "BWRG", "WBGR", "RWBG", "WRGB", "BGRW", "GBWR",
    ];
    for (number, wanted) in (1..).zip(seen) {
        let stored = quarters(48, 32);
        let size = if number < 5 { (48, 32) } else { (32, 48) };
        let files = [
            jpeg_segment(
                &jpeg(&stored),
                0xE1,
                &[b"Exif\0\0", &*exif(number)].concat(),
            ),
            with_chunk(
                &png(&DynamicImage::ImageRgb8(stored.clone())),
                b"eXIf",
                &exif(number),
            ),
            webp_turned(&stored, number),
            tiff(&stored).with(274, &[number]).file(),
        ];
        for file in files {
            let picture = decoded(&file);
            assert_eq!(letters(&picture), wanted, "orientation {number}");
            assert_eq!(picture.dimensions(), size, "orientation {number}");
        }
    }
    // A number that no camera writes, and a block of nonsense.
    let stored = quarters(48, 32);
    for block in [exif(9), b"nonsense".to_vec()] {
        let file = with_chunk(
            &png(&DynamicImage::ImageRgb8(stored.clone())),
            b"eXIf",
            &block,
        );
        assert_eq!(letters(&decoded(&file)), "RGBW");
    }
}

#[test]
fn what_is_transparent_shows_the_ground_and_nothing_that_hides() {
    let [red, green, blue] = RED;
    let mut rgba = image::RgbaImage::from_pixel(32, 32, Rgba([0, 255, 0, 0]));
    rgba.put_pixel(8, 8, Rgba([red, green, blue, 255]));
    rgba.put_pixel(9, 8, Rgba([red, green, blue, 128]));
    let grey = image::GrayAlphaImage::from_pixel(32, 32, LumaA([0, 0]));
    let deep = image::ImageBuffer::from_pixel(32, 32, Rgba([0_u16, 65_535, 0, 0]));
    let cut_outs = [
        saved(&DynamicImage::ImageRgba8(rgba.clone()), ImageFormat::Png),
        saved(&DynamicImage::ImageRgba8(rgba), ImageFormat::WebP),
        saved(&DynamicImage::ImageLumaA8(grey), ImageFormat::Png),
        saved(&DynamicImage::ImageRgba16(deep), ImageFormat::Png),
    ];
    for file in &cut_outs {
        near(&decoded(file), (20, 20), [255; 3], 0);
        let sand = "#f4e8d0".parse().unwrap();
        let picture = read(file, &Limits::default(), sand).unwrap();
        near(&picture, (20, 20), [0xf4, 0xe8, 0xd0], 0);
    }
    let picture = decoded(&cut_outs[0]);
    near(&picture, (8, 8), RED, 0);
    near(&picture, (9, 8), [227, 142, 157], 1);
}

#[test]
fn tiff_says_what_its_transparency_means() {
    let [red, green, blue] = RED;
    let half = RED.map(|level| (u16::from(level) * 128 / 255) as u8);
    let straight = [red, green, blue, 128].repeat(16 * 16);
    let multiplied = [half[0], half[1], half[2], 128].repeat(16 * 16);
    let grey = [90, 128].repeat(16 * 16);
    let deep: Vec<u8> = straight.iter().flat_map(|&level| [level, level]).collect();
    let size = (16, 16);
    let mut words = Tiff::new(size, 4, 2, &deep).with(338, &[2]);
    words.bits = 16;
    let seen = [227, 142, 157];
    for (file, wanted) in [
        (Tiff::new(size, 4, 2, &straight).with(338, &[2]), seen),
        (Tiff::new(size, 4, 2, &multiplied).with(338, &[1]), seen),
        (words, seen),
        (Tiff::new(size, 2, 1, &grey).with(338, &[2]), [172; 3]),
    ] {
        near(&decoded(&file.file()), (8, 8), wanted, 1);
    }
}

#[test]
fn tiff_has_palettes_and_planes() {
    let size = (16, 16);
    let indices = [0_u8, 1].repeat(8 * 16);
    let mut palette = vec![0; 3 * 256];
    for (channel, level) in RED.into_iter().enumerate() {
        palette[channel * 256 + 1] = u16::from(level) * 257;
    }
    let file = Tiff::new(size, 1, 3, &indices).with(320, &palette).file();
    let picture = decoded(&file);
    near(&picture, (4, 4), [0; 3], 0);
    near(&picture, (5, 4), RED, 0);
    let short = Tiff::new(size, 1, 3, &indices)
        .with(320, &palette[..60])
        .file();
    assert!(read(&short, &Limits::default(), Ground::WHITE).is_err());
    let planes: Vec<u8> = RED.into_iter().flat_map(|level| [level; 256]).collect();
    let file = Tiff::new(size, 3, 2, &planes).with(284, &[2]).file();
    near(&decoded(&file), (9, 3), RED, 0);
    let white_is_zero = Tiff::new(size, 1, 0, &[255 - 90; 256]).file();
    near(&decoded(&white_is_zero), (9, 3), [90; 3], 0);
}

#[test]
fn a_palette_with_a_clear_colour_is_a_cut_out() {
    let indices = [vec![0_u8; 16 * 8], vec![1_u8; 16 * 8]].concat();
    let palette = [[0, 255, 0], RED].concat();
    let file = files::raw_png(
        16,
        16,
        (8, 3),
        &indices,
        &[(b"PLTE", &palette), (b"tRNS", &[0])],
    );
    let picture = decoded(&file);
    near(&picture, (3, 3), [255; 3], 0);
    near(&picture, (3, 12), RED, 0);
}

#[test]
fn deep_and_grey_pictures_keep_their_levels() {
    let deep = image::ImageBuffer::from_pixel(20, 20, Rgb([200_u16 * 257, 30 * 257, 60 * 257]));
    let deep = DynamicImage::ImageRgb16(deep);
    near(&decoded(&png(&deep)), (5, 5), RED, 0);
    let grey = image::GrayImage::from_pixel(20, 20, Luma([90]));
    near(
        &decoded(&png(&DynamicImage::ImageLuma8(grey))),
        (5, 5),
        [90; 3],
        0,
    );
}

#[test]
fn colours_of_a_wide_gamut_become_those_of_srgb() {
    // The same colours in Display P3, by the matrices of both spaces.
    for (stored, wanted) in [
        ([185, 50, 64], RED),
        ([68, 138, 77], GREEN),
        ([234, 51, 35], [255, 0, 0]),
    ] {
        let picture = RgbImage::from_pixel(24, 24, Rgb(stored));
        let plain = png(&DynamicImage::ImageRgb8(picture.clone()));
        let profile = files::compressed_profile(DISPLAY_P3);
        near(
            &decoded(&with_chunk(&plain, b"iCCP", &profile)),
            (9, 9),
            wanted,
            3,
        );
        let segment = [b"ICC_PROFILE\0\x01\x01", DISPLAY_P3].concat();
        near(
            &decoded(&jpeg_segment(&jpeg(&picture), 0xE2, &segment)),
            (9, 9),
            wanted,
            3,
        );
        near(&decoded(&plain), (9, 9), stored, 0);
        // A damaged profile is as none.
        let broken = files::compressed_profile(&DISPLAY_P3[..60]);
        near(
            &decoded(&with_chunk(&plain, b"iCCP", &broken)),
            (9, 9),
            stored,
            0,
        );
    }
}

/// Other ways to say which colours a picture has.
#[test]
fn colours_are_told_by_numbers_as_well() {
    let stored = [234, 51, 35];
    let plain = png(&DynamicImage::ImageRgb8(RgbImage::from_pixel(
        24,
        24,
        Rgb(stored),
    )));
    let numbers = |values: &[u32]| -> Vec<u8> {
        let bytes = values.iter().map(|value| value.to_be_bytes());
        bytes.flatten().collect()
    };
    let corners = [
        31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000,
    ];
    let usual = numbers(&[45_455]);
    let p3 = with_chunk(&plain, b"cHRM", &numbers(&corners));
    let srgb = with_chunk(&p3, b"sRGB", &[0]);
    // Levels in proportion to light.
    let linear = png(&DynamicImage::ImageRgb8(RgbImage::from_pixel(
        24,
        24,
        Rgb([55; 3]),
    )));
    for (file, wanted) in [
        (with_chunk(&plain, b"cICP", &[12, 13, 0, 1]), [255, 0, 0]),
        (with_chunk(&p3, b"gAMA", &usual), [255, 0, 0]),
        (with_chunk(&plain, b"gAMA", &usual), stored),
        (srgb, stored),
        (with_chunk(&linear, b"gAMA", &numbers(&[100_000])), [128; 3]),
        (with_chunk(&plain, b"cICP", &[1, 13, 0, 1]), stored),
    ] {
        near(&decoded(&file), (9, 9), wanted, 3);
    }
    // The same in AVIF: the container calls its primaries those of Display P3.
    let mut avif = include_bytes!("cut-out.avif").to_vec();
    let place = avif.windows(4).position(|four| four == b"nclx").unwrap();
    avif[place + 5] = 12;
    near(&decoded(&avif), (16, 16), [218, 0, 54], 6);
}

#[test]
fn grey_follows_a_profile_of_colours() {
    let grey = image::GrayImage::from_pixel(24, 24, Luma([90]));
    let plain = png(&DynamicImage::ImageLuma8(grey));
    let profile = files::compressed_profile(DISPLAY_P3);
    near(
        &decoded(&with_chunk(&plain, b"iCCP", &profile)),
        (9, 9),
        [90; 3],
        1,
    );
}

/// Between the samples of halved chroma it is their mean by distance, up to the last column: the levels
/// are those of libjpeg-turbo.
#[test]
fn the_last_columns_of_a_jpeg_are_those_of_others() {
    let picture = decoded(include_bytes!("edge.jpg"));
    let wanted = [
        [200, 40, 40],
        [182, 45, 65],
        [147, 53, 115],
        [94, 46, 146],
        [58, 55, 194],
        [41, 61, 218],
    ];
    for (x, wanted) in (94..).zip(wanted) {
        near(&picture, (x, 5), wanted, 3);
    }
}

#[test]
fn inks_are_taken_away_from_white() {
    let [red, green, blue] = RED.map(|level| 255 - level);
    let size = (16, 16);
    let pixels = [red, green, blue, 0].repeat(256);
    near(
        &decoded(&Tiff::new(size, 4, 5, &pixels).file()),
        (4, 4),
        RED,
        2,
    );
    let planes: Vec<u8> = [red, green, blue, 0]
        .into_iter()
        .flat_map(|ink| [ink; 256])
        .collect();
    let file = Tiff::new(size, 4, 5, &planes).with(284, &[2]).file();
    near(&decoded(&file), (4, 4), RED, 2);
    let file = include_bytes!("cmyk.jpg");
    near(&decoded(file), (8, 8), RED, 3);
    // With a profile they are the inks of a printer. The levels are those of LittleCMS.
    let segment = [b"ICC_PROFILE\0\x01\x01", INKS].concat();
    near(
        &decoded(&jpeg_segment(file, 0xE2, &segment)),
        (8, 8),
        [164, 52, 43],
        6,
    );
}

#[test]
fn avif_is_read_with_its_transparency() {
    // Made by libavif: a red square on clear cyan, 32 x 32; see files.rs.
    let picture = decoded(include_bytes!("cut-out.avif"));
    assert_eq!(picture.dimensions(), (32, 32));
    near(&picture, (2, 2), [255; 3], 3);
    near(&picture, (16, 16), RED, 3);
    let turned = decoded(include_bytes!("turned.avif"));
    assert_eq!(
        letters(&turned),
        letters(&quarters(48, 32)),
        "irot and imir"
    );
    assert_eq!(turned.dimensions(), (48, 32));
}

#[test]
fn an_avif_picture_in_a_grid_is_refused() {
    let problem = read(
        include_bytes!("grid.avif"),
        &Limits::default(),
        Ground::WHITE,
    )
    .unwrap_err();
    assert_eq!(
        problem.to_string(),
        "it is an AVIF picture in a grid of tiles, which is not read; save it as a plain PNG or JPEG"
    );
}

#[test]
fn what_is_cut_off_is_refused_in_every_format() {
    let picture = DynamicImage::ImageRgb8(RgbImage::from_fn(64, 64, |x, y| {
        Rgb([
            (x * 7 % 251) as u8,
            (y * 13 % 241) as u8,
            (x * y % 239) as u8,
        ])
    }));
    let mut whole: Vec<Vec<u8>> = [ImageFormat::Png, ImageFormat::WebP]
        .map(|format| saved(&picture, format))
        .to_vec();
    whole.push(tiff(&picture.to_rgb8()).file());
    whole.push(jpeg(&picture.to_rgb8()));
    // With a preview inside, which has an end of its own.
    let preview = [b"Exif\0\0".to_vec(), jpeg(&quarters(16, 16))].concat();
    whole.push(jpeg_segment(&jpeg(&picture.to_rgb8()), 0xE1, &preview));
    whole.push(include_bytes!("cut-out.avif").to_vec());
    for file in whole {
        assert!(read(&file, &Limits::default(), Ground::WHITE).is_ok());
        for share in [1, 3, 6, 9] {
            let cut = &file[..file.len() * share / 10];
            let problem = read(cut, &Limits::default(), Ground::WHITE);
            assert!(problem.is_err(), "{share} tenths of {:?}", &file[..12]);
        }
    }
}

#[test]
fn what_is_no_picture_is_told_by_what_it_is() {
    let html = b"<!DOCTYPE html><html><body>Not found</body></html>";
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n";
    for (bytes, wanted) in [
        (&html[..], "a page (HTML)"),
        (b"  <svg xmlns=\"\"/>", "SVG"),
        (pointer, "Git LFS"),
        (b"GIF89a\x01\0\x01\0", "GIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"words", "no format that is known"),
        (b"", "no format that is known"),
    ] {
        let error = read(bytes, &Limits::default(), Ground::WHITE).unwrap_err();
        assert!(matches!(error, PictureProblem::Format { .. }));
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn shapes_that_no_film_can_have_are_refused() {
    let long = png(&DynamicImage::ImageRgb8(RgbImage::new(16 * 9, 16)));
    let error = read(&long, &Limits::default(), Ground::WHITE).unwrap_err();
    assert!(error.to_string().contains("144x16"), "{error}");
}

#[test]
fn the_end_of_a_png_is_found_behind_unknown_chunks() {
    let plain = png(&DynamicImage::ImageRgb8(quarters(48, 32)));
    let file = with_chunk(&plain, b"prVt", b"IEND is not here");
    assert_eq!(letters(&decoded(&file)), "RGBW");
    assert!(png_chunk(b"IEND", b"").len() == 12);
}

/// Width and height of the disc in a picture, in pixels: by its second moments, so that the
/// smoothness of its edge counts.
fn extent(picture: &RgbImage) -> (f64, f64) {
    let weight = |level: u8| f64::from(255 - level) / 255.0;
    let mut sums = [0.0; 5];
    for (x, y, pixel) in picture.enumerate_pixels() {
        let (x, y, w) = (f64::from(x), f64::from(y), weight(pixel.0[1]));
        for (sum, value) in sums.iter_mut().zip([1.0, x, y, x * x, y * y]) {
            *sum += w * value;
        }
    }
    let [all, x, y, xx, yy] = sums;
    let spread = |square: f64, mean: f64| (square / all - (mean / all).powi(2)).sqrt() * 4.0;
    (spread(xx, x), spread(yy, y))
}

fn disc(width: u32, height: u32) -> RgbImage {
    let (middle_x, middle_y) = (f64::from(width) / 2.0, f64::from(height) / 2.0);
    let radius = 0.3 * f64::from(width.min(height));
    RgbImage::from_fn(width, height, |x, y| {
        let (dx, dy) = (f64::from(x) + 0.5 - middle_x, f64::from(y) + 0.5 - middle_y);
        let outside = ((dx * dx + dy * dy).sqrt() - radius + 0.5).clamp(0.0, 1.0);
        Rgb([255, (outside * 255.0) as u8, (outside * 255.0) as u8])
    })
}

#[test]
fn a_disc_stays_a_disc_unless_somebody_asks_for_another_aspect() {
    for photo in [(480, 480), (640, 480), (300, 400), (1200, 500)] {
        let photo = disc(photo.0, photo.1);
        for (width, height) in [(192, 96), (96, 192), (160, 96), (128, 128), (832, 480)] {
            let size = Resolution { width, height };
            for fit in [Fit::Pad, Fit::Crop] {
                let film = fitted(&photo, size, fit, Ground::WHITE);
                assert_eq!(film.dimensions(), (width, height));
                let (wide, high) = extent(&film);
                // A wide photo cut for a tall film may lose a part of the disc.
                let whole = fit == Fit::Pad || photo.width() * height == photo.height() * width;
                let aspect = wide / high;
                assert!(
                    !whole || (aspect - 1.0).abs() < 0.02,
                    "{aspect} at {width}x{height}"
                );
            }
            let stretched = extent(&fitted(&photo, size, Fit::Stretch, Ground::WHITE));
            let asked = f64::from(width * photo.height()) / f64::from(height * photo.width());
            assert!((stretched.0 / stretched.1 / asked - 1.0).abs() < 0.02);
        }
    }
}

#[test]
fn a_crop_keeps_the_aspect_of_what_stays() {
    let photo = disc(400, 400);
    let size = Resolution {
        width: 160,
        height: 96,
    };
    let (wide, high) = extent(&fitted(&photo, size, Fit::Crop, Ground::WHITE));
    // 0.6 of 400 pixels, and the film's 160 pixels show all 400.
    assert!((wide - 96.0).abs() < 3.0, "{wide} wide, {high} high");
}

#[test]
fn bars_have_the_colour_of_the_ground() {
    let photo = RgbImage::from_pixel(100, 100, Rgb(RED));
    let size = Resolution {
        width: 160,
        height: 96,
    };
    let ground = "#102030".parse().unwrap();
    let film = fitted(&photo, size, Fit::Pad, ground);
    near(&film, (2, 48), [16, 32, 48], 0);
    near(&film, (157, 48), [16, 32, 48], 0);
    near(&film, (80, 48), RED, 0);
}

#[test]
fn fine_stripes_become_grey_when_they_are_made_small() {
    let stripes = RgbImage::from_fn(1440, 960, |x, _| {
        Rgb([if (2 * x / 11) % 2 == 1 { 0 } else { 255 }; 3])
    });
    let size = Resolution {
        width: 144,
        height: 96,
    };
    let film = fitted(&stripes, size, Fit::Pad, Ground::WHITE);
    let inner = film
        .enumerate_pixels()
        .filter(|(x, _, _)| (4..140).contains(x));
    let levels: Vec<u8> = inner.map(|(_, _, pixel)| pixel.0[0]).collect();
    let (least, most) = (levels.iter().min().unwrap(), levels.iter().max().unwrap());
    assert!(most - least < 70, "{least} to {most}");
}

proptest! {
    /// No bytes make the reader panic or answer with a picture beyond its bounds.
    #[test]
    fn any_bytes_are_refused_or_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), head in 0..6_usize) {
        let heads: [&[u8]; 6] = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"II*\0", b"\0\0\0\x18ftypavif"];
        bytes.splice(0..0, heads[head].iter().copied());
        if let Ok(picture) = read(&bytes, &Limits::default(), Ground::WHITE) {
            prop_assert!(Limits::default().check(picture.dimensions()).is_ok());
        }
    }

    /// A film has the size that was asked for, whatever the photo's.
    #[test]
    fn every_photo_fits(photo in (16..300_u32, 16..300_u32), film in (1..20_u32, 1..20_u32), fit in 0..3_usize) {
        let photo = RgbImage::from_pixel(photo.0, photo.1, Rgb(GREEN));
        let size = Resolution { width: film.0 * 16, height: film.1 * 16 };
        let fitted = fitted(&photo, size, Fit::ALL[fit], Ground(GREEN));
        prop_assert_eq!(fitted.dimensions(), (size.width, size.height));
        prop_assert!(fitted.pixels().all(|pixel| pixel.0 == GREEN));
    }
}

//! Colours of videos: BT.709 with limited range, in the pixels and in what the file says of them.
//!
//! Players take a file that says nothing for BT.709 if it is large and for BT.601 if it is small, and
//! ffmpeg converts to BT.601 unless it is told otherwise. Builds before colours were told made such
//! files: BT.601 that says nothing.

/// Converts RGB to BT.709. Chroma is sampled at the left, as H.264 has it by default. The flags take
/// the exact way: the fast one is wrong by a few levels at edges.
pub(super) const FROM_RGB: &str = "scale=out_color_matrix=bt709:out_range=tv\
    :out_h_chr_pos=0:out_v_chr_pos=128\
    :flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp,\
    setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709";

/// Converts clips of earlier builds to BT.709.
pub(super) const FROM_UNTOLD: &str = "scale=in_color_matrix=bt601:in_range=tv\
    :out_color_matrix=bt709:out_range=tv\
    :flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp,\
    setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709";

/// Makes the encoder and the file say so. Versions before 7 take this from here, later ones from the
/// frames.
pub(super) const TAGS: [&str; 10] = [
    "-colorspace",
    "bt709",
    "-color_primaries",
    "bt709",
    "-color_trc",
    "bt709",
    "-color_range",
    "tv",
    "-chroma_sample_location",
    "left",
];

/// The box of an MP4 that describes the film; everything else of it is pictures or unimportant.
const MOVIE: &[u8; 4] = b"moov";
/// Bytes of a `stsd` box before the first entry.
const BEFORE_ENTRIES: usize = 8;
/// Bytes of the entry of a video before its boxes.
const BEFORE_BOXES_OF_VIDEO: usize = 78;
/// Primaries, transfer and matrix of BT.709 as numbers of ITU-T H.273, after the kind of the box.
const BT709: &[u8] = b"nclx\0\x01\0\x01\0\x01";

/// Whether an MP4 says that its colours are BT.709.
pub(super) fn are_told(file: &[u8]) -> bool {
    find(file, MOVIE).is_some_and(movie_tells)
}

fn movie_tells(movie: &[u8]) -> bool {
    let path: [&[u8; 4]; 5] = [b"trak", b"mdia", b"minf", b"stbl", b"stsd"];
    let entries = path.into_iter().try_fold(movie, find);
    let colours = entries
        .and_then(|entries| entries.get(BEFORE_ENTRIES..))
        .and_then(|entries| find(entries, b"avc1"))
        .and_then(|video| video.get(BEFORE_BOXES_OF_VIDEO..))
        .and_then(|boxes| find(boxes, b"colr"));
    colours.is_some_and(|colours| colours.starts_with(BT709))
}

/// The content of the first box called `name`.
fn find<'a>(mut boxes: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    loop {
        let (size, kind, start) = header(boxes)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(boxes.len());
        if kind == name {
            return boxes.get(start..size);
        }
        boxes = boxes.get(size..)?;
    }
}

/// Size, name and length of the header of the box that begins here.
fn header(bytes: &[u8]) -> Option<(u64, &[u8; 4], usize)> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let (size, start) = match u32::from_be_bytes(*size) {
        // To the end of the file.
        0 => (u64::MAX, 8),
        1 => (u64::from_be_bytes(*rest.first_chunk::<8>()?), 16),
        size => (u64::from(size), 8),
    };
    (size >= start as u64).then_some((size, kind, start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn boxed(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let size = u32::try_from(content.len() + 8).unwrap();
        [&size.to_be_bytes()[..], name, content].concat()
    }

    /// A film whose video has these boxes.
    fn film(boxes: &[u8]) -> Vec<u8> {
        let video = boxed(b"avc1", &[&[0; BEFORE_BOXES_OF_VIDEO], boxes].concat());
        let mut content = boxed(b"stsd", &[&[0; BEFORE_ENTRIES], &video[..]].concat());
        for name in [b"stbl", b"minf", b"mdia", b"trak", MOVIE] {
            content = boxed(name, &[boxed(b"free", b"..."), content].concat());
        }
        [boxed(b"ftyp", b"isom"), content].concat()
    }

    #[test]
    fn a_film_tells_its_colours_or_does_not() {
        let told = boxed(b"colr", &[BT709, &[0]].concat());
        let other = boxed(b"colr", b"nclx\0\x06\0\x06\0\x06\0");
        for (boxes, tells) in [(&told, true), (&other, false), (&Vec::new(), false)] {
            assert_eq!(are_told(&film(boxes)), tells);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!are_told(&bytes));
        }

        #[test]
        fn a_damaged_film_is_read_to_an_end(at in 0_usize..200, byte in any::<u8>()) {
            let mut film = film(&boxed(b"colr", BT709));
            let at = at % film.len();
            film[at] = byte;
            are_told(&film);
        }
    }
}

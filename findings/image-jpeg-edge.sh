#!/usr/bin/env bash
# The crate image lets colour from outside a JPEG picture into its last column.
#
# Versions: image 0.25.10 with zune-jpeg 0.5.15 (crates.io), beside Pillow 13.0.0 with its libjpeg-turbo
# (PyPI), numpy 2.4.6. Needs Rust and Python 3.11 or newer.
#
# Behaviour: JPEG codes whole blocks, so that a picture of 100 columns with 4:2:0 or 4:2:2 chroma is coded
# with 112. Here columns 0 to 99 are grey (128, 128, 128) and the 12 hidden ones green; such files come from
# lossless cropping. Pillow shows the last column in grey, within 3 levels. The crate image shows
# (89, 154, 90) there: a quarter of the chroma of the last column comes from the first hidden sample. This
# was seen at all even widths from 98 to 110, not at an odd width (101), nor where nothing is hidden (112),
# nor with 4:4:4. In a file as most encoders write it, where the hidden columns repeat the last one, a red
# line of one pixel at the right edge (see "line") differs by 18 levels.
#
# Expected: pixels outside the picture have no influence on those inside, and two decoders differ by a few
# levels of rounding. libjpeg repeats the last chroma sample that belongs to the picture.
#
# Why it matters: pictures decoded in Rust and in Python are not the same at the right edge, and whoever
# compares a port with its reference in Python looks for the fault in their own code. Crops have an edge in
# a colour that was cut off.
#
# Seen (the last pixel in row 20):
#   crop 100, 4:2:0: Pillow 126 128 125, image 89 154 90
#   crop 100, 4:2:2: Pillow 126 128 125, image 89 154 90
#   crop 100, 4:4:4: Pillow 128 128 128, image 128 128 128
#   crop 101, 4:2:0: Pillow 71 168 73, image 71 168 73
#   crop 104, 4:2:0: Pillow 128 128 126, image 90 155 91
#   line 100, 4:2:0: Pillow 130 30 28, image 148 23 21
#   line 112, 4:2:0: Pillow 132 29 30, image 132 29 30

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cat >write.py <<'PYTHON'
"""Writes the pictures: crops, whose width is less than what was coded, and a line at the right edge."""
import io
import struct

import numpy
from PIL import Image

CHROMA = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


def jpeg(pixels, chroma):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=95, subsampling=CHROMA[chroma])
    return bytearray(data.getvalue())


def crop(width, chroma):
    pixels = numpy.full((64, 112, 3), 128, "u1")
    pixels[:, width:] = (0, 255, 0)
    data = jpeg(pixels, chroma)
    frame = data.find(b"\xff\xc0")  # The header of the frame: length, precision, height, width.
    data[frame + 7 : frame + 9] = struct.pack(">H", width)
    return data


def line(width, chroma):
    pixels = numpy.full((64, width, 3), 230, "u1")
    pixels[:, -1] = (200, 0, 0)
    return jpeg(pixels, chroma)


KINDS = [(crop, 100, "4:2:0"), (crop, 100, "4:2:2"), (crop, 100, "4:4:4"), (crop, 101, "4:2:0")]
KINDS += [(crop, 104, "4:2:0"), (line, 100, "4:2:0"), (line, 112, "4:2:0")]
for place, (make, width, chroma) in enumerate(KINDS):
    with open(f"{place}.jpg", "wb") as file:
        file.write(make(width, chroma))
    with Image.open(f"{place}.jpg") as picture:
        red, green, blue = picture.convert("RGB").getpixel((width - 1, 20))
    print(f"{make.__name__} {width}, {chroma}: Pillow {red} {green} {blue}")
PYTHON
python_with pillow==13.0.0 numpy==2.4.6
"$PYTHON" write.py >pillow.txt

cargo init --quiet --vcs none --name finding .
cat >>Cargo.toml <<'TOML'
image = { version = "=0.25.10", default-features = false, features = ["jpeg"] }
zune-jpeg = "=0.5.15"
TOML
cat >src/main.rs <<'RUST'
fn main() -> image::ImageResult<()> {
    for path in std::env::args().skip(1) {
        let picture = image::open(path)?.to_rgb8();
        let [red, green, blue] = picture.get_pixel(picture.width() - 1, 20).0;
        println!("image {red} {green} {blue}");
    }
    Ok(())
}
RUST
export CARGO_TARGET_DIR="$WORK/target"
cargo run --quiet -- ?.jpg >image.txt

paste -d, pillow.txt image.txt | sed 's/,image/, image/' | expect 'crop 100, 4:2:0: Pillow 126 128 125, image 89 154 90
crop 100, 4:2:2: Pillow 126 128 125, image 89 154 90
crop 100, 4:4:4: Pillow 128 128 128, image 128 128 128
crop 101, 4:2:0: Pillow 71 168 73, image 71 168 73
crop 104, 4:2:0: Pillow 128 128 126, image 90 155 91
line 100, 4:2:0: Pillow 130 30 28, image 148 23 21
line 112, 4:2:0: Pillow 132 29 30, image 132 29 30'

#!/usr/bin/env bash
# The crate image lets the colour of invisible pixels into visible ones when it resizes a picture.
#
# Versions: image 0.25.10 (crates.io), beside Pillow 13.0.0 (PyPI). Needs Rust and Python 3.11 or newer.
#
# Behaviour: a picture of 64x64 with an alpha channel is white on the left, and wholly transparent on the
# right, where the hidden colour is red. Made four times smaller with the filter Triangle (bilinear), its
# edge gets pixels of (255, 223, 223) and (255, 32, 32) that are visible at 223/255 and 32/255: a red seam.
# Pillow, with BILINEAR, gives white there, of the same transparency.
#
# Expected: a pixel that cannot be seen has no weight in a mean of colours. Colours are multiplied by alpha
# before and divided after, as Pillow, browsers and ImageMagick do. The documentation of resize says nothing
# of alpha.
#
# Why it matters: photos of products cut out of their ground keep the ground's colours under alpha 0. After a
# resize and a copy onto another ground they have a fringe in a colour that no viewer of the file has seen.
# Such pictures must be laid on their ground, or multiplied by alpha, before they are resized.
#
# Seen (pixels 7 and 8 of the middle row: red, green, blue, alpha):
#   Pillow: 255 255 255 223, 255 255 255 32
#   image:  255 223 223 223, 255 32 32 32

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

python_with pillow==13.0.0
cat >write.py <<'PYTHON'
from PIL import Image

picture = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
picture.paste((255, 255, 255, 255), (0, 0, 32, 64))
picture.save("picture.png")
small = picture.resize((16, 16), Image.Resampling.BILINEAR)
pixels = [" ".join(map(str, small.getpixel((x, 8)))) for x in (7, 8)]
print("Pillow:", ", ".join(pixels))
PYTHON

cargo init --quiet --vcs none --name finding .
echo 'image = { version = "=0.25.10", default-features = false, features = ["png"] }' >>Cargo.toml
cat >src/main.rs <<'RUST'
use image::imageops::FilterType;

fn main() -> image::ImageResult<()> {
    let picture = image::open("picture.png")?;
    let small = picture.resize_exact(16, 16, FilterType::Triangle).to_rgba8();
    let pixels = [7, 8].map(|x| small.get_pixel(x, 8).0.map(|value| value.to_string()).join(" "));
    println!("image:  {}", pixels.join(", "));
    Ok(())
}
RUST
export CARGO_TARGET_DIR="$WORK/target"
{
  "$PYTHON" write.py
  cargo run --quiet
} | expect 'Pillow: 255 255 255 223, 255 255 255 32
image:  255 223 223 223, 255 32 32 32'

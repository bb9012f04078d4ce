#!/usr/bin/env bash
# Pillow makes a grey picture of 16 bits white when it is converted to RGB.
#
# Version: Pillow 13.0.0, numpy 2.4.6 (PyPI). Needs Python 3.11 or newer.
#
# Behaviour: a PNG of 16 bits a pixel in one channel is opened in the mode "I;16". convert("RGB") and
# convert("L") do not scale its values from 0..65535 to 0..255; they cut them at 255. Of a ramp from black
# to white all but the black pixel becomes white. There is neither an error nor a warning.
#
# Expected: 65535 is white and becomes 255, half of it becomes 128 or 127, as with PNG of 16 bits in three
# channels, which Pillow scales while reading, and as other readers of PNG do it.
#
# Why it matters: convert("RGB") is how nearly every tool in Python takes in a picture (the loaders of
# diffusers, transformers and torchvision among them). Depth maps, masks and scans in grey are often of 16
# bits: the model sees a white sheet. Such pictures must be divided by 257 before.
#
# Seen (a ramp of six greys, and what convert makes of it; then the same ramp in three channels):
#   mode I;16
#   grey:  [0, 13107, 26214, 39321, 52428, 65535]
#   L:     [0, 255, 255, 255, 255, 255]
#   RGB:   [0, 255, 255, 255, 255, 255]
#   three: [0, 51, 102, 153, 204, 255]

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

python_with pillow==13.0.0 numpy==2.4.6
cat >ask.py <<'PYTHON'
import struct
import zlib

import numpy
from PIL import Image

RAMP = [0, 13107, 26214, 39321, 52428, 65535]


def png(path, kind, samples):
    """Writes one row of samples of 16 bits as a PNG of the kind 0 (grey) or 2 (red, green, blue)."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + struct.pack(f">{len(samples)}H", *samples)
    header = struct.pack(">IIBBBBB", len(RAMP), 1, 16, kind, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))
        file.write(chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b""))


def first_channel(picture):
    return numpy.asarray(picture).reshape(len(RAMP), -1)[:, 0].tolist()


png("grey.png", 0, RAMP)
png("three.png", 2, [value for value in RAMP for _ in range(3)])
grey = Image.open("grey.png")
print("mode", grey.mode)
print("grey: ", first_channel(grey))
print("L:    ", first_channel(grey.convert("L")))
print("RGB:  ", first_channel(grey.convert("RGB")))
print("three:", first_channel(Image.open("three.png").convert("RGB")))
PYTHON
"$PYTHON" -W error ask.py | expect 'mode I;16
grey:  [0, 13107, 26214, 39321, 52428, 65535]
L:     [0, 255, 255, 255, 255, 255]
RGB:   [0, 255, 255, 255, 255, 255]
three: [0, 51, 102, 153, 204, 255]'

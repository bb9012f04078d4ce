#!/usr/bin/env bash
# "Accurate rounding" makes ffmpeg convert films to RGB less accurately.
#
# Version: ffmpeg 9.0.2 (PyPI, imageio-ffmpeg 0.8.1), numpy 2.4.6. The ffmpeg 5.1.9 of Debian 12 does the
# same. Needs x86-64 Linux; the instructions that ffmpeg may use are named, so that processors do not differ.
#
# Behaviour: 2,000 flat pictures of random colours in yuv420p, BT.709, are converted to rgb24 and compared
# with the formula of BT.709. By default the result is darker by about one level on average and wrong by up
# to 2.9. With the flag accurate_rnd it is darker by about two levels and wrong by up to 3.3. Only with
# full_chroma_int beside it is it right, within the half level of rounding to 8 bits. The same colours in
# yuv444p are right without any flag.
#
# Expected: flat pictures have no chroma to interpolate, so that full_chroma_int ("full chroma
# interpolation") changes nothing; every way of converting is within a level, and one that is called accurate
# within half of one, without leaning to one side.
#
# Why it matters: `ffmpeg -pix_fmt rgb24` and libraries that call it so are how tests and data sets get
# pixels of films. All frames are a little too dark, and whoever adds accurate_rnd to mend that makes it
# worse.
#
# Seen (the mean error and the largest, in levels of 255):
#   yuv420p, default: -1.2, 2.9
#   yuv420p, accurate_rnd: -2.1, 3.3
#   yuv420p, accurate_rnd+full_chroma_int: 0.0, 0.5
#   yuv444p, default: 0.0, 0.5

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

python_with numpy==2.4.6
cat >ask.py <<'PYTHON'
import subprocess
import sys

import numpy

COUNT = 2000
RED, BLUE = 0.2126, 0.0722  # The weights of BT.709.


def coded():
    """Luma and the two chroma values, of 8 bits, of random colours."""
    red, green, blue = numpy.random.RandomState(1).randint(0, 256, (COUNT, 3)).T / 255
    luma = RED * red + (1 - RED - BLUE) * green + BLUE * blue
    values = [16 + 219 * luma]
    values += [128 + 112 * (blue - luma) / (1 - BLUE), 128 + 112 * (red - luma) / (1 - RED)]
    return numpy.rint(values).astype("u1")


def formula(values):
    luma, cb, cr = (values[0] - 16.0) / 219, (values[1] - 128.0) / 224, (values[2] - 128.0) / 224
    red, blue = luma + 2 * (1 - RED) * cr, luma + 2 * (1 - BLUE) * cb
    green = (luma - RED * red - BLUE * blue) / (1 - RED - BLUE)
    return numpy.clip(numpy.stack([red, green, blue], 1) * 255, 0, 255)


def ffmpeg(values, pixels, flags):
    """The pixel in the middle of pictures of 16x16, as ffmpeg converts them."""
    chroma = 8 if pixels == "yuv420p" else 16
    areas = [256, chroma**2, chroma**2]
    frames = b"".join(bytes([value]) * area for frame in values.T for value, area in zip(frame, areas))
    scale = f"scale=in_color_matrix=bt709:in_range=tv{flags and ':flags=' + flags},format=rgb24"
    command = [sys.argv[1], "-v", "error", "-cpuflags", "mmx+mmxext+sse+sse2+sse3+ssse3"]
    command += ["-f", "rawvideo", "-pix_fmt", pixels, "-video_size", "16x16", "-i", "-"]
    command += ["-vf", scale, "-f", "rawvideo", "-"]
    done = subprocess.run(command, input=frames, stdout=subprocess.PIPE, check=True)
    return numpy.frombuffer(done.stdout, "u1").reshape(COUNT, 16, 16, 3)[:, 8, 8]


values = coded()
ways = [("yuv420p", ""), ("yuv420p", "accurate_rnd"), ("yuv420p", "accurate_rnd+full_chroma_int"), ("yuv444p", "")]
for pixels, flags in ways:
    error = ffmpeg(values, pixels, flags) - formula(values)
    print(f"{pixels}, {flags or 'default'}: {error.mean() + 0.0:.1f}, {abs(error).max():.1f}")
PYTHON
"$PYTHON" ask.py "$(ffmpeg_of 0.8.1)" | expect 'yuv420p, default: -1.2, 2.9
yuv420p, accurate_rnd: -2.1, 3.3
yuv420p, accurate_rnd+full_chroma_int: 0.0, 0.5
yuv444p, default: 0.0, 0.5'

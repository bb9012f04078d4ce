#!/usr/bin/env bash
# Chromium without a GPU cannot show the blue of a BT.709 film.
#
# Versions: Chromium 153.0.8010.0 (npm, @sparticuz/chromium 153.0.0); films by ffmpeg 9.0.2 (PyPI,
# imageio-ffmpeg 0.8.1). Debian's Chromium 156.0.8078.108 shows the same. Needs x86-64 Linux, Node and npm.
#
# Behaviour: an H.264 film of the colour (0, 0, 255), with all of its colour tags set to BT.709, comes out
# of drawImage and getImageData as (1, 0, 243). The same colour as a BT.601 film is (0, 0, 253), and ffmpeg
# decodes the BT.709 film to (1, 0, 255).
#
# Expected: the colour within the rounding of 8 bits, about 2 levels, as in red and green and as with BT.601.
# The size of the error fits a factor for the blue chroma of 2.0, where BT.709 asks for 2.112: 2.0 is the
# largest that signed bytes of 64ths can hold, as the SIMD code of libyuv for x86 has them.
#
# Why it matters: whoever proves colours of films in a headless browser meets an error of 12 levels in
# saturated blue and looks for it in the file, where nothing is wrong. Such a proof must use other colours.
#
# Seen:
#   blue709.mp4: 1 0 243
#   blue601.mp4: 0 0 253
#   red709.mp4: 255 1 3
#   ffmpeg, blue709.mp4: 1 0 255

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

BT709=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv
BT601=color_primaries=smpte170m:color_trc=smpte170m:colorspace=smpte170m:range=tv

FFMPEG="$(ffmpeg_of 0.8.1)"
colour_film blue709.mp4 0x0000ff 160x96 bt709 "$BT709"
colour_film blue601.mp4 0x0000ff 160x96 bt601 "$BT601"
colour_film red709.mp4 0xff0000 160x96 bt709 "$BT709"

{
  shown_by_chromium blue709.mp4 blue601.mp4 red709.mp4
  printf 'ffmpeg, blue709.mp4: '
  "$FFMPEG" -v error -i blue709.mp4 -vf scale=flags=accurate_rnd+full_chroma_int -frames:v 1 \
    -pix_fmt rgb24 -f rawvideo - | tail -c 3 | od -An -tu1 | xargs
} | expect 'blue709.mp4: 1 0 243
blue601.mp4: 0 0 253
red709.mp4: 255 1 3
ffmpeg, blue709.mp4: 1 0 255'

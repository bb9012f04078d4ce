#!/usr/bin/env bash
# Chromium ignores the matrix that a film names when its primaries or transfer are not named as well, and
# takes one by the size of the picture.
#
# Versions: Chromium 153.0.8010.0 (npm, @sparticuz/chromium 153.0.0); films by ffmpeg 9.0.2 (PyPI,
# imageio-ffmpeg 0.8.1). Debian's Chromium 156.0.8078.108 shows the same. Needs x86-64 Linux, Node and npm.
#
# Behaviour: films of the colour (180, 40, 80), made with the matrix of BT.709. With all three tags (matrix,
# primaries, transfer) Chromium shows (180, 40, 78). Without the primaries, or without the transfer, or
# without both, it shows (168, 22, 78), what the matrix of BT.601 gives, although the film says that its
# matrix is BT.709. In 1280x720 the same film with the matrix alone is shown rightly, and there a film that
# names the matrix of BT.601 alone is shown with that of BT.709. ffmpeg decodes all of them rightly.
#
# Expected: the matrix alone says how to get from luma and chroma to red, green and blue; primaries and
# transfer are later steps. Where they are not named, they are guessed, and what is named stays.
#
# Why it matters: `-colorspace bt709` is the tag that most scripts set, and it is enough for ffmpeg. Small
# previews of such films then have colours that are 18 levels off in browsers, the full size has not.
# Films for browsers need all three tags.
#
# Seen:
#   all.mp4: 180 40 78
#   no-primaries.mp4: 168 22 78
#   no-transfer.mp4: 168 22 78
#   matrix-alone.mp4: 168 22 78
#   large-matrix-alone.mp4: 180 40 78
#   large-601-alone.mp4: 192 55 80
#   ffmpeg, matrix-alone.mp4: 180 40 79
#   ffmpeg, large-601-alone.mp4: 180 39 80

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

COLOUR=0xb42850
films() {
  colour_film all.mp4 $COLOUR 160x96 bt709 color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv
  colour_film no-primaries.mp4 $COLOUR 160x96 bt709 color_primaries=unknown:color_trc=bt709:colorspace=bt709:range=tv
  colour_film no-transfer.mp4 $COLOUR 160x96 bt709 color_primaries=bt709:color_trc=unknown:colorspace=bt709:range=tv
  local alone=color_primaries=unknown:color_trc=unknown:range=tv
  colour_film matrix-alone.mp4 $COLOUR 160x96 bt709 $alone:colorspace=bt709
  colour_film large-matrix-alone.mp4 $COLOUR 1280x720 bt709 $alone:colorspace=bt709
  colour_film large-601-alone.mp4 $COLOUR 1280x720 bt601 $alone:colorspace=smpte170m
}

decoded_by_ffmpeg() {
  printf 'ffmpeg, %s: ' "$1"
  "$FFMPEG" -v error -i "$1" -vf scale=flags=accurate_rnd+full_chroma_int -frames:v 1 \
    -pix_fmt rgb24 -f rawvideo - | tail -c 3 | od -An -tu1 | xargs
}

FFMPEG="$(ffmpeg_of 0.8.1)"
films
{
  shown_by_chromium all.mp4 no-primaries.mp4 no-transfer.mp4 matrix-alone.mp4 large-matrix-alone.mp4 \
    large-601-alone.mp4
  decoded_by_ffmpeg matrix-alone.mp4
  decoded_by_ffmpeg large-601-alone.mp4
} | expect 'all.mp4: 180 40 78
no-primaries.mp4: 168 22 78
no-transfer.mp4: 168 22 78
matrix-alone.mp4: 168 22 78
large-matrix-alone.mp4: 180 40 78
large-601-alone.mp4: 192 55 80
ffmpeg, matrix-alone.mp4: 180 40 79
ffmpeg, large-601-alone.mp4: 180 39 80'

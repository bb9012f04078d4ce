#!/usr/bin/env bash
# The H.264 decoder of ffmpeg gives the last frames before a change of colour tags the tags that come after.
#
# Version: ffmpeg 9.0.2 (PyPI, imageio-ffmpeg 0.8.1); 7.0.2 (imageio-ffmpeg 0.6.0) does the same. Not in
# the ffmpeg 5.1.9 of Debian 12.
#
# Behaviour: an H.264 stream of 16 frames without colour tags, followed by 16 frames with tags of BT.709,
# is read as 14 frames without tags and 18 of BT.709. The two frames that the decoder still held back, to
# bring them in order, take the tags of the sequence header that was read meanwhile. Their red is decoded to
# (255, 24, 0), while the 14 frames before them are (254, 0, 0). The number of threads changes nothing.
#
# Expected: 16 and 16. The second half begins with a sequence header of its own and a frame from which
# decoding can start anew (IDR); the tags of a frame are those of its own sequence. Delay is no reason for a
# frame to change its colour.
#
# Why it matters: joined clips flash for two frames at the join. A test that looks at the middle or at the
# first frame of every clip does not see it.
#
# Seen:
#   14 frames: unknown
#   18 frames: bt709
#   14 frames: 254 0 0
#   2 frames: 255 24 0
#   16 frames: 253 0 0

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# One pixel of every frame, converted without the short cuts that differ between processors.
PIXEL=scale=flags=accurate_rnd+full_chroma_int,format=rgb24,crop=1:1

# Writes the stream $1 of 16 frames of pure red, with the filter $2.
stream() {
  "$FFMPEG" -v error -f lavfi -i color=red:size=64x48:rate=16 -frames:v 16 -vf "$2" -c:v libx264 \
    -pix_fmt yuv420p -f h264 "$1"
}

# How often each of the lines stands in a row.
counted() {
  xargs -L 1 | uniq -c | sed 's/^ *\([0-9]*\) /\1 frames: /'
}

FFMPEG="$(ffmpeg_of 0.8.1)"
stream untagged.h264 null
stream tagged.h264 scale=out_color_matrix=bt709:out_range=tv,setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709
cat untagged.h264 tagged.h264 >both.h264
{
  "$FFMPEG" -i both.h264 -vf showinfo -f null - 2>&1 | sed -n 's/.*color_space:\([a-z0-9]*\) .*/\1/p' | counted
  "$FFMPEG" -v error -i both.h264 -vf "$PIXEL" -pix_fmt rgb24 -f rawvideo - | od -An -v -tu1 -w3 | counted
} | expect '14 frames: unknown
18 frames: bt709
14 frames: 254 0 0
2 frames: 255 24 0
16 frames: 253 0 0'

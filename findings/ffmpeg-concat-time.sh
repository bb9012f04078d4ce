#!/usr/bin/env bash
# Joining clips of whole frames with ffmpeg, without encoding anew, can make one frame more.
#
# Versions: ffmpeg 4.2.2 (PyPI, imageio-ffmpeg 0.4.9). The ffmpeg 5.1.9 of Debian 12 does the same. Mended
# in ffmpeg 7.0.2 (imageio-ffmpeg 0.6.0), which the script shows as well. Needs x86-64 Linux.
#
# Behaviour: 64 clips of 81 frames at 16 fps, joined by the demuxer concat with `-c copy`, last 324.03 s,
# and reading the film with the default frame rate mode gives 5,185 frames. At 25 and 50 fps, and with a
# line `duration` for every clip, the film is exact. The demuxer takes the length of a clip from the header
# of the MP4 file, which ffmpeg writes in whole milliseconds: 81/16 s = 5.0625 s becomes 5.063 s. Every join
# adds half a millisecond, 63 joins half a frame, and then one frame is shown twice.
#
# Expected: 64 * 81 = 5,184 frames and 324.00 s. The track of every clip has its exact length in ticks of
# 1/16384 s, and nothing is encoded, so that nothing seems to be there that could round.
#
# Why it matters: the fault grows with the number of clips and hides in tests with few clips or with frame
# rates that divide 1000. Counts of frames, and look-ups by time or beside a sound track, then go wrong.
#
# Seen:
#   4.2.2, 16 fps: 5185 frames, 00:05:24.03
#   4.2.2, 25 fps: 5184 frames, 00:03:27.36
#   4.2.2, 50 fps: 5184 frames, 00:01:43.68
#   4.2.2, 16 fps, with duration: 5184 frames, 00:05:24.00
#   7.0.2, 16 fps: 5184 frames, 00:05:24.00

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

CLIPS=64

# Joins the clips that the list $1 names and counts the frames of the film.
joined() {
  "$FFMPEG" -v error -y -f concat -i "$1" -c copy film.mp4
  local bytes length
  bytes="$("$FFMPEG" -v error -i film.mp4 -f rawvideo -pix_fmt gray - | wc -c)"
  length="$({ "$FFMPEG" -i film.mp4 2>&1 || true; } | sed -n 's/.*Duration: \([0-9:.]*\),.*/\1/p')"
  echo "$((bytes / (64 * 48))) frames, $length"
}

# Joins clips of $1 frames a second; $2 is a line that follows the name of every clip.
film() {
  "$FFMPEG" -v error -y -f lavfi -i "testsrc=size=64x48:rate=$1" -frames:v 81 -c:v libx264 \
    -preset ultrafast -pix_fmt yuv420p clip.mp4
  for _ in $(seq $CLIPS); do printf 'file clip.mp4\n%s\n' "${2:-}"; done >clips.txt
  joined clips.txt
}

{
  FFMPEG="$(ffmpeg_of 0.4.9)"
  for rate in 16 25 50; do echo "4.2.2, $rate fps: $(film $rate)"; done
  echo "4.2.2, 16 fps, with duration: $(film 16 'duration 5.0625')"
  FFMPEG="$(ffmpeg_of 0.6.0)"
  echo "7.0.2, 16 fps: $(film 16)"
} | expect '4.2.2, 16 fps: 5185 frames, 00:05:24.03
4.2.2, 25 fps: 5184 frames, 00:03:27.36
4.2.2, 50 fps: 5184 frames, 00:01:43.68
4.2.2, 16 fps, with duration: 5184 frames, 00:05:24.00
7.0.2, 16 fps: 5184 frames, 00:05:24.00'

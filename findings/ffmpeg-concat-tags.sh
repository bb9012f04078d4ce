#!/usr/bin/env bash
# Joining clips with ffmpeg, without encoding anew, can change colours: the tags of the first clip become
# those of the film and win over what the frames of the others say.
#
# Version: ffmpeg 9.0.2 (PyPI, imageio-ffmpeg 0.8.1). The ffmpeg 5.1.9 of Debian 12 does the same.
#
# Behaviour: two clips of pure red are joined by the demuxer concat with `-c copy`. One has colours of
# BT.709 and says so; the other has those of BT.601 and says nothing, which players take for BT.601 at this
# size. Each is decoded rightly alone. Joined with the tagged clip first, the film says BT.709 for all, and
# the red of the second clip is decoded to (255, 24, 0). ffmpeg gives no warning.
#
# Expected: `-c copy` keeps the coded frames, and H.264 carries its colour tags in the stream, with every
# clip, so that every frame is decoded as it was before, in whatever order the clips stand. At the least a
# warning, as ffmpeg gives for other differences of joined streams.
#
# Why it matters: a clip that was made by an older program or another encoder changes colour in the film,
# although it is the same, byte for byte. Clips to be joined must have the same tags, all of them.
#
# Seen:
#   tagged.mp4: bt709: 253 0 0
#   untagged.mp4: none: 254 0 0
#   joined.mp4: bt709: 253 0 0, then 255 24 0
#   warnings: 0

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# One pixel of every frame, converted without the short cuts that differ between processors.
PIXEL=scale=flags=accurate_rnd+full_chroma_int,format=rgb24,crop=1:1

# Writes the clip $1 of pure red as this ffmpeg makes it, with the filter $2.
clip() {
  "$FFMPEG" -v error -f lavfi -i color=red:size=64x48:rate=16 -frames:v 16 -vf "$2" -c:v libx264 \
    -pix_fmt yuv420p "$1"
}

# What the film $1 says of its matrix, and the colours of its frames, each once.
shown() {
  local tag
  tag="$({ "$FFMPEG" -i "$1" 2>&1 || true; } | grep -q 'yuv420p(tv, bt709' && echo bt709 || echo none)"
  echo "$1: $tag: $("$FFMPEG" -v error -i "$1" -vf "$PIXEL" -pix_fmt rgb24 -f rawvideo - \
    | od -An -v -tu1 -w3 | xargs -L 1 | uniq | paste -sd, | sed 's/,/, then /g')"
}

FFMPEG="$(ffmpeg_of 0.8.1)"
clip tagged.mp4 scale=out_color_matrix=bt709:out_range=tv,setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709
clip untagged.mp4 null
printf 'file %s\n' tagged.mp4 untagged.mp4 >clips.txt
"$FFMPEG" -v warning -f concat -i clips.txt -c copy joined.mp4 2>warnings.txt
{
  shown tagged.mp4
  shown untagged.mp4
  shown joined.mp4
  echo "warnings: $(wc -l <warnings.txt)"
} | expect 'tagged.mp4: bt709: 253 0 0
untagged.mp4: none: 254 0 0
joined.mp4: bt709: 253 0 0, then 255 24 0
warnings: 0'

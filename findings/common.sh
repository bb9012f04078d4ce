# What the scripts of this folder share. Sourcing it enters a new temporary folder, which is removed at
# the end, and names this folder FINDINGS.

set -euo pipefail
FINDINGS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT
cd "$WORK"

# Installs packages of PyPI, given as NAME==VERSION, into the environment PYTHON.
python_with() {
  python3 -m venv "$WORK/python"
  PYTHON="$WORK/python/bin/python"
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: "$@"
}

# The path of the ffmpeg in the package imageio-ffmpeg of version $1, which is installed in a folder of
# its own.
ffmpeg_of() {
  local folder="$WORK/imageio-ffmpeg-$1"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps \
    --only-binary :all: --target "$folder" "imageio-ffmpeg==$1" >&2
  find "$folder/imageio_ffmpeg/binaries" -name 'ffmpeg-*' -type f
}

# Writes the film $1 of one second and one colour with the ffmpeg $FFMPEG. The colour is $2 (0xRRGGBB),
# the size $3, the matrix of its pixels $4 (bt709 or bt601), and $5 has its colour tags as the filter
# setparams of ffmpeg takes them.
colour_film() {
  "$FFMPEG" -v error -f lavfi -i "color=$2:size=$3:rate=16,format=gbrp" -frames:v 16 \
    -vf "scale=out_color_matrix=$4:out_range=tv:flags=accurate_rnd+full_chroma_int,format=yuv420p,setparams=$5" \
    -c:v libx264 -crf 4 "$1"
}

# Installs a Chromium from npm and prints, for every film named, what a page reads from a canvas on
# which the film is drawn: its name and the red, green and blue of the pixel in the middle.
shown_by_chromium() {
  cp "$FINDINGS/chromium.mjs" .
  npm install --silent --no-audit --no-fund @sparticuz/chromium@153.0.0 >&2
  mkdir -p "$WORK/unpacked"
  # The environment that the package looks at makes it bring the libraries that this Chromium needs.
  TMPDIR="$WORK/unpacked" AWS_EXECUTION_ENV=AWS_Lambda_nodejs22.x node chromium.mjs "$@"
}

# Compares what is read with $1, what was seen when the script was written, and prints it.
expect() {
  local seen
  seen="$(cat)"
  if [ "$seen" = "$1" ]; then
    printf '%s\n\nThis is what was seen before.\n' "$seen"
  else
    printf 'This is not what was seen before:\n'
    diff <(printf '%s\n' "$1") <(printf '%s\n' "$seen") || true
    return 1
  fi
}

#!/usr/bin/env bash
# First figures of a machine with one GPU, in under eight minutes: are the fused kernels right, how
# long is a forward of Wan2.2-A14B with and without them, and what does plain PyTorch take?
#
#   scripts/bench/gpu.sh [--binary FILE] [--out DIR] [--config NAME] [--repeats N] [--cpu]
#
# Needs neither Rust nor a checkpoint: a release binary built elsewhere for the same architecture,
# and a python3 with torch 2.11, whose libraries the binary uses too. Figures go to DIR as JSON,
# one file a step, with a log beside each. --cpu goes through the same steps without a GPU, on a
# tiny network, to try the script itself.

set -uo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

BINARY="$HERE/../../target/release/storyloom"
OUT=gpu-figures
CONFIG=t2v-a14b
REPEATS=3
DEVICE=cuda
CLIP=(--frames 81 --height 480 --width 832)
REFERENCE_CLIP=(--clip 81 480 832)

fail() { printf 'gpu.sh: %s\n' "$*" >&2; exit 69; }

while [ $# -gt 0 ]; do
  case "$1" in
    --binary) BINARY="$2"; shift 2 ;;
    --out) OUT="$2"; shift 2 ;;
    --config) CONFIG="$2"; shift 2 ;;
    --repeats) REPEATS="$2"; shift 2 ;;
    --cpu)
      DEVICE=cpu CONFIG=tiny
      CLIP=(--frames 5 --height 48 --width 64)
      REFERENCE_CLIP=(--clip 5 48 64)
      shift ;;
    *) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done

[ -x "$BINARY" ] || fail "$BINARY is no program; name a release build with --binary"
PYTHON="$(command -v python3)" || fail "python3 is missing"

# The folder of the installed torch, without loading it.
TORCH="$("$PYTHON" - <<'PYTHON'
import importlib.metadata, importlib.util, pathlib, sys
try:
    version = importlib.metadata.version("torch")
    spec = importlib.util.find_spec("torch")
except Exception as error:
    sys.exit(f"torch is not installed here ({error})")
if not version.startswith("2.11."):
    sys.exit(f"torch is {version}, but the binary is built for 2.11")
print(pathlib.Path(spec.origin).parent)
PYTHON
)" || fail "python3 needs torch 2.11"
export LD_LIBRARY_PATH="$TORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
mkdir -p "$OUT" || fail "$OUT cannot be made"

SUMMARY=()
FAILED=0
# What is not done by then is cut off.
DEADLINE=$((SECONDS + 460))

# step NAME SECONDS MUST COMMAND...: stdout to NAME.json, stderr to NAME.log. Only what MUST work
# decides how the script ends.
step() {
  local name="$1" limit="$2" must="$3" start=$SECONDS code sampler=
  shift 3
  [ "$limit" -le $((DEADLINE - start)) ] || limit=$((DEADLINE - start))
  if [ "$limit" -lt 5 ]; then
    SUMMARY+=("failed  $name: no time was left")
    [ "$must" = must ] && FAILED=1
    return
  fi
  printf '== %s\n' "$name" >&2
  if [ "$DEVICE" = cuda ] && command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=timestamp,memory.used,utilization.gpu,power.draw,clocks.sm \
      --format=csv -lms 500 >"$OUT/$name.gpu.csv" 2>/dev/null &
    sampler=$!
  fi
  timeout "$limit" "$@" >"$OUT/$name.json" 2>"$OUT/$name.log"
  code=$?
  if [ -n "$sampler" ]; then
    kill "$sampler" 2>/dev/null
    wait "$sampler" 2>/dev/null
  fi
  if [ "$code" -eq 0 ]; then
    SUMMARY+=("ok      $name ($((SECONDS - start)) s)")
    return
  fi
  tail -n 5 "$OUT/$name.log" >&2
  SUMMARY+=("failed  $name with $code ($((SECONDS - start)) s)")
  [ "$must" = must ] && FAILED=1
}

denoise=("$BINARY" bench denoise --device "$DEVICE" --random "$CONFIG" --repeats "$REPEATS" "${CLIP[@]}")
reference=("$PYTHON" "$HERE/gpu_reference.py" --device "$DEVICE" --config "$CONFIG" "${REFERENCE_CLIP[@]}")

step doctor 60 must "$BINARY" doctor --json
if [ "$DEVICE" = cuda ]; then
  step kernels 90 must "$BINARY" bench kernels
fi
step fused 120 must "${denoise[@]}"
step plain 120 must "${denoise[@]}" --plain
step reference 90 must "${reference[@]}" --repeats "$REPEATS"
# An NCCL world of one rank, where the binary knows how to time one.
if "$BINARY" bench --help | grep -q '^ *nccl '; then
  step nccl 30 may "$BINARY" bench nccl
fi
# Needs a C compiler as well, which a machine may lack.
if [ "$DEVICE" = cuda ]; then
  step compiled 120 may "${reference[@]}" --repeats "$REPEATS" --compile
fi

printf '%s\n' "${SUMMARY[@]}" | tee "$OUT/summary.txt"
"$PYTHON" - "$OUT" <<'PYTHON' | tee -a "$OUT/summary.txt"
import json, pathlib, sys

def figures(name):
    try:
        return json.loads((pathlib.Path(sys.argv[1]) / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None

if kernels := figures("kernels"):
    wrong = [check["kernel"] for check in kernels["checks"] if not check["passed"]]
    print(f"kernels: {len(kernels['checks'])} checks, wrong: {', '.join(wrong) or 'none'}")
    for check in kernels["checks"]:
        if check["shape"]["tokens"] > 1000:
            faster = check["libtorch_seconds"] / check["seconds"]
            print(f"  {check['kernel']}: {check['gigabytes_per_second']:.0f} GB/s, {faster:.1f} times libtorch")
for name in ("fused", "plain"):
    if found := figures(name):
        rate = found["gflop_per_second"] / 1e3
        print(f"{name}: {found['forward']['median_seconds']:.3f} s per forward, {rate:.1f} TFLOP/s")
        for part, seconds in found["parts"]["seconds"].items():
            rate = found["parts"]["gflop_per_second"].get(part)
            print(f"  {part}: {seconds:.3f} s" + (f", {rate / 1e3:.1f} TFLOP/s" if rate else ""))
        for choice in found["attention"]:
            shape = choice["shape"]
            times = ", ".join(f"{t['name']} {t['seconds'] * 1e3:.2f} ms" for t in choice["trials"] if t["seconds"])
            print(f"  attention {shape['queries']} x {shape['keys']}: {choice['back_end']} ({times})")
for name in ("reference", "compiled"):
    if found := figures(name):
        print(f"{name}: {found['forward_seconds']:.3f} s per forward, {found['tflop_per_second']:.1f} TFLOP/s")
PYTHON
exit "$FAILED"

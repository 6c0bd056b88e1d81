#!/usr/bin/env bash
# The CUDA kernels on a real device: builds, tests, checks and measures. Needs CMake and nvcc, no Node.
#
#   bench/cuda/run.sh [STAGE...]        each stage takes less than ten minutes; without any, all of them in this order
#     build         everything that the others run
#     test          the tests in the emulation, and those on the device against float64
#     sanitize      compute-sanitizer, memcheck and racecheck, on a reduced set
#     determinism   100 runs of each kernel, hashed, half of them beside another stream
#     calibrate     times of a layer's calibration and rounding, step by step
#     sweep         times beside cuBLAS and beside dequantizing first; needs cuBLAS for those two
#     peers         times of PyTorch's products, where python3 has torch
#     marlin        times of IST-DASLab/marlin's kernel, where MARLIN names a copy of its marlin_cuda_kernel.cu
#
# OUT (./out) gets a log of each stage and the figures as JSON; BUILD (./build-cuda-bench) the programs. SWEEP passes
# options on to the sweep, the peers and Marlin, as SWEEP="--shapes 8192x8192 --m 1,16". TSQ_CUBLAS names the cuBLAS to use.
set -euo pipefail
source=$(cd "$(dirname "$0")" && pwd)
OUT=${OUT:-out}
BUILD=${BUILD:-build-cuda-bench}
read -ra sweep <<<"${SWEEP:-}"

fail() { printf 'run.sh: %s\n' "$*" >&2; exit 1; }
step() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }

configure() {
  command -v cmake >/dev/null || fail "cmake is not installed"
  command -v "${CUDACXX:-nvcc}" >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] ||
    fail "nvcc is not installed or not on the PATH: set CUDACXX"
  [ -f "$BUILD/CMakeCache.txt" ] && return
  local generator=()
  if command -v ninja >/dev/null; then generator=(-G Ninja); fi
  if ! command -v nvcc >/dev/null; then export CUDACXX=${CUDACXX:-/usr/local/cuda/bin/nvcc}; fi
  cmake -S "$source" -B "$BUILD" "${generator[@]}" >"$OUT/configure.log" 2>&1 ||
    { cat "$OUT/configure.log" >&2; rm -f "$BUILD/CMakeCache.txt"; fail "cmake failed"; }
}

compile() { cmake --build "$BUILD" --parallel "${JOBS:-$(nproc)}" --target "$@"; }

# Asks for a device before anything that takes long.
device() {
  [ -n "${asked:-}" ] && return
  compile devices >/dev/null
  "$BUILD/devices" || fail "the stages other than build need a device"
  asked=yes
}

build() {
  configure
  compile devices tsq_cuda_module test_cuda device_test calibrate sweep
  if [ -n "${MARLIN:-}" ]; then build_marlin; fi
}

# From a source outside of this repository.
build_marlin() {
  [ -f "$MARLIN" ] || fail "MARLIN=$MARLIN is no file"
  cmake -DTSQ_MARLIN="$(realpath "$MARLIN")" "$BUILD" >"$OUT/configure.log" 2>&1 ||
    { cat "$OUT/configure.log" >&2; fail "cmake failed"; }
  compile marlin
}

# cuBLAS of the toolkit, or the one that came with python3's torch.
find_blas() {
  [ -n "${TSQ_CUBLAS:-}" ] && return
  command -v python3 >/dev/null || return 0
  TSQ_CUBLAS=$(python3 - <<'PY' || true
import ctypes, glob, sys
for name in ["libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so"]:
    try:
        ctypes.CDLL(name)
        sys.exit()  # the sweep finds it too
    except OSError:
        pass
found = [f for p in sys.path if p for f in glob.glob(p + "/nvidia/**/libcublas.so.*", recursive=True)]
print(found[0] if found else "")
PY
  )
  export TSQ_CUBLAS
}

run_test() {
  "$BUILD/tsq/test_cuda"
  # The rest has stages of its own.
  "$BUILD/device_test" device_every device_random device_wide device_model device_tokens device_graphs device_failures \
    device_calibration
}

# A tool that is absent, or that does not support this machine's device, is reported and does not fail the stage.
run_sanitize() {
  local sanitizer tool log
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
  if [ -z "$sanitizer" ]; then echo "not checked: compute-sanitizer is not installed"; return; fi
  for tool in memcheck racecheck; do
    step "compute-sanitizer $tool"
    log=$(mktemp)
    if timeout 280 "$sanitizer" --tool "$tool" --error-exitcode 1 "$BUILD/device_test" device_reduced >"$log" 2>&1; then
      tail -n 5 "$log"
    elif grep -q 'Device not supported' "$log"; then
      echo "not checked: compute-sanitizer says that it does not support this device here"
    else
      cat "$log"
      fail "$tool found errors, or did not finish in 280 s"
    fi
  done
}

run_determinism() { "$BUILD/device_test" device_runs_are_identical; }

run_calibrate() { "$BUILD/calibrate" --json "$OUT/calibrate.json"; }

run_sweep() {
  find_blas
  "$BUILD/sweep" --json "$OUT/sweep.json" "${sweep[@]}"
}

run_peers() {
  if ! command -v python3 >/dev/null || ! python3 -c 'import torch' 2>/dev/null; then
    echo "not measured: no python3 with torch"
    return
  fi
  python3 "$source/torch_peers.py" --json "$OUT/torch.json" "${sweep[@]}"
}

run_marlin() {
  if [ -z "${MARLIN:-}" ]; then
    echo "not measured: MARLIN names no marlin_cuda_kernel.cu of IST-DASLab/marlin"
    return
  fi
  build_marlin
  "$BUILD/marlin" --json "$OUT/marlin.json" "${sweep[@]}"
}

stages=("$@")
if [ ${#stages[@]} -eq 0 ]; then stages=(build test sanitize determinism calibrate sweep peers marlin); fi
for stage in "${stages[@]}"; do
  case $stage in
    build | test | sanitize | determinism | calibrate | sweep | peers | marlin) ;;
    *) fail "unknown stage $stage: build, test, sanitize, determinism, calibrate, sweep, peers or marlin" ;;
  esac
done
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
configure
if [ "${stages[*]}" != build ]; then device; fi
for stage in "${stages[@]}"; do
  step "$stage"
  if [ "$stage" = build ]; then build 2>&1 | tee "$OUT/build.log"; continue; fi
  [ -x "$BUILD/sweep" ] || fail "nothing is built in $BUILD: run the stage build first"
  "run_$stage" 2>&1 | tee "$OUT/$stage.log"
done
step "done"

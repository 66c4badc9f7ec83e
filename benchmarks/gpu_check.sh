#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Everything that needs an NVIDIA GPU, in one go: tests, compute-sanitizer, benchmarks.
#
#     bash benchmarks/gpu_check.sh [FOLDER]
#
# Results, logs and a summary go to FOLDER, by default benchmarks/results/<name of the GPU>. A step
# that fails does not stop the others; the exit code is 1 if any failed. Needs the core built with
# nvcc, pycuda and torch with CUDA in the environment; compute-sanitizer comes with the CUDA toolkit;
# without gsplat and moderngl their rows are skipped. $PYTHON: another interpreter than .venv's.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
if [ -z "$gpu" ]; then
  echo "nvidia-smi finds no NVIDIA GPU on this machine." >&2
  exit 1
fi
out=${1:-benchmarks/results/$(printf %s "$gpu" | tr -c 'A-Za-z0-9\n' '-' | tr 'A-Z' 'a-z')}
mkdir -p "$out"
summary=$out/summary.txt
printf '%s, %s\n' "$gpu" "$(date -u +%Y-%m-%dT%H:%MZ)" >"$summary"
failures=0

# step NAME SECONDS COMMAND...: runs a command, with a limit; its output goes to NAME.log as well.
step() {
  local name=$1 seconds=$2 begun=$SECONDS code
  shift 2
  echo "=== $name: $*"
  timeout --kill-after=30 "$seconds" "$@" 2>&1 | tee "$out/$name.log"
  code=${PIPESTATUS[0]}
  if [ "$code" = 0 ]; then
    printf 'ok      %-22s %5d s\n' "$name" $((SECONDS - begun)) >>"$summary"
  else
    printf 'FAILED  %-22s %5d s, exit code %d\n' "$name" $((SECONDS - begun)) "$code" >>"$summary"
    failures=$((failures + 1))
  fi
}

environment() {
  nvidia-smi
  nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap,clocks.max.sm,power.limit \
    --format=csv
  nvcc --version || echo "nvcc is not installed"
  compute-sanitizer --version || echo "compute-sanitizer is not installed"
  uname -a
  lscpu | grep -E 'Model name|^CPU\(s\)'
  git log -1 --format='revision %H %cI' && git status --short
  "$python" --version && "$python" -m pip list
}
export -f environment
export python

# Tests that skip for want of CUDA would look like success; this fails instead.
cuda_loads='
from peel4d.engine.render.backend import select
from peel4d.engine.render.cuda import renderer
from peel4d.engine.render.core import build_info
select("cuda")
print(renderer().device.name, "core", build_info())
'

# Large pictures and clouds take hours under the sanitizer, and no other code.
sanitized=(-m pytest -q -x -m gpu -k "not large" -p no:cacheprovider)
sanitizer=(compute-sanitizer --target-processes all --error-exitcode 9)

step environment 120 bash -c environment
step cuda-loads 120 "$python" -c "$cuda_loads"
step tests 1800 "$python" -m pytest -m gpu
step memcheck 3600 "${sanitizer[@]}" --tool memcheck --leak-check no "$python" "${sanitized[@]}"
step racecheck 3600 "${sanitizer[@]}" --tool racecheck "$python" "${sanitized[@]}"
for scene in body room; do
  for resolution in 720p 1080p 4k; do
    step "peel-$scene-$resolution" 900 "$python" benchmarks/peel.py --scene "$scene" \
      --resolution "$resolution" --runs 50 --json "$out/peel-$scene-$resolution.json"
  done
done
step peel-scaling 1200 "$python" benchmarks/peel.py --scaling --json "$out/peel-scaling.json"
step train-step 1200 "$python" benchmarks/train_step.py --json "$out/train_step.json"
# $MOVIE: footage for the Gaussians, of 1280 x 720 pixels to compare; without it, moving texture.
step gaussians 900 "$python" benchmarks/gaussians.py ${MOVIE:+--movie "$MOVIE"} \
  --json "$out/gaussians.json"
for resolution in 1080p 4k; do
  step "playback-$resolution" 900 "$python" benchmarks/playback.py --resolution "$resolution" \
    --json "$out/playback-$resolution.json"
done

echo
cat "$summary"
if [ "$failures" -gt 0 ]; then
  echo "$failures step(s) failed; the logs are in $out" | tee -a "$summary"
  exit 1
fi

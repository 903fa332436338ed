#!/usr/bin/env bash
# What CI cannot run: the tests and benchmarks of a host with an NVIDIA GPU, one after the other.
#
#   scripts/gpu_check.sh [--out FOLDER] [--products N] [STEP ...]
#   scripts/gpu_check.sh tests memcheck score recall pipeline      (the default; a million products take minutes)
#
#   tests     of the runtime, recall, interrupts and a process's end, engines killed on the GPU
#   memcheck  the runtime's tests under compute-sanitizer, which comes with the CUDA toolkit
#   score     benchmarks.score_gpu against its peers, as far as they are installed
#   recall    benchmarks.recall_gpu
#   catalog   the products of `pipeline` and `capacity`, which otherwise build them themselves
#   pipeline  benchmarks.pipeline_gpu with 20,000 queries of the memory check
#   capacity  benchmarks.capacity_gpu
#
# Each step's log and figures go to FOLDER (gpu-check). A step that fails does not stop the others; the exit
# status is 1 then. ${PYTHON:-python3} has searchpipe with its extension, the extras `gpu` and `bench`, and pytest.
# Where no package index can be reached, SEARCHPIPE_GPU_MODELS names a folder with the models
# (benchmarks/gpu_models.py says which files) and SEARCHPIPE_SHARED the one with ESCI's data.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
out=gpu-check
products=1000000
steps=()
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --products) products=$2; shift 2 ;;
    -*) sed -n '2,19s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    *) steps+=("$1"); shift ;;
  esac
done
[ ${#steps[@]} -gt 0 ] || steps=(tests memcheck score recall pipeline)
mkdir -p "$out"

tests=("$python" -m pytest -q -p no:cacheprovider)
bench() { "$python" -m "benchmarks.$1" --json "$out/$1.json" "${@:2}"; }

step() {
  case $1 in
    tests)
      "${tests[@]}" tests/runtime tests/recall tests/device tests/test_interrupts.py tests/test_interpreter_end.py \
        tests/test_ladder.py
      ;;
    memcheck)
      command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on the PATH"; return 3; }
      # Calls that fail are what many of the tests are about, and programs of their own what breaks the device:
      # only what kernels of this process do counts.
      compute-sanitizer --tool memcheck --report-api-errors no --target-processes application-only \
        --error-exitcode 9 "${tests[@]}" tests/runtime
      ;;
    score) bench score_gpu ;;
    recall) bench recall_gpu ;;
    catalog) "$python" -m benchmarks.pipeline_gpu --products "$products" --build-only ;;
    pipeline) bench pipeline_gpu --products "$products" --soak 20000 ;;
    capacity) bench capacity_gpu --products "$products" ;;
    *) echo "no such step: $1"; return 2 ;;
  esac
}

failed=0
for name in "${steps[@]}"; do
  begin=$SECONDS
  if step "$name" >"$out/$name.log" 2>&1; then
    echo "ok      $name ($((SECONDS - begin)) s)"
  else
    echo "FAILED  $name (exit $?, $((SECONDS - begin)) s): $(tail -n 1 "$out/$name.log")"
    failed=1
  fi
done
"$python" -m benchmarks.goals "$out" || failed=1
exit $failed

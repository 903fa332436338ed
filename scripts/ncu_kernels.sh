#!/usr/bin/env bash
# Measure the kernels of a program with Nsight Compute and print a table of them.
#
#   scripts/ncu_kernels.sh [--out FOLDER] [--skip N] [--count N] [--kernel REGEX] [--top N] -- COMMAND...
#   scripts/ncu_kernels.sh --skip 2000 --count 200 -- python -m benchmarks.score_gpu --queries 4
#
# The clocks are left alone (--clock-control none), so that times are those of
# the running system. Each kernel is replayed for several passes: keep --count small.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=profile
top=20
skip=0
count=200
choose=()
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --skip) skip=$2; shift 2 ;;
    --count) count=$2; shift 2 ;;
    --kernel) choose=(--kernel-name "regex:$2"); shift 2 ;;
    --top) top=$2; shift 2 ;;
    --) shift; break ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
[ $# -gt 0 ] || { echo "Name the command to profile after --" >&2; exit 2; }

ncu=$(command -v ncu || ls -1 /opt/nvidia/nsight-compute/*/ncu /usr/local/cuda*/bin/ncu 2>/dev/null | tail -n 1 || true)
if [ -z "$ncu" ]; then
  cat >&2 <<'TEXT'
ncu was not found. To get it: install the CUDA toolkit's package nsight-compute
(apt-get install nsight-compute, from NVIDIA's repository of CUDA packages), or
download Nsight Compute from https://developer.nvidia.com/nsight-compute, and put ncu on the PATH.
TEXT
  exit 3
fi

metrics=gpu__time_duration.sum
metrics+=,sm__throughput.avg.pct_of_peak_sustained_elapsed
metrics+=,gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed
metrics+=,sm__warps_active.avg.pct_of_peak_sustained_active
metrics+=,sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active
metrics+=,launch__registers_per_thread

mkdir -p "$out"
"$ncu" --clock-control none --graph-profiling node --target-processes all --csv --log-file "$out/kernels.csv" \
  --launch-skip "$skip" --launch-count "$count" "${choose[@]}" --metrics "$metrics" "$@"
exec "${PYTHON:-python3}" "$here/profile_table.py" "$out/kernels.csv" --top "$top"

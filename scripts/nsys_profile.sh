#!/usr/bin/env bash
# Run a program under Nsight Systems and print a table of what the GPU did.
#
#   scripts/nsys_profile.sh [--out FOLDER] [--range NAME] [--top N] -- COMMAND...
#   scripts/nsys_profile.sh -- python -m benchmarks.pipeline_gpu --callers 16
#
# NVTX ranges of the program are turned on. Without nsys, a `python` command is
# recorded by PyTorch's profiler instead, if PyTorch is installed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=profile
table=()
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --range | --top) table+=("$1" "$2"); shift 2 ;;
    --) shift; break ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
[ $# -gt 0 ] || { echo "Name the command to profile after --" >&2; exit 2; }

find_nsys() {
  command -v nsys && return
  ls -1 /opt/nvidia/nsight-systems/*/bin/nsys /usr/local/cuda*/bin/nsys 2>/dev/null | tail -n 1
}

mkdir -p "$out"
export SEARCHPIPE_NVTX=${SEARCHPIPE_NVTX:-1}
python=${PYTHON:-python3}
nsys=$(find_nsys || true)

if [ -n "$nsys" ]; then
  # Node by node: a graph would otherwise be one bar, and its gaps would be hidden.
  "$nsys" profile --trace=cuda,nvtx,osrt --cuda-graph-trace=node --sample=none --cpuctxsw=none \
    --force-overwrite=true --output="$out/report" "$@"
  "$nsys" export --type=sqlite --force-overwrite=true --output="$out/report.sqlite" "$out/report.nsys-rep"
  exec "$python" "$here/profile_table.py" "$out/report.sqlite" --json "$out/figures.json" "${table[@]}"
fi

cat >&2 <<'TEXT'
nsys was not found. To get it: install the CUDA toolkit's package nsight-systems
(apt-get install nsight-systems-cli, from NVIDIA's repository of CUDA packages), or
download Nsight Systems from https://developer.nvidia.com/nsight-systems, and put nsys on the PATH.
TEXT
case $(basename "$1") in
  python | python3 | python3.*) ;;
  *) exit 3 ;;
esac
"$1" -c 'import torch' 2>/dev/null || exit 3
echo "Recording with PyTorch's profiler instead." >&2
interpreter=$1
shift
"$interpreter" "$here/torch_trace.py" "$out/trace.json" "$@"
exec "$python" "$here/profile_table.py" "$out/trace.json" --json "$out/figures.json" "${table[@]}"

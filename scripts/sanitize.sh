#!/usr/bin/env bash
# Builds the core and its stress tests under AddressSanitizer + UndefinedBehaviorSanitizer and again under
# ThreadSanitizer, runs them, and fails on any report. Only what changed is built again.
#
#   scripts/sanitize.sh [NAME ...]     only csrc/tests/stress_NAME.cc
#   CXX=clang++ JOBS=4 BUILD_DIR=... scripts/sanitize.sh
set -euo pipefail
cd "$(dirname "$0")/.."

build=${BUILD_DIR:-build/sanitize}
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN)}
if [ -z "${CXX:-}" ]; then
  CXX=g++
  if command -v clang++ >/dev/null; then CXX=clang++; fi
fi
if ! command -v "$CXX" >/dev/null; then
  echo "sanitize: no C++ compiler '$CXX'; install g++ or set CXX" >&2
  exit 2
fi

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
  for source in csrc/tests/stress_*.cc; do
    name=${source##*/stress_}
    names+=("${name%.cc}")
  done
fi
for name in "${names[@]}"; do
  if [ ! -f "csrc/tests/stress_$name.cc" ]; then
    echo "sanitize: csrc/tests/stress_$name.cc does not exist" >&2
    exit 2
  fi
done

mkdir -p "$build"
# -O1 keeps reports readable and the programs fast enough; the depfiles (-MMD) make rebuilds incremental.
cat >"$build/Makefile" <<'MAKE'
# Everything but the bindings; what a program does not use is left out by the linker.
sources := $(wildcard csrc/core/*.cc csrc/cuda/*.cc csrc/runtime/*.cc)
objects := $(sources:csrc/%.cc=%.o)
common := -std=c++20 -O1 -g -fno-omit-frame-pointer -Wall -Wextra -Icsrc -pthread
flags_address := -fsanitize=address,undefined -fno-sanitize-recover=all
flags_thread := -fsanitize=thread

define rules
$(build)/$(1)/%.o: csrc/%.cc $(build)/flags
	@mkdir -p $$(@D)
	$$(CXX) $(common) $(flags_$(1)) -MMD -MP -c $$< -o $$@
$(build)/$(1)/library.a: $(objects:%=$(build)/$(1)/%)
	@rm -f $$@
	$$(AR) crs $$@ $$^
$(build)/$(1)/stress_%: $(build)/$(1)/tests/stress_%.o $(build)/$(1)/library.a
	$$(CXX) $(common) $(flags_$(1)) $$^ -ldl -o $$@
# The fake driver that the runtime's program runs on, under the same sanitizer.
$(build)/$(1)/fake_cuda.so: csrc/tests/fake_cuda/fake_cuda.cc $(wildcard csrc/tests/fake_cuda/*.h csrc/runtime/*.cu) $(build)/flags
	@mkdir -p $$(@D)
	$$(CXX) $(common) $(flags_$(1)) -fPIC -shared $$< -o $$@
-include $(wildcard $(build)/$(1)/*/*.d)
endef
$(foreach kind,address thread,$(eval $(call rules,$(kind))))
.SECONDARY:
MAKE
# Another compiler or other flags mean a new build.
stamp=$({ "$CXX" --version | head -1; cat "$build/Makefile"; } | cksum)
if [ "$(cat "$build/flags" 2>/dev/null)" != "$stamp" ]; then echo "$stamp" >"$build/flags"; fi

programs=()
for kind in address thread; do
  for name in "${names[@]}"; do programs+=("$build/$kind/stress_$name"); done
done
make --no-print-directory -s -j "$jobs" -f "$build/Makefile" build="$build" CXX="$CXX" "${programs[@]}" \
  "$build/address/fake_cuda.so" "$build/thread/fake_cuda.so"

export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1"
export UBSAN_OPTIONS="print_stacktrace=1"
export TSAN_OPTIONS="halt_on_error=1"
# GCC's ThreadSanitizer cannot place its shadow under kernels that randomise addresses widely.
fixed_addresses=()
if setarch -R true 2>/dev/null; then fixed_addresses=(setarch -R); fi
failed=0
for program in "${programs[@]}"; do
  label="$(basename "$(dirname "$program")") $(basename "$program")"
  start=$SECONDS
  SEARCHPIPE_LIBCUDA="$(cd "$(dirname "$program")" && pwd)/fake_cuda.so"
  export SEARCHPIPE_LIBCUDA
  if output=$("${fixed_addresses[@]}" "$program" 2>&1); then
    echo "ok      $label ($((SECONDS - start)) s): ${output##*$'\n'}"
  else
    echo "FAILED  $label (exit $?)"
    echo "$output"
    failed=1
  fi
done
exit $failed

#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <optional>

#include "runtime/scorer.h"

namespace searchpipe::bindings {

// time.monotonic() and steady_clock are the same clock on Linux.
inline runtime::RequestOptions make_options(std::optional<double> deadline, std::int32_t priority,
                                            std::uint64_t device_output) {
  runtime::RequestOptions options;
  options.priority = priority;
  options.device_output = device_output;
  if (deadline && !(*deadline >= 1e9)) {  // infinite and absurdly late ones stand for none
    if (std::isnan(*deadline))
      throw pybind11::value_error("deadline is NaN; pass seconds of time.monotonic(), or None");
    const std::chrono::duration<double> at(std::max(*deadline, 0.0));
    options.deadline = runtime::Clock::time_point(std::chrono::duration_cast<runtime::Clock::duration>(at));
  }
  return options;
}

}  // namespace searchpipe::bindings

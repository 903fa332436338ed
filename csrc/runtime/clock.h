#pragma once

#include <chrono>

namespace searchpipe::runtime {

// The clock of deadlines: CLOCK_MONOTONIC, as Python's time.monotonic().
using Clock = std::chrono::steady_clock;

// Seconds from now as a time; a year stands for any longer wait: time_point arithmetic must not overflow.
inline Clock::time_point after_seconds(double seconds) {
  const std::chrono::duration<double> limit(seconds > 0.0 ? (seconds < 3.15e7 ? seconds : 3.15e7) : 0.0);
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(limit);
}

}  // namespace searchpipe::runtime

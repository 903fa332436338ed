#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>

#include "core/message.h"

namespace searchpipe {

// Reads memory that will be read soon, so that its page faults and cache misses fall into time that is free.
// Ends by itself: after kMostBytes, and after so much time or, on a slow disk, the fault in which it passes.
// One thread.
class Touch {
 public:
  static constexpr std::size_t kMostBytes = std::size_t{1} << 20;  // what one core's cache holds
  static constexpr double kSeconds = 300e-6;  // a tenth of what a cross-encoder takes for 256 pairs

  // Throws std::invalid_argument unless `seconds` is between 0 and 1.
  explicit Touch(double seconds) {
    if (!(seconds >= 0.0 && seconds <= 1.0)) {
      throw std::invalid_argument(message("seconds is ", seconds, "; it must be between 0 and 1"));
    }
    due_ =
        std::chrono::steady_clock::now() + std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
  }

  // Whether there is time for more.
  bool has_time() const noexcept { return std::chrono::steady_clock::now() < due_; }

  // Reads at most `most` bytes of `memory`, one in every cache line; false if they are too many now, and
  // nothing was read.
  bool read(std::span<const std::byte> memory, std::size_t most) noexcept {
    const std::size_t size = std::min(memory.size(), most);
    if (size > left_) return false;
    left_ -= size;
    constexpr std::size_t kLine = 64;
    const volatile std::byte* const bytes = memory.data();
    for (std::size_t at = 0; at < size; at += kLine) static_cast<void>(bytes[at]);
    if (size != 0) static_cast<void>(bytes[size - 1]);
    return true;
  }

 private:
  std::size_t left_ = kMostBytes;
  std::chrono::steady_clock::time_point due_;
};

}  // namespace searchpipe

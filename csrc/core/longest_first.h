#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace searchpipe {

// Which of `lengths` (at least 0) is the longest, the second, and so on; equal ones keep their order.
std::vector<std::int32_t> longest_first(std::span<const std::int32_t> lengths);

}  // namespace searchpipe

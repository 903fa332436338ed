#include "core/longest_first.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace searchpipe {
namespace {
constexpr std::int64_t kFewLengths = 4096;  // beyond, counters cost more than comparing does
}

// Counted rather than compared where lengths are small, as those of texts are.
std::vector<std::int32_t> longest_first(std::span<const std::int32_t> lengths) {
  if (lengths.empty()) return {};
  std::vector<std::int32_t> order(lengths.size());
  const auto [shortest, longest] = std::minmax_element(lengths.begin(), lengths.end());
  if (std::int64_t{*longest} - *shortest >= kFewLengths) {
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return lengths[static_cast<std::size_t>(a)] > lengths[static_cast<std::size_t>(b)];
    });
    return order;
  }
  const std::int32_t most = *longest;
  std::vector<std::int32_t> start(static_cast<std::size_t>(most - *shortest) + 2);
  for (const std::int32_t length : lengths) ++start[static_cast<std::size_t>(most - length) + 1];
  std::partial_sum(start.begin(), start.end(), start.begin());
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const auto place = start[static_cast<std::size_t>(most - lengths[i])]++;
    order[static_cast<std::size_t>(place)] = static_cast<std::int32_t>(i);
  }
  return order;
}

}  // namespace searchpipe

#include "runtime/shape.h"

#include <algorithm>
#include <stdexcept>

namespace searchpipe::runtime {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::int32_t kMaxRows = 1 << 16;
constexpr std::int32_t kMaxTokens = 1 << 15;

template <class Field>
auto largest(const std::vector<Bucket>& buckets, Field field) {
  decltype(field(buckets[0])) most = 0;
  for (const Bucket& bucket : buckets) most = std::max(most, field(bucket));
  return most;
}

}  // namespace

std::string to_string(const Bucket& bucket) {
  return std::to_string(bucket.rows) + " x " + std::to_string(bucket.tokens);
}

void EngineShape::validate() {
  if (buckets.empty()) throw std::invalid_argument("an engine needs at least one bucket (rows, tokens)");
  for (const Bucket& bucket : buckets) {
    if (bucket.rows < 1 || bucket.rows > kMaxRows || bucket.tokens < 1 || bucket.tokens > kMaxTokens) {
      throw std::invalid_argument("bucket " + to_string(bucket) + " is outside 1.." +
                                  std::to_string(kMaxRows) + " rows and 1.." + std::to_string(kMaxTokens) +
                                  " tokens");
    }
  }
  if (inputs != 2 && inputs != 3) {
    throw std::invalid_argument("an engine takes 2 inputs (ids, mask) or 3 (and token types), not " +
                                std::to_string(inputs));
  }
  if (output_width < 1) {
    throw std::invalid_argument("output_width is " + std::to_string(output_width) + ", must be 1 or more");
  }
  std::sort(buckets.begin(), buckets.end(), [](const Bucket& a, const Bucket& b) {
    return a.area() != b.area() ? a.area() < b.area() : a.tokens < b.tokens;
  });
  buckets.erase(std::unique(buckets.begin(), buckets.end()), buckets.end());
}

std::int32_t EngineShape::max_rows() const {
  return largest(buckets, [](const Bucket& b) { return b.rows; });
}

std::int32_t EngineShape::max_tokens() const {
  return largest(buckets, [](const Bucket& b) { return b.tokens; });
}

std::size_t EngineShape::input_stride(const Bucket& bucket) {
  const std::size_t bytes = static_cast<std::size_t>(bucket.area()) * sizeof(std::int32_t);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

std::size_t EngineShape::input_bytes(const Bucket& bucket) const {
  return input_stride(bucket) * static_cast<std::size_t>(inputs);
}

std::size_t EngineShape::output_bytes(const Bucket& bucket) const {
  return static_cast<std::size_t>(bucket.rows) * static_cast<std::size_t>(output_width) * sizeof(float);
}

std::size_t EngineShape::max_input_bytes() const {
  return largest(buckets, [this](const Bucket& b) { return input_bytes(b); });
}

std::size_t EngineShape::max_output_bytes() const {
  return largest(buckets, [this](const Bucket& b) { return output_bytes(b); });
}

}  // namespace searchpipe::runtime

#include "runtime/shape.h"

#include <algorithm>
#include <stdexcept>

#include "core/message.h"

namespace searchpipe::runtime {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::int32_t kMaxRows = 1 << 16;
constexpr std::int32_t kMaxRowTokens = 1 << 15;
constexpr std::int32_t kMaxPackedTokens = 1 << 22;

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
  const std::int32_t most_tokens = packed() ? kMaxPackedTokens : kMaxRowTokens;
  for (const Bucket& bucket : buckets) {
    if (bucket.rows < 1 || bucket.rows > kMaxRows || bucket.tokens < 1 || bucket.tokens > most_tokens) {
      throw std::invalid_argument(message("bucket ", to_string(bucket), " is outside 1..", kMaxRows,
                                          " rows and 1..", most_tokens, " tokens"));
    }
  }
  if (packed()) {
    validate_packed();
  } else {
    if (inputs != 2 && inputs != 3) {
      throw std::invalid_argument(message(
          "an engine of padded rows takes 2 inputs (ids, mask) or 3 (and token types), not ", inputs));
    }
    longest_row = largest(buckets, [](const Bucket& b) { return b.tokens; });
  }
  if (output_width < 1) {
    throw std::invalid_argument(message("output_width is ", output_width, ", must be 1 or more"));
  }
  std::sort(buckets.begin(), buckets.end(), [this](const Bucket& a, const Bucket& b) {
    return places(a) != places(b) ? places(a) < places(b)
           : a.tokens != b.tokens ? a.tokens < b.tokens
                                  : a.rows < b.rows;
  });
  buckets.erase(std::unique(buckets.begin(), buckets.end()), buckets.end());
}

void EngineShape::validate_packed() const {
  if (longest_row < 1 || longest_row > kMaxRowTokens) {
    throw std::invalid_argument(message("longest_row is ", longest_row, ", must be 1 to ", kMaxRowTokens));
  }
  if (inputs != 5 && inputs != 6) {
    throw std::invalid_argument(
        message("an engine of packed rows takes 5 inputs or, with token types, 6, not ", inputs));
  }
  for (const Bucket& bucket : buckets) {
    if (bucket.tokens > std::int64_t{bucket.rows} * longest_row) {
      throw std::invalid_argument(message("bucket ", to_string(bucket), " has more tokens than ", bucket.rows,
                                          " rows of ", longest_row, " can have"));
    }
  }
  if (largest(buckets, [](const Bucket& b) { return b.tokens; }) < longest_row) {
    throw std::invalid_argument(message("no bucket has the tokens of the longest row, ", longest_row));
  }
}

std::int64_t EngineShape::places(const Bucket& bucket) const {
  return packed() ? bucket.tokens : std::int64_t{bucket.rows} * bucket.tokens;
}

std::int32_t EngineShape::max_rows() const {
  return largest(buckets, [](const Bucket& b) { return b.rows; });
}

InputBlock EngineShape::input_block(const Bucket& bucket) const {
  const auto tokens = static_cast<std::size_t>(places(bucket));
  const auto rows = static_cast<std::size_t>(bucket.rows);
  InputBlock block;
  const auto add = [&block](InputArray& array, std::size_t elements) {
    array = {block.bytes, elements};
    block.bytes += (elements * sizeof(std::int32_t) + kAlignment - 1) / kAlignment * kAlignment;
  };
  if (!packed()) {
    for (std::int32_t input = 0; input < inputs; ++input) {
      add(block.arrays[static_cast<std::size_t>(input)], tokens);
    }
    block.sent_bytes = block.bytes;
    return block;
  }
  auto& [ids, positions, ends, firsts, token_offset, types] = block.arrays;
  const bool typed = inputs == 6;
  add(ids, tokens);
  add(ends, rows + 1);
  if (typed) add(block.splits, rows);
  block.sent_bytes = block.bytes;
  add(positions, tokens);
  add(firsts, rows);
  add(token_offset, rows * static_cast<std::size_t>(longest_row));
  if (typed) add(types, tokens);
  return block;
}

std::size_t EngineShape::output_bytes(const Bucket& bucket) const {
  return static_cast<std::size_t>(bucket.rows) * static_cast<std::size_t>(output_width) * sizeof(float);
}

std::size_t EngineShape::max_input_bytes() const {
  return largest(buckets, [this](const Bucket& b) { return input_block(b).bytes; });
}

std::size_t EngineShape::max_sent_bytes() const {
  return largest(buckets, [this](const Bucket& b) { return input_block(b).sent_bytes; });
}

std::size_t EngineShape::max_output_bytes() const {
  return largest(buckets, [this](const Bucket& b) { return output_bytes(b); });
}

}  // namespace searchpipe::runtime

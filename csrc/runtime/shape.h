#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace searchpipe::runtime {

// A batch shape that an engine is prepared for: rows x tokens.
struct Bucket {
  std::int32_t rows = 0;
  std::int32_t tokens = 0;

  std::int64_t area() const { return std::int64_t{rows} * tokens; }
  bool operator==(const Bucket&) const = default;
};

std::string to_string(const Bucket& bucket);  // "64 x 96"

// What an engine takes and gives: `inputs` arrays of int32 [rows, tokens]
// (token ids, attention mask and, if three, token types) and one array of
// float32 [rows, output_width] (1 for a cross-encoder, the vector's length
// for an encoder).
struct EngineShape {
  std::vector<Bucket> buckets;
  std::int32_t inputs = 3;
  std::int32_t output_width = 1;

  // Throws std::invalid_argument naming what is wrong. Sorts the buckets by area and drops duplicates.
  void validate();
  std::int32_t max_rows() const;
  std::int32_t max_tokens() const;
  // Bytes from one input array to the next: a bucket's inputs lie in one block, each at a multiple of 256
  // bytes as TensorRT wants it, so that one copy moves them all.
  static std::size_t input_stride(const Bucket& bucket);
  std::size_t input_bytes(const Bucket& bucket) const;
  std::size_t output_bytes(const Bucket& bucket) const;
  std::size_t max_input_bytes() const;
  std::size_t max_output_bytes() const;
};

}  // namespace searchpipe::runtime

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace searchpipe::runtime {

// How the rows of a batch lie in its inputs.
enum class RowLayout {
  kPadded,  // a matrix: every row takes as many places as the widest
  kPacked,  // one row after the other, nothing between them
};

// A batch shape that an engine is prepared for: rows, and tokens of each row (padded) or of all rows together
// (packed).
struct Bucket {
  std::int32_t rows = 0;
  std::int32_t tokens = 0;

  bool operator==(const Bucket&) const = default;
};

std::string to_string(const Bucket& bucket);  // "64 x 96"

// Where an array of int32 lies in the block of a bucket's inputs.
struct InputArray {
  std::size_t offset = 0;    // bytes from the block's start
  std::size_t elements = 0;  // 0 for one that the engine does not have
};

// A bucket's inputs lie in one block, each at a multiple of 256 bytes as TensorRT wants it. What the host
// writes comes first, so that one copy moves it; the rest of a packed batch is made of that on the device.
struct InputBlock {
  std::array<InputArray, 6> arrays;  // EngineShape's `inputs` of them, in its order
  InputArray splits;  // [R], packed with token types only: tokens of each row before the first of type 1
  std::size_t sent_bytes = 0;
  std::size_t bytes = 0;
};

// What an engine takes and gives. Inputs, all int32, for a bucket of R rows and T tokens:
//
//   padded   ids [R, T], mask [R, T] and, if three, token types [R, T]
//   packed   ids [T], positions in their row [T], ends [R + 1] (row r is tokens ends[r] to ends[r + 1], rows
//            that are not there are empty), firsts [R] (each row's first token; 0 for rows that are not
//            there), token_offset [R, longest_row] (first, for every token, row x longest_row + position;
//            then the places of that matrix that no token has) and, if six, token types [T]; tokens behind
//            the last row, which no row contains, have id, position and type 0
//
// The output is float32 [R, output_width]: 1 for a cross-encoder, the vector's length for an encoder.
struct EngineShape {
  std::vector<Bucket> buckets;
  std::int32_t inputs = 3;
  std::int32_t output_width = 1;
  RowLayout layout = RowLayout::kPadded;
  std::int32_t longest_row = 0;  // tokens; validate() sets it for padded engines

  // Throws std::invalid_argument naming what is wrong. Sorts the buckets by places and drops duplicates.
  void validate();
  bool packed() const { return layout == RowLayout::kPacked; }
  // Token places of a batch, whether tokens are in them or not.
  std::int64_t places(const Bucket& bucket) const;
  std::int32_t max_rows() const;
  InputBlock input_block(const Bucket& bucket) const;
  std::size_t output_bytes(const Bucket& bucket) const;
  std::size_t max_input_bytes() const;
  std::size_t max_sent_bytes() const;  // of the inputs
  std::size_t max_output_bytes() const;
  bool operator==(const EngineShape&) const = default;

 private:
  void validate_packed() const;
};

}  // namespace searchpipe::runtime

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/postings_index.h"

namespace searchpipe {

// One list of a query.
struct QueryList {
  ListView list;
  float weight;  // times an impact it is a part of a score
  float bound;   // of all its parts
};

// Finds in one range of documents after the other those with the best scores; one thread. All ranges may be
// searched by it, or by several of them.
class RangeSearch {
 public:
  // Scores are added up for so many documents at once: 128 KiB of them stay in a processor's second-level
  // cache.
  static constexpr std::uint32_t kLongest = 32768;

  // `lists` by their bounds, the largest first; `mask` as search_postings() takes it. Both must outlive it.
  RangeSearch(std::span<const QueryList> lists, std::uint32_t documents, std::span<const std::uint8_t> mask);
  RangeSearch(const RangeSearch&) = delete;
  RangeSearch& operator=(const RangeSearch&) = delete;

  // All allowed documents of the `width` ones from `begin` on that have more than `threshold`, and perhaps
  // some others. Ranges come in ascending order; `begin` is a multiple of `width`, a power of two. Throws
  // std::runtime_error for a damaged index.
  void search(std::uint32_t begin, std::uint32_t width, float threshold);

  // What the last range gave, ascending.
  std::size_t found() const { return found_; }
  std::uint32_t doc(std::size_t i) const;
  float score(std::size_t i) const;

 private:
  struct Scratch;

  // A list's documents in the block at hand.
  struct BlockList {
    RunView run;
    float weight;
    double rest;  // no document gets more from this list and those after it
    // The first of its postings that is not before `place` of the block, as far as it has been searched for.
    std::uint32_t place = 0;
    std::uint32_t begin = 0;
  };

  static Scratch& own_scratch();
  static std::uint32_t position(const BlockList& list, std::uint32_t place);
  void open_block(std::uint32_t block);
  bool can_rise(double bound) const { return bound * slack_ > threshold_; }
  float limit(std::size_t next) const;
  std::size_t share(const RunView& run) const;
  RunView part_of(BlockList& list) const;
  void add(BlockList& list);
  std::size_t add_up();
  std::size_t added_postings(std::size_t first, std::size_t last) const;
  std::size_t candidates(float threshold) const;
  void take(std::size_t next);
  void drop_forbidden();
  bool few_allowed();
  void look_up(std::size_t number);

  std::span<const QueryList> lists_;
  std::vector<std::size_t> next_run_;  // of each list
  std::uint32_t documents_;
  std::span<const std::uint8_t> mask_;
  Scratch& scratch_;
  double slack_;

  std::uint32_t block_number_ = ~0u;
  std::vector<BlockList> block_;

  // The range at hand, in places of its block; what was found are the first places of the scratch.
  float threshold_ = 0.0f;
  std::uint32_t range_begin_ = 0;
  std::uint32_t range_width_ = 0;
  std::uint32_t range_size_ = 0;  // less where the index ends
  std::vector<RunView> added_;
  std::size_t essential_ = 0;
  std::size_t found_ = 0;
};

}  // namespace searchpipe

#include "core/postings_search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <stdexcept>

#include "core/message.h"
#include "core/postings_kernels.h"
#include "core/top_docs.h"

namespace searchpipe {
namespace {

// Scores are added up for so many documents at once: 128 KiB of them stay in a processor's second-level
// cache.
constexpr std::uint32_t kRange = 32768;
// The first ranges are smaller: they are searched without a threshold, or with one that is far too low.
constexpr std::uint32_t kFirstRange = 2048;
// Up to this share of a range's places, what was added is walked through again instead of all its scores.
constexpr std::size_t kSparse = 16;
// Looking a document up in a run costs about as much as adding up so many of its postings.
constexpr std::size_t kLookupPostings = 64;
// The same for the documents that a mask allows, most of which fall behind after the first lists.
constexpr std::size_t kAllowedPostings = 32;
// Adding so few postings up costs less than to find out whether looking them up would cost less.
constexpr std::size_t kCheapPostings = 2048;
// Of so many postings is concluded how many documents would be looked up.
constexpr std::size_t kSample = 64;
// A smaller weight could vanish in float32, and with it the match.
constexpr float kLeastWeight = 1e-30f;

// What a thread needs to search a range. All scores are 0 between ranges.
struct Scratch {
  alignas(64) std::array<float, kRange> scores{};
  std::array<float, kRange> found_scores;
  std::array<std::uint16_t, kRange> found_places;
  bool in_use = false;  // stays true where a search was given up by an exception
};

Scratch& own_scratch() {
  thread_local std::unique_ptr<Scratch> scratch;
  if (!scratch) scratch = std::make_unique<Scratch>();
  if (scratch->in_use) scratch->scores.fill(0.0f);
  scratch->in_use = true;
  return *scratch;
}

// One list of the query.
struct QueryList {
  ListView list;
  float weight;  // times an impact it is a part of a score
  float bound;   // of all its parts
  std::size_t next_run = 0;
};

// Its documents in the block at hand.
struct BlockList {
  RunView run;
  float weight;
  double rest;  // no document gets more from this list and those after it
  // The first of its postings that is not before `place` of the block, as far as it has been searched for.
  std::uint32_t place = 0;
  std::uint32_t begin = 0;
};

std::vector<QueryList> lists_of(const PostingsIndex& index, std::span<const std::string_view> terms,
                                std::span<const double> boosts) {
  std::vector<ListView> found;
  for (const std::string_view term : terms) index.find(term, found);
  std::vector<QueryList> lists;
  for (const ListView& list : found) {
    const double boost = boosts[list.field()];
    if (!(boost > 0.0) || list.postings() == 0) continue;
    const double count = list.postings();
    const double idf = std::log1p((static_cast<double>(index.size()) - count + 0.5) / (count + 0.5));
    const float weight = std::max(static_cast<float>(boost * idf / kImpactScale), kLeastWeight);
    std::uint16_t largest = 0;
    for (const PostingsRun& run : list.runs()) largest = std::max(largest, run.largest);
    lists.push_back({list, weight, weight * largest});
  }
  std::stable_sort(lists.begin(), lists.end(),
                   [](const QueryList& a, const QueryList& b) { return a.bound > b.bound; });
  return lists;
}

class RangeSearch {
 public:
  RangeSearch(std::vector<QueryList> lists, std::uint32_t documents, std::size_t k,
              std::span<const std::uint8_t> mask)
      : lists_(std::move(lists)), documents_(documents), mask_(mask), top_(k), scratch_(own_scratch()) {
    // Bounds are sums in another order than the scores: each addition may round by half a unit, 6e-8.
    slack_ = 1.0 + 2e-7 * static_cast<double>(lists_.size() + 2);
  }

  ScoredDocs run() {
    std::uint32_t width = std::min(kFirstRange, kRange);
    for (std::uint32_t begin = 0; begin < documents_;) {
      if (begin % kBlockDocuments == 0) open_block(begin);
      search_range(begin % kBlockDocuments, width);
      begin += width;
      if (width < kRange && begin % (2 * width) == 0) width *= 2;
    }
    ScoredDocs found;
    top_.take([&](std::uint32_t doc, float score) {
      found.docs.push_back(static_cast<std::int32_t>(doc));
      found.scores.push_back(score);
    });
    scratch_.in_use = false;
    return found;
  }

 private:
  void open_block(std::uint32_t begin) {
    block_begin_ = begin;
    block_.clear();
    for (QueryList& query : lists_) {
      const auto runs = query.list.runs();
      while (query.next_run < runs.size() && runs[query.next_run].block < begin / kBlockDocuments) {
        ++query.next_run;
      }
      if (query.next_run == runs.size() || runs[query.next_run].block != begin / kBlockDocuments) continue;
      const RunView run = query.list.run(query.next_run);
      if (run.size > 0) {
        block_.push_back({run, query.weight, double{query.weight} * runs[query.next_run].largest});
      }
    }
    for (std::size_t i = block_.size(); i-- > 1;) block_[i - 1].rest += block_[i].rest;
  }

  // `place` of the block and the `width` documents from there on; both are multiples of a power of two.
  void search_range(std::uint32_t place, std::uint32_t width) {
    if (block_.empty() || !can_rise(block_.front().rest)) return;
    range_begin_ = place;
    range_width_ = width;
    range_size_ = std::min(width, documents_ - block_begin_ - place);
    found_ = 0;
    std::size_t next = 0;
    if (!few_allowed()) {
      next = add_up();
      take(next);
      if (!mask_.empty()) drop_forbidden();
    }
    for (; next < block_.size() && found_ > 0; ++next) look_up(next);
    for (std::size_t i = 0; i < found_; ++i) {
      const float score = scratch_.found_scores[i];
      if (score > top_.threshold()) top_.push(block_begin_ + scratch_.found_places[i], score);
    }
    top_.tighten();
  }

  bool can_rise(double bound) const { return bound * slack_ > top_.threshold(); }

  double rest_from(std::size_t list) const { return list < block_.size() ? block_[list].rest : 0.0; }

  // A document that has not more than this without the lists from `next` on cannot get among the best.
  float limit(std::size_t next) const {
    if (next >= block_.size()) return top_.threshold();
    return static_cast<float>(top_.threshold() / slack_ - block_[next].rest * slack_);
  }

  // About how many of its documents are in the range.
  std::size_t share(const RunView& run) const {
    return std::size_t{run.size} * range_width_ / kBlockDocuments + 1;
  }

  // Its documents in the range.
  RunView part_of(BlockList& list) const {
    const RunView& run = list.run;
    const std::size_t begin = position(list, range_begin_);
    list.place = range_begin_ + range_width_;
    list.begin = position_of(run, list.place);
    if (begin >= list.begin) return {run.places, run.impacts, 0};
    return {run.places + begin, run.impacts + begin, static_cast<std::uint32_t>(list.begin - begin)};
  }

  static std::uint32_t position(const BlockList& list, std::uint32_t place) {
    return list.place == place ? list.begin : position_of(list.run, place);
  }

  static std::uint32_t position_of(const RunView& run, std::uint32_t place) {
    if (place >= kBlockDocuments) return run.size;
    return static_cast<std::uint32_t>(place_from(run.places, run.size, static_cast<std::uint16_t>(place)));
  }

  void add(BlockList& list) {
    const RunView part = part_of(list);
    add_impacts(scratch_.scores.data(), part.places, part.impacts, part.size, list.weight, range_width_ - 1);
    added_.push_back(part);
  }

  // Adds lists up as long as documents that have only those after them could get among the best, the
  // essential ones, and then as long as this costs less than looking up what has been found. Returns the
  // first list that was not added.
  std::size_t add_up() {
    added_.clear();
    std::size_t next = 0;
    for (; next < block_.size() && can_rise(block_[next].rest); ++next) add(block_[next]);
    essential_ = next;
    for (; next < block_.size(); ++next) {
      const std::size_t postings = share(block_[next].run);
      if (postings > kCheapPostings && candidates(limit(next)) * kLookupPostings < postings) break;
      add(block_[next]);
    }
    return next;
  }

  std::size_t added_postings(std::size_t first, std::size_t last) const {
    std::size_t postings = 0;
    for (std::size_t i = first; i < last; ++i) postings += added_[i].size;
    return postings;
  }

  // About how many documents of the range have more than `threshold`, most often a little too many.
  std::size_t candidates(float threshold) const {
    const std::size_t step = added_postings(0, essential_) / kSample + 1;
    std::size_t found = 1;
    for (std::size_t i = 0; i < essential_; ++i) {
      const RunView& part = added_[i];
      for (std::size_t at = step / 2; at < part.size; at += step) {
        found += scratch_.scores[part.places[at] & (range_width_ - 1)] > threshold;
      }
    }
    return step * found;
  }

  // What can get among the best has one of the essential lists.
  void take(std::size_t next) {
    const float threshold = std::max(limit(next), 0.0f);
    float* const scores = scratch_.scores.data();
    std::uint16_t* const places = scratch_.found_places.data();
    float* const found = scratch_.found_scores.data();
    if (added_postings(0, essential_) > range_width_ / kSparse) {
      found_ = take_above(scores, range_width_, threshold, range_begin_, places, found);
      while (found_ > 0 && places[found_ - 1] - range_begin_ >= range_size_) --found_;
      return;
    }
    for (std::size_t i = 0; i < essential_; ++i) {
      found_ += take_listed(scores, added_[i].places, added_[i].size, threshold, range_begin_, range_size_,
                            range_width_ - 1, places + found_, found + found_);
    }
    if (added_postings(essential_, added_.size()) > range_width_ / kSparse) {
      std::fill(scores, scores + range_width_, 0.0f);
      return;
    }
    for (std::size_t i = essential_; i < added_.size(); ++i) {
      clear_listed(scores, added_[i].places, added_[i].size, range_width_ - 1);
    }
  }

  void drop_forbidden() {
    const std::uint8_t* const mask = mask_.data() + block_begin_;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < found_; ++i) {
      const std::uint16_t place = scratch_.found_places[i];
      scratch_.found_places[kept] = place;
      scratch_.found_scores[kept] = scratch_.found_scores[i];
      kept += mask[place] != 0;
    }
    found_ = kept;
  }

  // Where looking the allowed documents up is cheaper than adding all lists up, these are what is found.
  bool few_allowed() {
    if (mask_.empty()) return false;
    const auto mask = mask_.subspan(block_begin_ + range_begin_, range_size_);
    std::size_t allowed = 0;
    for (std::size_t begin = 0; begin < mask.size(); begin += 128) {
      std::uint8_t some = 0;  // 8 bits are enough for 128 and quick to add in vector registers
      const std::size_t end = std::min(begin + 128, mask.size());
      for (std::size_t place = begin; place < end; ++place) some += mask[place] != 0;
      allowed += some;
    }
    std::size_t postings = 0;
    for (const BlockList& list : block_) postings += share(list.run);
    if (allowed * block_.size() * kAllowedPostings > postings) return false;
    for (std::size_t place = 0; place < mask.size(); ++place) {
      if (mask[place] == 0) continue;
      scratch_.found_places[found_] = static_cast<std::uint16_t>(range_begin_ + place);
      scratch_.found_scores[found_++] = 0.0f;
    }
    return true;
  }

  // Adds list `number` to what was found, and drops what falls behind.
  void look_up(std::size_t number) {
    const BlockList& list = block_[number];
    found_ = add_looked_up(list.run.places, list.run.impacts, list.run.size, list.weight, limit(number + 1),
                           scratch_.found_places.data(), scratch_.found_scores.data(), found_);
  }

  std::vector<QueryList> lists_;
  std::uint32_t documents_;
  std::span<const std::uint8_t> mask_;
  TopDocs top_;
  Scratch& scratch_;
  double slack_ = 1.0;

  std::uint32_t block_begin_ = 0;
  std::vector<BlockList> block_;

  // The range at hand, in places of its block; what was found are the first places of the scratch.
  std::uint32_t range_begin_ = 0;
  std::uint32_t range_width_ = 0;
  std::uint32_t range_size_ = 0;  // less where the index ends
  std::vector<RunView> added_;
  std::size_t essential_ = 0;
  std::size_t found_ = 0;
};

}  // namespace

ScoredDocs search_postings(const PostingsIndex& index, std::span<const std::string_view> terms,
                           std::span<const double> boosts, std::int64_t k,
                           std::span<const std::uint8_t> mask) {
  if (boosts.size() != index.fields()) {
    throw std::invalid_argument(
        message(boosts.size(), " boosts for ", index.fields(), " fields; pass one for each"));
  }
  for (const double boost : boosts) {
    if (!(boost < 1e6)) throw std::invalid_argument(message("a boost of ", boost, "; it must be below 1e6"));
  }
  if (!mask.empty() && mask.size() != static_cast<std::size_t>(index.size())) {
    throw std::invalid_argument(
        message("a mask of ", mask.size(), " entries for ", index.size(), " documents; pass one for each"));
  }
  k = std::min(k, index.size());
  if (k <= 0) return {};
  auto lists = lists_of(index, terms, boosts);
  if (lists.empty()) return {};
  return RangeSearch(std::move(lists), static_cast<std::uint32_t>(index.size()), static_cast<std::size_t>(k),
                     mask)
      .run();
}

}  // namespace searchpipe

#include "core/range_search.h"

#include <algorithm>
#include <array>
#include <memory>

#include "core/postings_kernels.h"

namespace searchpipe {
namespace {

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

std::uint32_t position_of(const RunView& run, std::uint32_t place) {
  if (place >= kBlockDocuments) return run.size;
  return static_cast<std::uint32_t>(place_from(run.places, run.size, static_cast<std::uint16_t>(place)));
}

}  // namespace

// What a thread needs to search a range. All scores are 0 between ranges.
struct RangeSearch::Scratch {
  alignas(64) std::array<float, kLongest> scores{};
  std::array<float, kLongest> found_scores;
  std::array<std::uint16_t, kLongest> found_places;
  bool in_use = false;  // stays true where a search was given up by an exception
};

RangeSearch::Scratch& RangeSearch::own_scratch() {
  thread_local std::unique_ptr<Scratch> scratch;
  if (!scratch) scratch = std::make_unique<Scratch>();
  return *scratch;
}

RangeSearch::RangeSearch(std::span<const QueryList> lists, std::uint32_t documents,
                         std::span<const std::uint8_t> mask)
    : lists_(lists),
      next_run_(lists.size()),
      documents_(documents),
      mask_(mask),
      scratch_(own_scratch()),
      // Bounds are sums in another order than the scores: each addition may round by half a unit, 6e-8.
      slack_(1.0 + 2e-7 * static_cast<double>(lists.size() + 2)) {}

std::uint32_t RangeSearch::doc(std::size_t i) const {
  return block_number_ * kBlockDocuments + scratch_.found_places[i];
}

float RangeSearch::score(std::size_t i) const { return scratch_.found_scores[i]; }

void RangeSearch::search(std::uint32_t begin, std::uint32_t width, float threshold) {
  found_ = 0;
  threshold_ = threshold;
  if (begin / kBlockDocuments != block_number_) open_block(begin / kBlockDocuments);
  if (block_.empty() || !can_rise(block_.front().rest)) return;
  range_begin_ = begin % kBlockDocuments;
  range_width_ = width;
  range_size_ = std::min(width, documents_ - begin);
  if (scratch_.in_use) scratch_.scores.fill(0.0f);
  scratch_.in_use = true;
  std::size_t next = 0;
  if (!few_allowed()) {
    next = add_up();
    take(next);
    if (!mask_.empty()) drop_forbidden();
  }
  for (; next < block_.size() && found_ > 0; ++next) look_up(next);
  scratch_.in_use = false;
}

void RangeSearch::open_block(std::uint32_t block) {
  block_number_ = block;
  block_.clear();
  for (std::size_t i = 0; i < lists_.size(); ++i) {
    const QueryList& query = lists_[i];
    const auto runs = query.list.runs();
    std::size_t& next = next_run_[i];
    while (next < runs.size() && runs[next].block < block) ++next;
    if (next == runs.size() || runs[next].block != block) continue;
    const RunView run = query.list.run(next);
    if (run.size > 0) block_.push_back({run, query.weight, double{query.weight} * runs[next].largest});
  }
  for (std::size_t i = block_.size(); i-- > 1;) block_[i - 1].rest += block_[i].rest;
}

// A document that has not more than this without the lists from `next` on cannot get among the best.
float RangeSearch::limit(std::size_t next) const {
  if (next >= block_.size()) return threshold_;
  return static_cast<float>(threshold_ / slack_ - block_[next].rest * slack_);
}

// About how many of its documents are in the range.
std::size_t RangeSearch::share(const RunView& run) const {
  return std::size_t{run.size} * range_width_ / kBlockDocuments + 1;
}

// Its documents in the range.
RunView RangeSearch::part_of(BlockList& list) const {
  const RunView& run = list.run;
  const std::size_t begin = position(list, range_begin_);
  list.place = range_begin_ + range_width_;
  list.begin = position_of(run, list.place);
  if (begin >= list.begin) return {run.places, run.impacts, 0};
  return {run.places + begin, run.impacts + begin, static_cast<std::uint32_t>(list.begin - begin)};
}

std::uint32_t RangeSearch::position(const BlockList& list, std::uint32_t place) {
  return list.place == place ? list.begin : position_of(list.run, place);
}

void RangeSearch::add(BlockList& list) {
  const RunView part = part_of(list);
  add_impacts(scratch_.scores.data(), part.places, part.impacts, part.size, list.weight, range_width_ - 1);
  added_.push_back(part);
}

// Adds lists up as long as documents that have only those after them could get among the best, the
// essential ones, and then as long as this costs less than looking up what has been found. Returns the
// first list that was not added.
std::size_t RangeSearch::add_up() {
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

std::size_t RangeSearch::added_postings(std::size_t first, std::size_t last) const {
  std::size_t postings = 0;
  for (std::size_t i = first; i < last; ++i) postings += added_[i].size;
  return postings;
}

// About how many documents of the range have more than `threshold`, most often a little too many.
std::size_t RangeSearch::candidates(float threshold) const {
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
void RangeSearch::take(std::size_t next) {
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

void RangeSearch::drop_forbidden() {
  const std::uint8_t* const mask = mask_.data() + block_number_ * std::size_t{kBlockDocuments};
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
bool RangeSearch::few_allowed() {
  if (mask_.empty()) return false;
  const auto mask = mask_.subspan(block_number_ * std::size_t{kBlockDocuments} + range_begin_, range_size_);
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
void RangeSearch::look_up(std::size_t number) {
  const BlockList& list = block_[number];
  found_ = add_looked_up(list.run.places, list.run.impacts, list.run.size, list.weight, limit(number + 1),
                         scratch_.found_places.data(), scratch_.found_scores.data(), found_);
}

}  // namespace searchpipe

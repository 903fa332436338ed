#include "core/postings_search.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "core/message.h"
#include "core/relax.h"

namespace searchpipe {
namespace {

// The first ranges are smaller: they are searched without a threshold, or with one that is far too low.
constexpr std::uint32_t kFirstRange = 2048;
// A smaller weight could vanish in float32, and with it the match.
constexpr float kLeastWeight = 1e-30f;
// How long who waits asks again and again before it sleeps: another thread's last range takes less.
constexpr std::chrono::microseconds kAsking{100};

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

void check(const PostingsIndex& index, std::span<const double> boosts, std::span<const std::uint8_t> mask) {
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
}

}  // namespace

PostingsSearch::PostingsSearch(const PostingsIndex& index, std::vector<std::string_view> terms,
                               std::vector<double> boosts, std::int64_t k, std::span<const std::uint8_t> mask)
    : index_(index),
      terms_(std::move(terms)),
      boosts_(std::move(boosts)),
      mask_(mask),
      top_(static_cast<std::size_t>(std::clamp<std::int64_t>(k, 1, std::max<std::int64_t>(index.size(), 1)))),
      documents_(k > 0 ? static_cast<std::uint32_t>(index.size()) : 0),
      width_(kFirstRange) {
  check(index, boosts_, mask);
}

void PostingsSearch::run(Clock::time_point until) {
  {
    std::lock_guard lock(mutex_);
    if (ended()) return;
    if (first_ == Clock::time_point{}) first_ = Clock::now();
    ++working_;
  }
  try {
    work(until);
  } catch (...) {
    fail(std::current_exception());
  }
  {
    std::lock_guard lock(mutex_);
    if (--working_ > 0 || next_ < documents_) return;
    last_ = Clock::now();
    ended_.store(true, std::memory_order_release);
  }
  changed_.notify_all();
}

void PostingsSearch::work(Clock::time_point until) {
  std::call_once(prepared_, [this] { prepare(); });
  Range range;
  if (!claim(range, until)) return;
  RangeSearch ranges(lists_, documents_, mask_);
  do {
    ranges.search(range.begin, range.width, range.threshold);
    offer(range, ranges);
  } while (claim(range, until));
}

// A failure is kept rather than thrown: another thread would try again.
void PostingsSearch::prepare() {
  try {
    if (documents_ > 0) lists_ = lists_of(index_, terms_, boosts_);
  } catch (...) {
    fail(std::current_exception());
  }
  std::lock_guard lock(mutex_);
  if (lists_.empty()) next_ = documents_;
}

bool PostingsSearch::claim(Range& range, Clock::time_point until) {
  if (until != Clock::time_point::max() && Clock::now() >= until) return false;
  std::lock_guard lock(mutex_);
  if (next_ >= documents_) return false;
  range = {next_, width_, top_.threshold()};
  // Where a later range was searched before, an equal score with a smaller ordinal can still get in.
  if (offered_end_ > next_ && range.threshold > 0.0f) range.threshold = std::nextafter(range.threshold, 0.0f);
  next_ += width_;
  if (width_ < RangeSearch::kLongest && next_ % (2 * width_) == 0) width_ *= 2;
  return true;
}

void PostingsSearch::offer(const Range& range, const RangeSearch& ranges) {
  if (ranges.found() == 0) return;
  std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < ranges.found(); ++i) {
    if (ranges.score(i) > range.threshold) top_.push(ranges.doc(i), ranges.score(i));
  }
  top_.tighten();
  offered_end_ = std::max(offered_end_, range.begin + range.width);
}

void PostingsSearch::fail(std::exception_ptr error) {
  std::lock_guard lock(mutex_);
  if (!error_) error_ = std::move(error);
  next_ = documents_;
}

void PostingsSearch::abandon() {
  std::unique_lock lock(mutex_);
  next_ = documents_;
  changed_.wait(lock, [this] { return working_ == 0; });
  if (ended()) return;
  last_ = first_;
  ended_.store(true, std::memory_order_release);
}

bool PostingsSearch::wait(Clock::time_point until) const {
  const Clock::time_point asking = std::min(until, Clock::now() + kAsking);
  while (!ended() && Clock::now() < asking) relax();
  if (ended()) return true;
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, until, [this] { return ended(); });
}

ScoredDocs PostingsSearch::found() {
  if (!ended()) throw std::logic_error("the search has not ended");
  std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
  ScoredDocs found;
  found.docs.reserve(top_.size());
  found.scores.reserve(top_.size());
  top_.take([&](std::uint32_t doc, float score) {
    found.docs.push_back(static_cast<std::int32_t>(doc));
    found.scores.push_back(score);
  });
  return found;
}

double PostingsSearch::seconds() const {
  std::lock_guard lock(mutex_);
  return ended() ? std::chrono::duration<double>(last_ - first_).count() : 0.0;
}

ScoredDocs search_postings(const PostingsIndex& index, std::span<const std::string_view> terms,
                           std::span<const double> boosts, std::int64_t k,
                           std::span<const std::uint8_t> mask) {
  PostingsSearch search(index, {terms.begin(), terms.end()}, {boosts.begin(), boosts.end()}, k, mask);
  search.run();
  return search.found();
}

}  // namespace searchpipe

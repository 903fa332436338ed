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

// Fewer postings than this are walked through again instead of all scores of a block.
constexpr std::size_t kFewPostings = 4096;
// Looking a document up in a run costs about as much as adding up so many of its postings.
constexpr std::size_t kLookupPostings = 32;
// Lists that together have no more are added up at once: looking for candidates first would cost more.
constexpr std::size_t kSmallRest = 16384;
// A smaller weight could vanish in float32, and with it the match.
constexpr float kLeastWeight = 1e-30f;

// What a thread needs to search a block. All scores are 0 between searches.
struct Scratch {
  alignas(64) std::array<float, kBlockDocuments> scores{};
  std::array<std::uint16_t, kBlockDocuments> places;
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

class BlockSearch {
 public:
  BlockSearch(std::vector<QueryList> lists, std::uint32_t documents, std::size_t k,
              std::span<const std::uint8_t> mask)
      : lists_(std::move(lists)), documents_(documents), mask_(mask), top_(k), scratch_(own_scratch()) {
    // Bounds are sums in another order than the scores: each addition may round by half a unit, 6e-8.
    slack_ = 1.0 + 2e-7 * static_cast<double>(lists_.size() + 2);
  }

  ScoredDocs run() {
    for (std::uint32_t begin = 0; begin < documents_;) {
      const std::uint32_t size = std::min(kBlockDocuments, documents_ - begin);
      search_block(begin, size);
      begin += size;
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
  void search_block(std::uint32_t begin, std::uint32_t size) {
    begin_ = begin;
    size_ = size;
    open_runs(begin / kBlockDocuments);
    if (block_.empty() || !can_rise(block_.front().rest)) return;
    bool all = true;
    std::size_t added = 0;
    if (few_allowed()) {
      all = false;
    } else {
      // Documents that have only the lists after these cannot get among the best.
      while (added < block_.size() && can_rise(block_[added].rest)) ++added;
      std::size_t left = 0;
      for (std::size_t i = added; i < block_.size(); ++i) left += block_[i].run.size;
      if (left <= kSmallRest) added = block_.size();
      for (std::size_t i = 0; i < added; ++i) add(block_[i]);
      all = added == block_.size();
      collect(all ? 0.0 : block_[added].rest);
    }
    if (!all) complete(added);
    for (std::size_t i = 0; i < found_; ++i) {
      const std::uint16_t place = scratch_.places[i];
      const float score = scratch_.scores[place];
      if (score > top_.threshold()) top_.push(begin_ + place, score);
    }
    top_.tighten();
    clear();
  }

  bool can_rise(double bound) const { return bound * slack_ > top_.threshold(); }

  void open_runs(std::uint32_t block) {
    block_.clear();
    added_.clear();
    added_postings_ = 0;
    found_ = 0;
    for (QueryList& query : lists_) {
      const auto runs = query.list.runs();
      while (query.next_run < runs.size() && runs[query.next_run].block < block) ++query.next_run;
      if (query.next_run == runs.size() || runs[query.next_run].block != block) continue;
      const RunView run = query.list.run(query.next_run);
      if (run.size > 0) {
        block_.push_back({run, query.weight, double{query.weight} * runs[query.next_run].largest});
      }
    }
    for (std::size_t i = block_.size(); i-- > 1;) block_[i - 1].rest += block_[i].rest;
  }

  void add(const BlockList& list) {
    add_impacts(scratch_.scores.data(), list.run.places, list.run.impacts, list.run.size, list.weight);
    added_.push_back(list.run);
    added_postings_ += list.run.size;
  }

  bool is_allowed(std::uint16_t place) const { return mask_.empty() || mask_[begin_ + place] != 0; }

  // Where looking the allowed documents up is cheaper than adding all lists up, these are what is found.
  bool few_allowed() {
    if (mask_.empty()) return false;
    const auto mask = mask_.subspan(begin_, size_);
    std::size_t allowed = 0;
    for (std::size_t begin = 0; begin < mask.size(); begin += 128) {
      std::uint8_t some = 0;  // 8 bits are enough for 128 and quick to add in vector registers
      const std::size_t end = std::min(begin + 128, mask.size());
      for (std::size_t place = begin; place < end; ++place) some += mask[place] != 0;
      allowed += some;
    }
    std::size_t postings = 0;
    for (const BlockList& list : block_) postings += list.run.size;
    if (allowed * block_.size() * kLookupPostings > postings) return false;
    for (std::size_t place = 0; place < mask.size(); ++place) {
      if (mask[place] != 0) scratch_.places[found_++] = static_cast<std::uint16_t>(place);
    }
    return true;
  }

  // Finds the documents of the lists added so far that can rise above the threshold by `rest` more.
  void collect(double rest) {
    const double limit = top_.threshold() / slack_ - rest * slack_;
    const auto threshold = rest == 0.0 ? top_.threshold() : static_cast<float>(std::max(limit, 0.0));
    if (added_postings_ <= kFewPostings) {
      for (const RunView& run : added_) {
        for (std::size_t i = 0; i < run.size; ++i) {
          const std::uint16_t place = run.places[i];
          if (place < size_ && scratch_.scores[place] > threshold) scratch_.places[found_++] = place;
        }
      }
      const auto begin = scratch_.places.begin();
      std::sort(begin, begin + static_cast<std::ptrdiff_t>(found_));
      found_ =
          static_cast<std::size_t>(std::unique(begin, begin + static_cast<std::ptrdiff_t>(found_)) - begin);
    } else {
      found_ = places_above(scratch_.scores.data(), size_, threshold, scratch_.places.data());
    }
    if (!mask_.empty()) keep_if([this](std::uint16_t place) { return is_allowed(place); });
  }

  // Adds the lists from `first` on to what was found, and drops what falls behind.
  void complete(std::size_t first) {
    for (std::size_t i = first; i < block_.size() && found_ > 0; ++i) {
      if (block_[i].run.size > kLookupPostings * found_) {
        look_up(block_[i]);
      } else {
        add(block_[i]);
      }
      const double rest = i + 1 < block_.size() ? block_[i + 1].rest : 0.0;
      keep_if([&](std::uint16_t place) {
        float& score = scratch_.scores[place];
        const bool rises = can_rise(score + rest);
        if (!rises) score = 0.0f;  // clear() may not know it any more
        return rises;
      });
    }
  }

  // Documents are spread over a block more or less evenly, so that a place is found near its share of the
  // run.
  void look_up(const BlockList& list) {
    const RunView& run = list.run;
    for (std::size_t i = 0; i < found_; ++i) {
      const std::uint16_t place = scratch_.places[i];
      std::size_t low = (std::size_t{place} * run.size) / kBlockDocuments;
      std::size_t high = low;
      for (std::size_t step = 8; high < run.size && run.places[high] < place; step *= 2) {
        low = high;
        high = std::min<std::size_t>(high + step, run.size);
      }
      for (std::size_t step = 8; low > 0 && run.places[low] > place; step *= 2) {
        high = low;
        low -= std::min(step, low);
      }
      const std::uint16_t* const end = run.places + std::min<std::size_t>(high + 1, run.size);
      const std::uint16_t* const at = std::lower_bound(run.places + low, end, place);
      if (at != end && *at == place) scratch_.scores[place] += list.weight * run.impacts[at - run.places];
    }
  }

  template <class Keep>
  void keep_if(Keep keep) {
    const auto begin = scratch_.places.begin();
    const auto end = std::remove_if(begin, begin + static_cast<std::ptrdiff_t>(found_),
                                    [&](std::uint16_t place) { return !keep(place); });
    found_ = static_cast<std::size_t>(end - begin);
  }

  void clear() {
    if (added_postings_ > kFewPostings) {
      scratch_.scores.fill(0.0f);
      return;
    }
    for (std::size_t i = 0; i < found_; ++i) scratch_.scores[scratch_.places[i]] = 0.0f;
    for (const RunView& run : added_) {
      for (std::size_t i = 0; i < run.size; ++i) scratch_.scores[run.places[i]] = 0.0f;
    }
  }

  std::vector<QueryList> lists_;
  std::uint32_t documents_;
  std::span<const std::uint8_t> mask_;
  TopDocs top_;
  Scratch& scratch_;
  double slack_ = 1.0;

  // The block at hand; what was found are the first places of the scratch.
  std::uint32_t begin_ = 0;
  std::uint32_t size_ = 0;
  std::vector<BlockList> block_;
  std::vector<RunView> added_;
  std::size_t added_postings_ = 0;
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
  return BlockSearch(std::move(lists), static_cast<std::uint32_t>(index.size()), static_cast<std::size_t>(k),
                     mask)
      .run();
}

}  // namespace searchpipe

#include "core/postings_part.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace searchpipe {
namespace {

constexpr std::size_t kTextChunk = 256 * 1024;
// A key, its entry in the hash table and its place in the order of the spilled records.
constexpr std::size_t kListBytes = 96;

template <class Value>
std::span<const std::byte> bytes_of(const std::vector<Value>& values) {
  return std::as_bytes(std::span<const Value>(values));
}

}  // namespace

std::string_view PostingsPart::keep(std::string_view text) {
  if (text_.empty() || text_.back().capacity() - text_.back().size() < text.size()) {
    text_.emplace_back().reserve(std::max(kTextChunk, text.size()));
    text_bytes_ += text_.back().capacity();
  }
  std::vector<char>& chunk = text_.back();
  const std::size_t begin = chunk.size();
  chunk.insert(chunk.end(), text.begin(), text.end());
  return {chunk.data() + begin, text.size()};
}

std::uint32_t PostingsPart::list_of(std::size_t field, std::string_view term) {
  auto& lists = lists_[field];
  const auto known = lists.find(term);
  if (known != lists.end()) return known->second;
  const auto list = static_cast<std::uint32_t>(keys_.size());
  const std::string_view kept = keep(term);
  keys_.push_back({kept, static_cast<std::uint32_t>(field), 0});
  lists.emplace(kept, list);
  return list;
}

void PostingsPart::add(std::uint16_t place, std::size_t field, std::span<const std::string_view> terms) {
  found_.clear();
  for (const std::string_view term : terms) found_.push_back(list_of(field, term));
  std::sort(found_.begin(), found_.end());
  for (auto next = found_.begin(); next != found_.end();) {
    const auto end = std::upper_bound(next, found_.end(), *next);
    postings_.push_back({*next, static_cast<std::uint32_t>(end - next), place});
    ++keys_[*next].postings;
    next = end;
  }
}

std::size_t PostingsPart::memory_bytes() const {
  // A vector that doubles has both sizes for a moment; sorting takes a place and a frequency more.
  constexpr std::size_t kPosting = 2 * sizeof(Posting) + sizeof(std::uint16_t) + sizeof(std::uint32_t);
  return postings_.size() * kPosting + keys_.size() * kListBytes + text_bytes_;
}

SpilledPart PostingsPart::spill(std::uint32_t block, TemporaryFile& file) {
  SpilledPart part{block, file.size(), 0};
  // Documents came in ascending order, and a counting sort keeps it within each list.
  std::vector<std::uint32_t> next(keys_.size());
  std::uint32_t total = 0;
  for (std::size_t list = 0; list < keys_.size(); ++list) {
    next[list] = total;
    total += keys_[list].postings;
  }
  std::vector<std::uint16_t> places(postings_.size());
  std::vector<std::uint32_t> frequencies(postings_.size());
  for (const Posting& posting : postings_) {
    const std::uint32_t at = next[posting.list]++;
    places[at] = posting.place;
    frequencies[at] = posting.frequency;
  }
  std::vector<std::uint32_t> order(keys_.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return std::tie(keys_[a].term, keys_[a].field) < std::tie(keys_[b].term, keys_[b].field);
  });
  for (const std::uint32_t list : order) {
    const ListKey& key = keys_[list];
    const PartRecord record{static_cast<std::uint32_t>(key.term.size()), key.field, key.postings};
    const std::size_t begin = next[list] - key.postings;
    file.append(std::as_bytes(std::span(&record, 1)));
    file.append(std::as_bytes(std::span(key.term)));
    file.append(bytes_of(places).subspan(begin * sizeof(places[0]), key.postings * sizeof(places[0])));
    file.append(
        bytes_of(frequencies).subspan(begin * sizeof(frequencies[0]), key.postings * sizeof(frequencies[0])));
  }
  part.end = file.size();
  for (auto& lists : lists_) lists.clear();
  keys_.clear();
  postings_.clear();
  text_.clear();
  text_bytes_ = 0;
  return part;
}

}  // namespace searchpipe

#include "core/reasons.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "core/candidates.h"

namespace searchpipe {
namespace {

// The first place of `doc`, from 1; 0 if it is absent. A block at a time without an end inside it, so that
// the loop runs in vector registers.
std::int32_t place_of(std::int32_t doc, std::span<const std::int32_t> order) {
  constexpr std::size_t kBlock = 64;
  std::size_t start = 0;
  for (; start + kBlock <= order.size(); start += kBlock) {
    std::int32_t hits = 0;
    for (std::size_t i = 0; i < kBlock; ++i) hits |= order[start + i] == doc ? 1 : 0;
    if (hits != 0) break;
  }
  const auto found = std::find(order.begin() + static_cast<std::ptrdiff_t>(start), order.end(), doc);
  return found == order.end() ? 0 : static_cast<std::int32_t>(found - order.begin()) + 1;
}

std::vector<std::int32_t> places_of(std::span<const std::int32_t> docs,
                                    const std::vector<NamedOrder>& orders) {
  // A page's few documents are found sooner by comparing than through a table of them.
  constexpr std::size_t kFew = 32;
  if (docs.size() > kFew) {
    std::vector<std::span<const std::int32_t>> spans;
    spans.reserve(orders.size());
    for (const NamedOrder& order : orders) spans.push_back(order.docs);
    return places_in(docs, spans);
  }
  std::vector<std::int32_t> places;
  places.reserve(docs.size() * orders.size());
  for (const NamedOrder& order : orders) {
    for (const std::int32_t doc : docs) places.push_back(place_of(doc, order.docs));
  }
  return places;
}

void append_number(std::string& text, std::int32_t value) {
  char digits[12];
  text.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}

}  // namespace

PlaceReasons::PlaceReasons(std::span<const std::int32_t> docs, std::vector<NamedOrder> orders)
    : count_(docs.size()), orders_(std::move(orders)), places_(places_of(docs, orders_)) {}

bool PlaceReasons::word(const NamedOrder& order, std::int32_t place, std::int32_t before) {
  if (order.kind == OrderKind::kSource && place == 0) {
    text_.assign("not found by ").append(order.name).append(" recall");
    return true;
  }
  text_.assign(order.name);
  if (order.kind != OrderKind::kStage) {
    append_number(text_.append(" rank "), place);
    return true;
  }
  if (place == 0 || before == 0 || place == before) return false;
  append_number(text_.append(place < before ? " moved it up " : " moved it down "), std::abs(before - place));
  return true;
}

}  // namespace searchpipe

#include "core/reasons.h"

#include <cstdlib>

#include "core/candidates.h"

namespace searchpipe {

std::vector<std::vector<std::string>> place_reasons(std::span<const std::int32_t> docs,
                                                    std::span<const NamedOrder> orders) {
  std::vector<std::span<const std::int32_t>> spans;
  spans.reserve(orders.size());
  for (const NamedOrder& order : orders) spans.push_back(order.docs);
  const std::vector<std::int32_t> places = places_in(docs, spans);  // from 1; 0 where it is absent
  std::vector<std::vector<std::string>> reasons(docs.size());
  for (std::size_t doc = 0; doc < docs.size(); ++doc) {
    reasons[doc].reserve(orders.size());
    std::int32_t before = 0;
    for (std::size_t i = 0; i < orders.size(); ++i) {
      const std::string& name = orders[i].name;
      const std::int32_t place = places[i * docs.size() + doc];
      if (orders[i].kind == OrderKind::kSource) {
        reasons[doc].push_back(place != 0 ? name + " rank " + std::to_string(place)
                                          : "not found by " + name + " recall");
        continue;
      }
      if (orders[i].kind == OrderKind::kFused) {
        reasons[doc].push_back(name + " rank " + std::to_string(place));
      } else if (place != 0 && before != 0 && place != before) {
        reasons[doc].push_back(name + " moved it " + (place < before ? "up " : "down ") +
                               std::to_string(std::abs(before - place)));
      }
      if (place != 0) before = place;
    }
  }
  return reasons;
}

}  // namespace searchpipe

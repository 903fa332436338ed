#include "core/quota.h"

#include <algorithm>
#include <stdexcept>

#include "core/message.h"

namespace searchpipe {
namespace {

// Renumbers groups to 0..count-1 in increasing order of their number; returns count.
std::size_t renumber(const std::int32_t* groups, std::vector<std::int32_t>& slots) {
  const std::size_t size = slots.size();
  const std::int32_t top = size == 0 ? -1 : *std::max_element(groups, groups + size);
  if (top < 0) {
    std::fill(slots.begin(), slots.end(), -1);
    return 0;
  }
  // Group numbers are mostly small (codes of a column): a table is then far cheaper than sorting.
  if (static_cast<std::size_t>(top) < 16 * size + 1024) {
    std::vector<std::int32_t> table(static_cast<std::size_t>(top) + 1, -1);
    for (std::size_t i = 0; i < size; ++i) {
      if (groups[i] >= 0) table[groups[i]] = 0;
    }
    std::int32_t count = 0;
    for (std::int32_t& entry : table) {
      if (entry == 0) entry = count++;
    }
    for (std::size_t i = 0; i < size; ++i) slots[i] = groups[i] < 0 ? -1 : table[groups[i]];
    return static_cast<std::size_t>(count);
  }
  std::vector<std::int32_t> sorted(groups, groups + size);
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  if (sorted.front() < 0) sorted.erase(sorted.begin());
  for (std::size_t i = 0; i < size; ++i) {
    const auto found = std::lower_bound(sorted.begin(), sorted.end(), groups[i]);
    slots[i] = groups[i] < 0 ? -1 : static_cast<std::int32_t>(found - sorted.begin());
  }
  return sorted.size();
}

}  // namespace

Quota::Quota(const std::int32_t* groups, std::size_t size, std::int64_t limit, std::int64_t window)
    : slots_(size), limit_(limit), window_(window) {
  if (limit < 1) {
    throw std::invalid_argument(
        message("quota limit is ", limit,
                "; at least 1 item of a group must be allowed (filter to exclude a group)"));
  }
  if (window < 0) {
    throw std::invalid_argument(
        message("quota window is ", window, "; give its places, or 0 for the whole list"));
  }
  for (std::size_t i = 0; i < size; ++i) {
    if (groups[i] < -1) {
      throw std::invalid_argument(
          message("groups[", i, "] is ", groups[i], "; groups are numbered from 0, and -1 means no group"));
    }
  }
  begins_.assign(renumber(groups, slots_) + 1, 0);
  for (const std::int32_t slot : slots_) {
    if (slot >= 0) ++begins_[slot + 1];
  }
  for (std::size_t slot = 1; slot < begins_.size(); ++slot) begins_[slot] += begins_[slot - 1];
  members_.resize(begins_.back());
  std::vector<std::size_t> next(begins_);
  for (std::size_t i = 0; i < size; ++i) {
    if (slots_[i] >= 0) members_[next[slots_[i]]++] = static_cast<std::uint32_t>(i);
  }
}

QuotaTracker::QuotaTracker(const Quotas& quotas, std::size_t size) : quotas_(quotas) {
  for (std::size_t q = 0; q < quotas_.size(); ++q) {
    if (quotas_[q]->size() != size) {
      throw std::invalid_argument(message("quotas[", q, "] has groups of ", quotas_[q]->size(),
                                          " candidates, but ", size,
                                          " candidates were given; both must be parallel"));
    }
    counts_.emplace_back(quotas_[q]->group_count(), 0);
  }
  if (!quotas_.empty()) excess_.assign(size, 0);
}

const std::vector<std::uint32_t>& QuotaTracker::place(std::size_t candidate) {
  changed_.clear();
  placed_.push_back(static_cast<std::uint32_t>(candidate));
  for (std::size_t q = 0; q < quotas_.size(); ++q) {
    // The window of the next place holds the window - 1 places before it. A window of one place binds
    // nothing.
    const auto window = static_cast<std::uint64_t>(quotas_[q]->window());
    count(q, candidate, +1);
    if (window > 0 && placed_.size() >= window) count(q, placed_[placed_.size() - window], -1);
  }
  return changed_;
}

void QuotaTracker::count(std::size_t quota, std::size_t candidate, int step) {
  const Quota& rule = *quotas_[quota];
  const std::int32_t slot = rule.slot(candidate);
  if (slot < 0) return;
  std::int64_t& held = counts_[quota][slot];
  // One more item of the group would exceed the limit by held + 1 - limit.
  const std::int64_t before = std::max<std::int64_t>(0, held + 1 - rule.limit());
  held += step;
  const std::int64_t after = std::max<std::int64_t>(0, held + 1 - rule.limit());
  if (before == after) return;
  for (const std::uint32_t* member = rule.members_begin(slot); member != rule.members_end(slot); ++member) {
    excess_[*member] += static_cast<std::int32_t>(after - before);
    changed_.push_back(*member);
  }
}

}  // namespace searchpipe

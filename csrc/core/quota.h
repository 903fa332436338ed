#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace searchpipe {

// "At most `limit` of one group in any `window` consecutive places"; window 0 means the whole list.
// Immutable, so any number of threads may share one.
class Quota {
 public:
  // `groups`: the group of each candidate, -1 for none (such a candidate is never held back).
  // Throws std::invalid_argument for groups below -1, limit < 1 or window < 0.
  Quota(const std::int32_t* groups, std::size_t size, std::int64_t limit, std::int64_t window);

  std::size_t size() const { return slots_.size(); }
  std::int64_t limit() const { return limit_; }
  std::int64_t window() const { return window_; }
  std::size_t group_count() const { return begins_.size() - 1; }

  // The candidate's group as a number below group_count(), or -1.
  std::int32_t slot(std::size_t candidate) const { return slots_[candidate]; }
  const std::uint32_t* members_begin(std::int32_t slot) const { return members_.data() + begins_[slot]; }
  const std::uint32_t* members_end(std::int32_t slot) const { return members_.data() + begins_[slot + 1]; }

 private:
  std::vector<std::int32_t> slots_;
  std::vector<std::size_t> begins_;  // members of slot s: members_[begins_[s]] up to members_[begins_[s + 1]]
  std::vector<std::uint32_t> members_;  // candidates by group
  std::int64_t limit_;
  std::int64_t window_;
};

using Quotas = std::vector<std::shared_ptr<const Quota>>;

// What several quotas say about the next place while a list is filled from its top. One thread at a time.
class QuotaTracker {
 public:
  // Throws std::invalid_argument when a quota is not about `size` candidates.
  QuotaTracker(const Quotas& quotas, std::size_t size);

  // By how many items the quotas together would be exceeded if `candidate` took the next place; 0 = eligible.
  std::int32_t excess(std::size_t candidate) const { return excess_.empty() ? 0 : excess_[candidate]; }

  // Puts `candidate` into the next place. Returns the candidates whose eligibility may have changed; the
  // reference is valid until the next call.
  const std::vector<std::uint32_t>& place(std::size_t candidate);

 private:
  void count(std::size_t quota, std::size_t candidate, int step);

  Quotas quotas_;
  std::vector<std::vector<std::int64_t>> counts_;  // per quota and group, inside the window of the next place
  std::vector<std::int32_t> excess_;
  std::vector<std::uint32_t> placed_;
  std::vector<std::uint32_t> changed_;
};

}  // namespace searchpipe

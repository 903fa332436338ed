#include "runtime/batch.h"

#include <algorithm>

namespace searchpipe::runtime {

Batch make_batch(const Wave& wave, const BucketBatch& cut, bool exact_shape) {
  constexpr int kNone = -1;
  constexpr int kEnded = -2;
  Batch batch;
  batch.bucket = cut.bucket;
  batch.shape = cut.shape;
  std::int32_t longest = 0;
  std::vector<int> group_of(wave.requests.size(), kNone);
  for (const Row& row : std::span(wave.rows).subspan(cut.begin, cut.end - cut.begin)) {
    int& group = group_of[row.request];
    if (group == kNone) {
      const TicketPtr& ticket = wave.requests[row.request];
      group = ticket->done() ? kEnded : static_cast<int>(batch.groups.size());
      if (group != kEnded) {
        batch.groups.push_back({ticket, {}, {}, 0});
        if (group_of.size() == 1) batch.groups.back().rows.reserve(cut.end - cut.begin);
      }
    }
    if (group == kEnded) continue;
    batch.groups[static_cast<std::size_t>(group)].rows.push_back(row.row);
    ++batch.rows;
    batch.real_tokens += static_cast<std::uint64_t>(row.length);
    longest = std::max(longest, row.length);
  }
  if (exact_shape) batch.shape = {static_cast<std::int32_t>(batch.rows), longest};
  return batch;
}

std::vector<DeviceCopy> pack(Batch& batch, Executor& executor) {
  const SlotView view = executor.view(batch.slot, batch.shape);
  RowMemory memory(executor.shape(), batch.shape, view);
  const std::size_t row_bytes = static_cast<std::size_t>(executor.shape().output_width) * sizeof(float);
  std::vector<DeviceCopy> copies;
  std::vector<std::int32_t> lengths;  // of the rows written
  lengths.reserve(batch.rows);
  std::size_t first = 0;
  for (Group& group : batch.groups) {
    const std::vector<std::int32_t>& known = group.ticket->source().lengths();
    group.first = first;
    group.order = group.ticket->source().write(group.rows, memory);
    std::size_t tokens = 0;
    for (const std::int32_t place : group.order) {
      const auto row = static_cast<std::size_t>(group.rows[static_cast<std::size_t>(place)]);
      lengths.push_back(known[row]);
      tokens += static_cast<std::size_t>(lengths.back());
    }
    memory = memory.after(group.rows.size(), tokens);
    if (const std::uint64_t target = group.ticket->options().device_output; target != 0) {
      for (std::size_t i = 0; i < group.order.size(); ++i) {
        const auto row = static_cast<std::size_t>(group.rows[static_cast<std::size_t>(group.order[i])]);
        copies.push_back({static_cast<std::int32_t>(first + i), target + row * row_bytes});
      }
    }
    first += group.rows.size();
  }
  complete_rows(lengths, executor.shape(), batch.shape, view);
  return copies;
}

void scatter(const Batch& batch, Executor& executor) {
  const SlotView view = executor.view(batch.slot, batch.shape);
  const auto width = static_cast<std::size_t>(executor.shape().output_width);
  for (const Group& group : batch.groups) {
    for (std::size_t i = 0; i < group.order.size(); ++i) {
      group.ticket->store(group.rows[static_cast<std::size_t>(group.order[i])],
                          view.output + (group.first + i) * width);
    }
  }
}

}  // namespace searchpipe::runtime

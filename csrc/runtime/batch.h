#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/bucket_batches.h"
#include "runtime/executor.h"
#include "runtime/ticket.h"

namespace searchpipe::runtime {

// A row that was chosen to run next.
struct Row {
  TicketPtr ticket;
  std::int32_t row;
  std::int32_t length;
};

// Rows of one request in a batch: row first + i of the batch is row rows[order[i]] of the request.
struct Group {
  TicketPtr ticket;
  std::vector<std::int32_t> rows;
  std::vector<std::int32_t> order;
  std::size_t first = 0;
};

struct Batch {
  int slot = -1;
  int bucket = 0;
  Bucket shape;
  std::vector<Group> groups;
  std::uint64_t rows = 0;
  std::uint64_t real_tokens = 0;
  bool lone = false;  // begun by the thread that asked
};

// Gathers rows [cut.begin, cut.end) by request, leaving out those whose request has ended meanwhile.
Batch make_batch(std::span<const Row> wave, const BucketBatch& cut, bool exact_shape);

// Writes the batch into its slot; returns the rows that are wanted in device memory
// too.
std::vector<DeviceCopy> pack(Batch& batch, Executor& executor);

// Hands the slot's output back to the requests, which are yet to be settled.
void scatter(const Batch& batch, Executor& executor);

}  // namespace searchpipe::runtime

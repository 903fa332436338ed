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
  std::uint32_t request;  // which of those chosen with it
  std::int32_t row;
  std::int32_t length;
};

// Rows that were chosen together, and the requests that they are of.
struct Wave {
  std::vector<TicketPtr> requests;
  std::vector<Row> rows;
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
Batch make_batch(const Wave& wave, const BucketBatch& cut, bool exact_shape);

// Writes the batch into its slot; returns the rows that are wanted in device memory
// too.
std::vector<DeviceCopy> pack(Batch& batch, Executor& executor);

// Hands the slot's output back to the requests, which are yet to be settled.
void scatter(const Batch& batch, Executor& executor);

}  // namespace searchpipe::runtime

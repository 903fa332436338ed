#include "runtime/pair_rows.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace searchpipe::runtime {
namespace {

OutputMatrix matrix(std::int32_t* data, std::size_t rows, std::int32_t width) {
  return {reinterpret_cast<std::byte*>(data), ElementType::kInt32, static_cast<std::int64_t>(rows), width,
          static_cast<std::ptrdiff_t>(width) * static_cast<std::ptrdiff_t>(sizeof(std::int32_t))};
}

}  // namespace

PairRows::PairRows(const PairPacker& packer, std::shared_ptr<const TokenStore> store,
                   std::vector<std::int32_t> query, std::vector<std::int32_t> docs)
    : packer_(packer), store_(std::move(store)), query_(std::move(query)), docs_(std::move(docs)) {
  lengths_.resize(docs_.size());
  documents_.resize(docs_.size());
  packer_.lengths(query_, docs_, *store_, lengths_, documents_);
}

void PairRows::write_packed(std::span<const std::int32_t> rows, const RowMemory& memory) const {
  std::int32_t* out = memory.ids;
  for (const std::int32_t row : rows) {
    out = packer_.write_row(query_, documents_[static_cast<std::size_t>(row)], *store_, out);
  }
  if (memory.splits != nullptr) {
    std::fill_n(memory.splits, rows.size(), packer_.tokens_before_document(query_));
  }
}

std::vector<std::int32_t> PairRows::write(std::span<const std::int32_t> rows, const RowMemory& memory) const {
  if (memory.layout == RowLayout::kPacked) {
    write_packed(rows, memory);
    std::vector<std::int32_t> order(rows.size());
    std::iota(order.begin(), order.end(), 0);
    return order;
  }
  std::vector<std::int32_t> docs;
  docs.reserve(rows.size());
  for (const std::int32_t row : rows) docs.push_back(docs_[static_cast<std::size_t>(row)]);
  const std::span<const std::int32_t> queries[] = {query_};
  PackOutputs out{
      matrix(memory.ids, rows.size(), memory.width), matrix(memory.mask, rows.size(), memory.width), {}};
  if (memory.types != nullptr) out.token_type_ids = matrix(memory.types, rows.size(), memory.width);
  return packer_.pack({queries, {}, docs}, *store_, out).permutation;
}

}  // namespace searchpipe::runtime

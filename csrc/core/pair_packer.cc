#include "core/pair_packer.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <stdexcept>

#include "core/longest_first.h"
#include "core/message.h"

namespace searchpipe {

namespace {
constexpr std::int32_t kSpecialTokens = 3;  // [CLS], and [SEP] behind the query and the document
}  // namespace

struct PairPacker::Row {
  std::span<const std::int32_t> query;  // truncated
  TokenRange document;                  // whole
  std::int32_t document_tokens;         // kept of it
  std::int32_t length;
  std::int32_t position;
};

namespace {

template <class Element>
Element* row_of(const OutputMatrix& out, std::size_t row) {
  return reinterpret_cast<Element*>(out.data + static_cast<std::ptrdiff_t>(row) * out.row_stride);
}

void check_output(const OutputMatrix& out, const char* name, const PackedLayout& layout) {
  const auto rows = static_cast<std::int64_t>(layout.lengths.size());
  if (out.rows < rows) {
    throw std::invalid_argument(message(name, " has ", out.rows, " rows, ", rows,
                                        " pairs need one each; pass a buffer of at least ", rows, " rows"));
  }
  if (out.columns < layout.width) {
    throw std::invalid_argument(message(name, " has ", out.columns, " columns, the longest row takes ",
                                        layout.width,
                                        "; pass a buffer of at least layout(...).width columns"));
  }
  const std::ptrdiff_t row_bytes = out.columns * (out.type == ElementType::kInt32 ? 4 : 8);
  if (rows > 1 && std::abs(out.row_stride) < row_bytes) {
    throw std::invalid_argument(message(name, " has rows ", out.row_stride, " bytes apart that take ",
                                        row_bytes, " bytes each; pass a buffer whose rows do not overlap"));
  }
}

// 1 for tokens, 0 for padding.
template <class Element>
void write_mask(std::span<const std::int32_t> lengths, const OutputMatrix& out) {
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    Element* const begin = row_of<Element>(out, row);
    std::fill_n(std::fill_n(begin, lengths[row], Element{1}), out.columns - lengths[row], Element{0});
  }
}

// 0 for [CLS] query [SEP], 1 for document [SEP], 0 for padding.
template <class Element, class Rows>
void write_types(const Rows& rows, const OutputMatrix& out) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::int32_t length = rows[i].length;
    const std::int32_t second = rows[i].document_tokens + 1;
    Element* const begin = row_of<Element>(out, i);
    Element* const end = std::fill_n(std::fill_n(begin, length - second, Element{0}), second, Element{1});
    std::fill_n(end, out.columns - length, Element{0});
  }
}

void check_queries(std::span<const std::span<const std::int32_t>> queries) {
  for (std::size_t query = 0; query < queries.size(); ++query) {
    const auto ids = queries[query];
    const auto negative = std::find_if(ids.begin(), ids.end(), [](std::int32_t id) { return id < 0; });
    if (negative != ids.end()) {
      throw std::invalid_argument(message("token ", negative - ids.begin(), " of query ", query, " is ",
                                          *negative, "; token ids are not negative"));
    }
  }
}

void check_count(std::size_t pairs) {
  if (pairs > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw std::invalid_argument(message(pairs, " pairs in one batch; at most 2147483647 are possible"));
  }
}

std::span<const std::int32_t> query_of(const PairBatch& batch, std::size_t position) {
  const std::int32_t query = batch.query_of_row.empty() ? 0 : batch.query_of_row[position];
  if (query < 0 || static_cast<std::size_t>(query) >= batch.queries.size()) {
    throw std::out_of_range(message("query_of_row[", position, "] is ", query, ", outside of the ",
                                    batch.queries.size(), " queries"));
  }
  return batch.queries[static_cast<std::size_t>(query)];
}

}  // namespace

PairPacker::PairPacker(SpecialTokens special, PairLimits limits) : special_(special), limits_(limits) {
  if (special.cls < 0 || special.sep < 0 || special.pad < 0) {
    throw std::invalid_argument(message("cls_id, sep_id and pad_id are ", special.cls, ", ", special.sep,
                                        ", ", special.pad, "; token ids are not negative"));
  }
  if (limits.max_query_tokens < 1 || limits.max_doc_tokens < 1) {
    throw std::invalid_argument(message("max_query_tokens is ", limits.max_query_tokens,
                                        " and max_doc_tokens ", limits.max_doc_tokens,
                                        "; each must be at least 1"));
  }
  if (limits.max_tokens > kLargestMaxTokens) {
    throw std::invalid_argument(
        message("max_tokens is ", limits.max_tokens, "; at most ", kLargestMaxTokens, " are possible"));
  }
  if (limits.max_tokens < std::int64_t{limits.max_query_tokens} + 3) {
    throw std::invalid_argument(message("max_tokens is ", limits.max_tokens, "; max_query_tokens (",
                                        limits.max_query_tokens,
                                        ") and three special tokens must fit: lower max_query_tokens"));
  }
}

std::int32_t PairPacker::kept_of_query(std::size_t tokens) const {
  return static_cast<std::int32_t>(std::min(tokens, static_cast<std::size_t>(limits_.max_query_tokens)));
}

std::int32_t PairPacker::kept_of_document(std::int32_t tokens, std::int32_t query_tokens) const {
  return std::min({tokens, limits_.max_doc_tokens, limits_.max_tokens - kSpecialTokens - query_tokens});
}

std::vector<PairPacker::Row> PairPacker::plan(const PairBatch& batch, const TokenStore& store,
                                              PackedLayout& layout) const {
  const std::size_t count = batch.docs.size();
  if (!batch.query_of_row.empty() && batch.query_of_row.size() != count) {
    throw std::invalid_argument(message("query_of_row has ", batch.query_of_row.size(), " entries and docs ",
                                        count, "; they must be equally long"));
  }
  check_count(count);
  check_queries(batch.queries);

  std::vector<Row> pairs(count);
  std::vector<std::int32_t> lengths(count);
  for (std::size_t i = 0; i < count; ++i) {
    Row& pair = pairs[i];
    pair.query = query_of(batch, i);
    const std::int32_t query_tokens = kept_of_query(pair.query.size());
    pair.query = pair.query.first(static_cast<std::size_t>(query_tokens));
    pair.document = store.range(batch.docs[i]);
    pair.document_tokens = kept_of_document(pair.document.length, query_tokens);
    pair.length = query_tokens + pair.document_tokens + kSpecialTokens;
    pair.position = static_cast<std::int32_t>(i);
    lengths[i] = pair.length;
  }

  layout.permutation = longest_first(lengths);
  layout.lengths.resize(count);
  std::vector<Row> rows(count);
  for (std::size_t row = 0; row < count; ++row) {
    rows[row] = pairs[static_cast<std::size_t>(layout.permutation[row])];
    layout.lengths[row] = rows[row].length;
    layout.total_tokens += rows[row].length;
  }
  layout.width = count == 0 ? 0 : layout.lengths.front();
  return rows;
}

std::int64_t PairPacker::lengths(std::span<const std::int32_t> query, std::span<const std::int32_t> docs,
                                 const TokenStore& store, std::span<std::int32_t> out) const {
  return lengths(query, docs, store, out, {});
}

std::int64_t PairPacker::lengths(std::span<const std::int32_t> query, std::span<const std::int32_t> docs,
                                 const TokenStore& store, std::span<std::int32_t> out,
                                 std::span<TokenRange> kept) const {
  if (out.size() != docs.size() || (!kept.empty() && kept.size() != docs.size())) {
    throw std::invalid_argument(message("out has room for ", out.size(), " lengths and ", kept.size(),
                                        " ranges, ", docs.size(), " documents need one each"));
  }
  check_count(docs.size());
  check_queries({&query, 1});
  const std::int32_t query_tokens = kept_of_query(query.size());
  for (const std::int32_t doc : docs) store.prefetch_range(doc);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < docs.size(); ++i) {
    TokenRange document = store.range(docs[i]);
    document.length = kept_of_document(document.length, query_tokens);
    store.prefetch(document, document.length);
    if (!kept.empty()) kept[i] = document;
    out[i] = query_tokens + document.length + kSpecialTokens;
    total += out[i];
  }
  return total;
}

std::int32_t* PairPacker::write_row(std::span<const std::int32_t> query, TokenRange document,
                                    const TokenStore& store, std::int32_t* out) const {
  const auto query_tokens = static_cast<std::size_t>(kept_of_query(query.size()));
  return write_ids({query.first(query_tokens), document, document.length, 0, 0}, store, out);
}

std::int32_t PairPacker::tokens_before_document(std::span<const std::int32_t> query) const {
  return kept_of_query(query.size()) + 2;
}

PackedLayout PairPacker::layout(const PairBatch& batch, const TokenStore& store) const {
  PackedLayout layout;
  plan(batch, store, layout);
  return layout;
}

template <class Id>
Id* PairPacker::write_ids(const Row& row, const TokenStore& store, Id* out) const {
  *out++ = special_.cls;
  out = std::copy(row.query.begin(), row.query.end(), out);
  *out++ = special_.sep;
  store.copy(row.document, row.document_tokens, out);
  out += row.document_tokens;
  *out++ = special_.sep;
  return out;
}

template <class Id>
void PairPacker::write_ids(std::span<const Row> rows, const TokenStore& store,
                           const OutputMatrix& out) const {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Id* const end = write_ids(rows[i], store, row_of<Id>(out, i));
    std::fill_n(end, out.columns - rows[i].length, static_cast<Id>(special_.pad));
  }
}

PackedLayout PairPacker::pack(const PairBatch& batch, const TokenStore& store,
                              const PackOutputs& outputs) const {
  PackedLayout layout;
  const std::vector<Row> rows = plan(batch, store, layout);
  check_output(outputs.input_ids, "input_ids", layout);
  check_output(outputs.attention_mask, "attention_mask", layout);
  if (outputs.token_type_ids) check_output(*outputs.token_type_ids, "token_type_ids", layout);

  const auto with_type = [](const OutputMatrix& out, auto write) {
    out.type == ElementType::kInt32 ? write(std::int32_t{}) : write(std::int64_t{});
  };
  with_type(outputs.input_ids,
            [&](auto element) { write_ids<decltype(element)>(rows, store, outputs.input_ids); });
  with_type(outputs.attention_mask,
            [&](auto element) { write_mask<decltype(element)>(layout.lengths, outputs.attention_mask); });
  if (outputs.token_type_ids) {
    with_type(*outputs.token_type_ids,
              [&](auto element) { write_types<decltype(element)>(rows, *outputs.token_type_ids); });
  }
  return layout;
}

}  // namespace searchpipe

// Many threads pack with one packer and one store, each into its own buffer of exactly the bytes it needs.

#include <algorithm>
#include <limits>
#include <random>
#include <span>
#include <stdexcept>

#include "core/pair_packer.h"
#include "core/token_store_writer.h"
#include "tests/check.h"

using searchpipe::ElementType;
using searchpipe::OutputMatrix;
using searchpipe::PackedLayout;
using searchpipe::PairBatch;
using searchpipe::PairPacker;
using searchpipe::TokenRange;
using searchpipe::TokenStore;
namespace stress = searchpipe::stress;

namespace {

constexpr std::int32_t kDocuments = 500;
constexpr std::int32_t kMaxTokens = 64;

template <class Element>
OutputMatrix matrix(std::vector<Element>& data, std::int64_t rows, std::int64_t columns, bool upside_down) {
  const auto stride = static_cast<std::ptrdiff_t>(columns * static_cast<std::int64_t>(sizeof(Element)));
  auto* const begin = reinterpret_cast<std::byte*>(data.data());
  return {upside_down && rows > 0 ? begin + (rows - 1) * stride : begin,
          sizeof(Element) == 4 ? ElementType::kInt32 : ElementType::kInt64, rows, columns,
          upside_down ? -stride : stride};
}

void pack_at_random(const PairPacker& packer, const TokenStore& store, std::mt19937& random) {
  std::vector<std::vector<std::int32_t>> queries(1 + random() % 4);
  std::vector<std::span<const std::int32_t>> spans;
  for (auto& query : queries) {
    query.assign(random() % 20, static_cast<std::int32_t>(random() % 30000));
    spans.push_back(query);
  }
  std::vector<std::int32_t> docs(random() % 64);
  std::vector<std::int32_t> query_of_row(docs.size());
  for (std::size_t i = 0; i < docs.size(); ++i) {
    docs[i] = static_cast<std::int32_t>(random() % kDocuments);
    query_of_row[i] = static_cast<std::int32_t>(random() % queries.size());
  }
  const PairBatch batch{spans, query_of_row, docs};
  const PackedLayout plan = packer.layout(batch, store);
  if (queries.size() == 1) {
    std::vector<std::int32_t> lengths(docs.size());
    std::vector<TokenRange> kept(docs.size());
    CHECK(packer.lengths(queries[0], docs, store, lengths, kept) == plan.total_tokens);
    for (std::size_t row = 0; row < docs.size(); ++row) {
      CHECK(lengths[static_cast<std::size_t>(plan.permutation[row])] == plan.lengths[row]);
    }
  }
  const auto rows = static_cast<std::int64_t>(docs.size());
  const std::int64_t columns = plan.width + static_cast<std::int64_t>(random() % 4);
  const auto size = static_cast<std::size_t>(rows * columns);
  std::vector<std::int64_t> ids(size, -1);
  std::vector<std::int32_t> mask(size, -1);
  std::vector<std::int64_t> types(size, -1);
  const bool upside_down = random() % 2 == 0;
  const PackedLayout layout =
      packer.pack(batch, store,
                  {matrix(ids, rows, columns, upside_down), matrix(mask, rows, columns, upside_down),
                   matrix(types, rows, columns, upside_down)});
  CHECK(layout.lengths == plan.lengths && layout.permutation == plan.permutation);
  CHECK(std::is_sorted(layout.lengths.rbegin(), layout.lengths.rend()));
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto at = static_cast<std::size_t>((upside_down ? rows - 1 - row : row) * columns);
    const auto position = static_cast<std::size_t>(layout.permutation[static_cast<std::size_t>(row)]);
    const auto& query = queries[static_cast<std::size_t>(query_of_row[position])];
    const auto range = store.range(docs[position]);
    std::vector<std::int64_t> document(static_cast<std::size_t>(range.length));
    store.copy(range, range.length, document.data());
    std::vector<std::int64_t> expected{101};
    expected.insert(expected.end(), query.begin(),
                    query.begin() + std::min<std::ptrdiff_t>(10, std::ssize(query)));
    expected.push_back(102);
    const auto room = static_cast<std::size_t>(kMaxTokens) - 1 - expected.size();
    expected.insert(
        expected.end(), document.begin(),
        document.begin() + static_cast<std::ptrdiff_t>(std::min({document.size(), room, std::size_t{40}})));
    expected.push_back(102);
    const std::size_t length = expected.size();
    expected.resize(static_cast<std::size_t>(columns), 0);
    CHECK(std::equal(expected.begin(), expected.end(), ids.begin() + static_cast<std::ptrdiff_t>(at)));
    CHECK(std::count(mask.begin() + static_cast<std::ptrdiff_t>(at),
                     mask.begin() + static_cast<std::ptrdiff_t>(at) + columns,
                     1) == static_cast<std::ptrdiff_t>(length));
    // The same row alone, without padding; nothing is written behind it.
    std::vector<std::int32_t> single(length + 1, -1);
    std::vector<std::int32_t> row_length(1);
    std::vector<TokenRange> kept(1);
    packer.lengths(query, std::span(docs).subspan(position, 1), store, row_length, kept);
    CHECK(row_length[0] == static_cast<std::int32_t>(length));
    CHECK(packer.write_row(query, kept[0], store, single.data()) == single.data() + length);
    CHECK(single.back() == -1 && std::equal(single.begin(), single.end() - 1, expected.begin()));
    const auto row_types = std::span(types).subspan(at, length);
    CHECK(std::count(row_types.begin(), row_types.end(), 0) == packer.tokens_before_document(query));
    CHECK(std::is_sorted(row_types.begin(), row_types.end()));
  }
  CHECK(std::count(types.begin(), types.end(), -1) == 0);
}

void refuse(const PairPacker& packer, const TokenStore& store) {
  const std::vector<std::int32_t> query{1, 2};
  const std::vector<std::span<const std::int32_t>> spans{query};
  const std::vector<std::int32_t> docs{0, 96};
  const std::vector<std::int32_t> missing{0, kDocuments};
  const std::vector<std::int32_t> rows{0, 1};
  std::vector<std::int32_t> small(8, -1);
  stress::check_throws<std::out_of_range>([&] { packer.layout({spans, {}, missing}, store); });
  stress::check_throws<std::out_of_range>([&] { packer.layout({spans, rows, docs}, store); });
  stress::check_throws<std::out_of_range>([&] { packer.layout({{}, {}, docs}, store); });
  std::vector<std::int32_t> lengths(docs.size());
  stress::check_throws<std::out_of_range>([&] { packer.lengths(query, missing, store, lengths); });
  stress::check_throws<std::invalid_argument>([&] { packer.lengths(query, {}, store, lengths); });
  const OutputMatrix out = matrix(small, 2, 4, false);
  stress::check_throws<std::invalid_argument>([&] { packer.pack({spans, {}, docs}, store, {out, out, {}}); });
  CHECK(std::count(small.begin(), small.end(), -1) == 8);
  constexpr auto kLowest = std::numeric_limits<std::int32_t>::min();
  constexpr auto kHighest = std::numeric_limits<std::int32_t>::max();
  stress::check_throws<std::invalid_argument>([] { PairPacker({1, 2, 0}, {1, 1, kLowest}); });
  stress::check_throws<std::invalid_argument>([] { PairPacker({1, 2, 0}, {kHighest, kHighest, 512}); });
  stress::check_throws<std::invalid_argument>([] { PairPacker({1, 2, 0}, {1, 1, kHighest}); });
}

}  // namespace

int main() {
  const stress::TemporaryFolder folder;
  {
    searchpipe::TokenStoreWriter writer(folder.file("tokens"), 30522);
    for (int doc = 0; doc < kDocuments; ++doc) {
      writer.append(std::vector<std::int32_t>(static_cast<std::size_t>(doc % 97), doc));
    }
    writer.close();
  }
  const TokenStore store(folder.file("tokens"));
  const PairPacker packer({101, 102, 0}, {10, 40, kMaxTokens});
  stress::in_threads(4, [&](int thread) {
    std::mt19937 random(static_cast<unsigned>(thread));
    for (int round = 0; round < 400; ++round) pack_at_random(packer, store, random);
    refuse(packer, store);
  });
}

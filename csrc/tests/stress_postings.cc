// Many threads search one index, each against a plain sum over the documents; others write and replace files
// under the same name; then damaged files are opened and searched.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>

#include "core/postings_index.h"
#include "core/postings_search.h"
#include "core/postings_writer.h"
#include "core/search_threads.h"
#include "tests/check.h"

using searchpipe::PostingsIndex;
using searchpipe::PostingsSearch;
using searchpipe::PostingsWriter;
using searchpipe::ScoredDocs;
using searchpipe::search_postings;
using searchpipe::SearchThreads;
namespace stress = searchpipe::stress;

namespace {

constexpr int kDocuments = 150'000;  // two blocks and a part of a third
const std::vector<double> kBoosts{1.0, 0.5};

// Word w is in every (w + 2)th power-of-two-ish share of the documents.
bool has(int document, int word) {
  const auto mixed =
      static_cast<std::uint32_t>(document) * 2654435761u + static_cast<std::uint32_t>(word) * 40503u;
  return (mixed >> 7) % (1u << (2 * word + 1)) == 0;
}

constexpr int kWords = 6;
const std::vector<std::string> kNames{"w0", "w1", "w2", "w3", "w4", "w5"};

void write(const std::string& path, int documents, std::size_t memory_bytes) {
  PostingsWriter writer(path, 2, memory_bytes);
  std::vector<std::vector<std::string_view>> fields(2);
  for (int document = 0; document < documents; ++document) {
    fields[0].clear();
    for (int word = 0; word < kWords; ++word) {
      if (has(document, word)) fields[0].push_back(kNames[static_cast<std::size_t>(word)]);
    }
    fields[1].assign(document % 5 == 0 ? 1 : 0, "other");
    if (writer.append(fields)) writer.spill_if_due();
  }
  writer.close();
}

std::vector<std::string_view> some_terms(std::mt19937& random) {
  std::vector<std::string_view> terms;
  for (const std::string& name : kNames) {
    if (random() % 2 == 0) terms.push_back(name);
  }
  if (random() % 2 == 0) terms.push_back("other");
  if (random() % 4 == 0) terms.push_back("nowhere");
  return terms;
}

void check_sorted(const ScoredDocs& found, std::int64_t documents) {
  for (std::size_t i = 0; i < found.docs.size(); ++i) {
    CHECK(found.docs[i] >= 0 && found.docs[i] < documents);
    CHECK(i == 0 || found.scores[i - 1] > found.scores[i] ||
          (found.scores[i - 1] == found.scores[i] && found.docs[i - 1] < found.docs[i]));
  }
}

// The best few are the first of all, which nothing can be skipped for.
void search_in_threads(const stress::TemporaryFolder& folder) {
  const std::string path = folder.file("index");
  write(path, kDocuments, std::size_t{1} << 20);
  const PostingsIndex shared(path);
  stress::in_threads(6, [&](int thread) {
    if (thread == 0) {
      for (int round = 0; round < 4; ++round) write(path, 2000 + round, 1 << 14);
      return;
    }
    std::mt19937 random(static_cast<unsigned>(thread));
    std::vector<std::uint8_t> mask(kDocuments);
    for (int round = 0; round < 12; ++round) {
      const auto terms = some_terms(random);
      const std::uint32_t every = round % 3 == 0 ? 1 : round % 3 == 1 ? 3 : 9000;
      for (std::uint8_t& entry : mask) entry = random() % every == 0;
      const auto all = search_postings(shared, terms, kBoosts, kDocuments, {});
      check_sorted(all, kDocuments);
      ScoredDocs expected;
      const std::size_t k = 1 + random() % 500;
      for (std::size_t i = 0; i < all.docs.size() && expected.docs.size() < k; ++i) {
        if (mask[static_cast<std::size_t>(all.docs[i])] == 0) continue;
        expected.docs.push_back(all.docs[i]);
        expected.scores.push_back(all.scores[i]);
      }
      const auto best = search_postings(shared, terms, kBoosts, static_cast<std::int64_t>(k), mask);
      CHECK(best.docs == expected.docs);
      CHECK(best.scores == expected.scores);
    }
    const PostingsIndex current(path);
    check_sorted(search_postings(current, some_terms(random), kBoosts, 10, {}), current.size());
    stress::check_throws<std::invalid_argument>(
        [&] { search_postings(shared, {}, std::vector<double>{1.0}, 10, {}); });
  });
}

// Several threads work on one search, some only for a moment, and others wait for its end.
void share_searches(const stress::TemporaryFolder& folder) {
  const std::string path = folder.file("divided");
  write(path, kDocuments, std::size_t{1} << 20);
  const PostingsIndex index(path);
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    const auto terms = some_terms(random);
    const std::int64_t k = 1 + static_cast<std::int64_t>(random() % 500);
    const auto expected = search_postings(index, terms, kBoosts, k, {});
    PostingsSearch search(index, terms, kBoosts, k, {});
    stress::in_threads(4, [&](int thread) {
      if (thread == 1) search.run(PostingsSearch::Clock::now());
      if (thread != 0) search.run();
      CHECK(search.wait(PostingsSearch::Clock::now() + std::chrono::minutes(1)));
    });
    const auto found = search.found();
    CHECK(found.docs == expected.docs);
    CHECK(found.scores == expected.scores);
    CHECK(search.found().docs == expected.docs);
  }
}

// Threads of the core work on searches that several callers have begun, and that some give up.
void lend_threads(const stress::TemporaryFolder& folder) {
  const std::string path = folder.file("lent");
  write(path, kDocuments, std::size_t{1} << 20);
  stress::check_throws<std::invalid_argument>([] { SearchThreads none(0); });
  stress::check_throws<std::invalid_argument>([] { SearchThreads many(SearchThreads::kMost + 1); });
  SearchThreads threads(5);
  stress::in_threads(4, [&](int thread) {
    std::mt19937 random(static_cast<unsigned>(thread) + 50);
    for (int round = 0; round < 60; ++round) {
      // Of its own: gone, like the terms, as soon as a search is abandoned.
      const auto index = std::make_unique<PostingsIndex>(path);
      const auto terms = some_terms(random);
      const std::int64_t k = 1 + static_cast<std::int64_t>(random() % 500);
      const auto search =
          std::make_shared<PostingsSearch>(*index, terms, kBoosts, k, std::span<const std::uint8_t>{});
      const int lent = threads.share(search, 1 + static_cast<int>(random() % 4));
      CHECK(lent >= 0 && lent <= 3);
      if (round % 3 == 0) {
        search->abandon();
        CHECK(search->ended());
        search->found();
        continue;
      }
      if (round % 3 == 1 || lent == 0) search->run();
      CHECK(search->wait(PostingsSearch::Clock::now() + std::chrono::minutes(1)));
      const auto expected = search_postings(*index, terms, kBoosts, k, {});
      const auto found = search->found();
      CHECK(found.docs == expected.docs);
      CHECK(found.scores == expected.scores);
      search->abandon();
      CHECK(search->found().docs == expected.docs);
    }
  });
  stress::in_threads(3, [&](int) { threads.close(); });
  const PostingsIndex index(path);
  const auto late = std::make_shared<PostingsSearch>(index, std::vector<std::string_view>{"w0"}, kBoosts, 3,
                                                     std::span<const std::uint8_t>{});
  CHECK(threads.share(late, 3) == 0);
}

void share_a_writer(const stress::TemporaryFolder& folder) {
  const std::string path = folder.file("shared");
  PostingsWriter writer(path, 1, 1 << 14);
  stress::in_threads(4, [&](int thread) {
    const std::string name = "thread" + std::to_string(thread);
    std::vector<std::vector<std::string_view>> fields{{name, "all", name}};
    for (int i = 0; i < 1500; ++i) {
      if (writer.append(fields)) writer.spill_if_due();
    }
  });
  stress::in_threads(3, [&](int) { writer.close(); });
  const PostingsIndex index(path);
  CHECK(index.size() == 6000);
  const std::vector<double> boosts{1.0};
  const std::vector<std::string_view> all{"all"};
  const std::vector<std::string_view> third{"thread3"};
  CHECK(search_postings(index, all, boosts, 10'000, {}).docs.size() == 6000);
  CHECK(search_postings(index, third, boosts, 10'000, {}).docs.size() == 1500);
}

void open_damaged_files(const stress::TemporaryFolder& folder) {
  write(folder.file("good"), 3000, 1 << 20);
  std::ifstream file(folder.file("good"), std::ios::binary);
  const std::vector<char> good{std::istreambuf_iterator<char>(file), {}};
  stress::in_threads(4, [&](int thread) {
    std::mt19937 random(static_cast<unsigned>(thread) + 100);
    const std::string path = folder.file("bad" + std::to_string(thread));
    for (int round = 0; round < 300; ++round) {
      std::vector<char> bad = good;
      // In the header, in the tables at the end, or anywhere.
      const std::size_t tables = bad.size() - 400;
      const std::size_t place = round % 3 == 0   ? random() % 192
                                : round % 3 == 1 ? tables + random() % 400
                                                 : random() % bad.size();
      bad[place] = static_cast<char>(bad[place] ^ (1 << (random() % 8)));
      if (round % 7 == 0) bad.resize(random() % bad.size());
      std::ofstream(path, std::ios::binary).write(bad.data(), static_cast<std::streamsize>(bad.size()));
      stress::check_throws<std::runtime_error>([&] { PostingsIndex index(path); });
      try {
        const PostingsIndex index(path, false);
        const std::vector<std::uint8_t> mask(static_cast<std::size_t>(index.size()), 1);
        for (const std::int64_t k : {1, 5000}) {
          check_sorted(search_postings(index, some_terms(random), kBoosts, k, {}), index.size());
          check_sorted(search_postings(index, some_terms(random), kBoosts, k, mask), index.size());
        }
      } catch (const std::runtime_error&) {
        continue;
      }
    }
  });
}

}  // namespace

int main() {
  const stress::TemporaryFolder folder;
  search_in_threads(folder);
  share_searches(folder);
  lend_threads(folder);
  share_a_writer(folder);
  open_damaged_files(folder);
}

// Many threads read one store, others write and replace files under the same name; then damaged files are
// opened.

#include <algorithm>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>

#include "core/token_store.h"
#include "core/token_store_writer.h"
#include "tests/check.h"

using searchpipe::TokenRange;
using searchpipe::TokenStore;
using searchpipe::TokenStoreWriter;
namespace stress = searchpipe::stress;

namespace {

constexpr int kDocuments = 2000;

std::vector<std::int32_t> document(int ordinal) {
  return std::vector<std::int32_t>(static_cast<std::size_t>(ordinal % 97), ordinal % 30000);
}

void write(const std::string& path, int documents, std::int64_t vocab_size) {
  TokenStoreWriter writer(path, vocab_size);
  for (int ordinal = 0; ordinal < documents; ++ordinal) CHECK(writer.append(document(ordinal)) == ordinal);
  writer.close();
}

void check(const TokenStore& store, std::int64_t ordinal) {
  const auto expected = document(static_cast<int>(ordinal));
  const TokenRange range = store.range(ordinal);
  CHECK(range.length == static_cast<std::int32_t>(expected.size()));
  std::vector<std::int64_t> ids(expected.size());
  store.copy(range, range.length, ids.data());
  CHECK(std::equal(ids.begin(), ids.end(), expected.begin()));
}

void read_while_replaced(const stress::TemporaryFolder& folder) {
  const std::string path = folder.file("tokens");
  write(path, kDocuments, 30522);
  const TokenStore shared(path);
  stress::in_threads(6, [&](int thread) {
    if (thread < 2) {
      for (int round = 0; round < 8; ++round) write(path, 200 + round, thread == 0 ? 30522 : 0);
      return;
    }
    std::mt19937 random(static_cast<unsigned>(thread));
    for (int round = 0; round < 3000; ++round)
      check(shared, static_cast<std::int64_t>(random() % kDocuments));
    for (int round = 0; round < 20; ++round) {
      const TokenStore current(path);
      check(current, static_cast<std::int64_t>(random()) % current.size());
    }
    stress::check_throws<std::out_of_range>([&] { shared.range(kDocuments); });
  });
}

void share_a_writer(const stress::TemporaryFolder& folder) {
  const std::string path = folder.file("shared");
  TokenStoreWriter writer(path, 0);
  std::vector<std::vector<std::int64_t>> ordinals(4);
  stress::in_threads(4, [&](int thread) {
    for (int i = 0; i < 500; ++i) {
      ordinals[static_cast<std::size_t>(thread)].push_back(
          writer.append(std::vector<std::int32_t>(static_cast<std::size_t>(i % 9), thread)));
      stress::check_throws<std::invalid_argument>([&] { writer.append(std::vector<std::int32_t>{-1}); });
    }
  });
  stress::in_threads(3, [&](int) { writer.close(); });
  const TokenStore store(path);
  CHECK(store.size() == 2000);
  for (int thread = 0; thread < 4; ++thread) {
    for (int i = 0; i < 500; ++i) {
      const auto range = store.range(ordinals[static_cast<std::size_t>(thread)][static_cast<std::size_t>(i)]);
      CHECK(range.length == i % 9);
      std::vector<std::int32_t> ids(static_cast<std::size_t>(range.length));
      store.copy(range, range.length, ids.data());
      CHECK(std::all_of(ids.begin(), ids.end(), [&](std::int32_t id) { return id == thread; }));
    }
  }
}

void open_damaged_files(const stress::TemporaryFolder& folder) {
  write(folder.file("good"), 40, 30522);
  std::ifstream file(folder.file("good"), std::ios::binary);
  const std::vector<char> good{std::istreambuf_iterator<char>(file), {}};
  stress::in_threads(4, [&](int thread) {
    std::mt19937 random(static_cast<unsigned>(thread) + 100);
    const std::string path = folder.file("bad" + std::to_string(thread));
    for (int round = 0; round < 300; ++round) {
      std::vector<char> bad = good;
      // Every other time in the header and the offsets, where a wrong number could lead outside of the file.
      const std::size_t place = round % 2 == 0 ? random() % 128 : random() % bad.size();
      bad[place] = static_cast<char>(bad[place] ^ (1 << (random() % 8)));
      if (round % 5 == 0) bad.resize(random() % bad.size());
      std::ofstream(path, std::ios::binary).write(bad.data(), static_cast<std::streamsize>(bad.size()));
      stress::check_throws<std::runtime_error>([&] { TokenStore store(path); });
      try {
        const TokenStore store(path, false);
        for (std::int64_t ordinal = 0; ordinal < store.size(); ++ordinal) {
          const auto range = store.range(ordinal);
          std::vector<std::int32_t> ids(static_cast<std::size_t>(range.length));
          store.copy(range, range.length, ids.data());
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
  read_while_replaced(folder);
  share_a_writer(folder);
  open_damaged_files(folder);
}

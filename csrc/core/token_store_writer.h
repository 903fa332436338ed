#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "core/checksum.h"
#include "core/file.h"
#include "core/token_store_format.h"

namespace searchpipe {

// Writes a token store document by document, in bounded memory: ids go to a temporary file beside `path`,
// offsets to a second one, and close() joins them under the final name. Calls may come from any thread, one
// after the other as the documents' order shall be.
class TokenStoreWriter {
 public:
  // Ids take 2 bytes if the vocabulary is known and has at most 65,536 entries, else 4. 0: not known.
  // Throws IoError, or std::invalid_argument for an impossible size.
  TokenStoreWriter(std::string path, std::int64_t vocab_size);

  // Returns the document's ordinal. An id outside of the vocabulary is refused with std::invalid_argument and
  // leaves the store as it was; after an IoError nothing more can be written.
  std::int64_t append(std::span<const std::int32_t> ids);

  // Publishes the store durably; calling it again does nothing. Throws IoError.
  void close();

  // Removes what was written; nothing is published. Does nothing after close().
  void abandon();

  std::int64_t size() const;
  std::int64_t total_tokens() const;

 private:
  struct Files {
    explicit Files(const std::string& path) : tokens(path), offsets(path) {}
    TemporaryFile tokens;
    TemporaryFile offsets;
  };

  Files& writable();
  void check(std::span<const std::int32_t> ids) const;
  template <class Id>
  void write_ids(std::span<const std::int32_t> ids);
  void write_offset();
  void write_tokens(std::span<const std::byte> bytes);
  void join();

  mutable std::mutex mutex_;
  std::string path_;
  TokenStoreHeader header_{};
  std::unique_ptr<Files> files_;  // null once closed or abandoned
  bool published_ = false;
  Checksum tokens_checksum_;
  Checksum offsets_checksum_;
};

}  // namespace searchpipe

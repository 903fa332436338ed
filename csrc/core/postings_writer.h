#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/postings_merge.h"
#include "core/postings_part.h"

namespace searchpipe {

// Writes a postings index document by document. Memory holds the lengths of all documents (4 bytes a field)
// and at most about `memory_bytes` of postings: those of a block, or of as much of it as fits, are sorted and
// spilled to a temporary file beside `path`, which close() merges. Calls may come from any thread, one after
// the other as the documents' order shall be.
class PostingsWriter {
 public:
  // Throws IoError, or std::invalid_argument for no fields or too many.
  PostingsWriter(std::string path, std::size_t fields, std::size_t memory_bytes);

  // The terms of each field, in any order and with repetitions. Returns true when spill() is due.
  // Throws std::invalid_argument for another number of fields.
  bool append(std::span<const std::vector<std::string_view>> fields);

  // Makes room if it is due; takes up to seconds. After an IoError nothing more can be written.
  void spill_if_due();

  // Publishes the index durably; calling it again does nothing. Throws IoError.
  void close();

  // Removes what was written; nothing is published. Does nothing after close().
  void abandon();

  std::int64_t size() const;

 private:
  struct Work {
    Work(const std::string& path, std::size_t fields) : part(fields), spilled(path) {}
    PostingsPart part;
    TemporaryFile spilled;
    std::vector<SpilledPart> parts;
    DocumentLengths documents;
  };

  Work& writable();
  bool due() const;
  void spill();

  mutable std::mutex mutex_;
  std::string path_;
  std::size_t fields_;
  std::size_t memory_bytes_;
  std::unique_ptr<Work> work_;  // null once closed or abandoned
  std::uint64_t count_ = 0;
  bool published_ = false;
};

}  // namespace searchpipe

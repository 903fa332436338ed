#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/postings_format.h"

namespace searchpipe {

// The documents of one list in one block: places (ascending) and impacts, `size` of each.
struct RunView {
  const std::uint16_t* places;
  const std::uint16_t* impacts;
  std::uint32_t size;
};

// One term in one field. Views stay valid as long as their index.
class ListView {
 public:
  ListView(std::uint32_t field, std::uint32_t postings, const std::uint16_t* data,
           std::span<const PostingsRun> runs)
      : field_(field), postings_(postings), data_(data), runs_(runs) {}

  std::uint32_t field() const { return field_; }
  // Documents that have the term.
  std::uint32_t postings() const { return postings_; }
  std::span<const PostingsRun> runs() const { return runs_; }

  // A damaged run is cut to what its list holds.
  RunView run(std::size_t number) const {
    const std::uint32_t begin = std::min(runs_[number].begin, postings_);
    const std::uint32_t end =
        number + 1 < runs_.size() ? std::min(runs_[number + 1].begin, postings_) : postings_;
    const std::uint32_t size = begin < end ? std::min(end - begin, kBlockDocuments) : 0;
    const std::uint16_t* const places = data_ + 2 * std::size_t{begin};
    return {places, places + size, size};
  }

 private:
  std::uint32_t field_;
  std::uint32_t postings_;
  const std::uint16_t* data_;
  std::span<const PostingsRun> runs_;
};

// A postings index, memory-mapped from a file that PostingsWriter made. Immutable after construction: any
// number of threads may call everything at once.
class PostingsIndex {
 public:
  // Every field of the header is checked against the file's real size before it is used. `verify` also reads
  // the whole file once and compares its checksum; without it a damaged file may give wrong documents or an
  // error when it is searched, never an access outside the file. Throws IoError, or std::runtime_error that
  // says what is wrong with the file.
  explicit PostingsIndex(std::string path, bool verify = true);

  std::int64_t size() const { return static_cast<std::int64_t>(header_.document_count); }
  std::uint32_t fields() const { return header_.field_count; }
  std::int64_t terms() const { return static_cast<std::int64_t>(header_.term_count); }
  std::int64_t postings() const { return static_cast<std::int64_t>(header_.posting_count); }
  std::int64_t bytes() const { return static_cast<std::int64_t>(header_.file_bytes); }
  const std::string& path() const { return path_; }

  // Appends the lists of `term`, at most one a field, to `found`. Throws std::runtime_error for damage.
  void find(std::string_view term, std::vector<ListView>& found) const;

 private:
  void check_header();
  std::string_view text_of(std::uint64_t term) const;
  [[noreturn]] void refuse(const std::string& what) const;
  [[noreturn]] void refuse_table(const std::string& what, std::uint64_t number) const;
  template <class Entry>
  const Entry* section(std::uint64_t offset, std::uint64_t count, const char* what) const;

  std::string path_;
  MappedFile file_;
  PostingsHeader header_{};
  const std::uint16_t* postings_ = nullptr;
  const PostingsRun* runs_ = nullptr;
  const PostingsList* lists_ = nullptr;
  const PostingsTerm* terms_ = nullptr;
  const char* text_ = nullptr;
};

}  // namespace searchpipe

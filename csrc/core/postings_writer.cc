#include "core/postings_writer.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "core/message.h"
#include "core/postings_format.h"

namespace searchpipe {

PostingsWriter::PostingsWriter(std::string path, std::size_t fields, std::size_t memory_bytes)
    : path_(std::move(path)), fields_(fields), memory_bytes_(memory_bytes) {
  if (fields < 1 || fields > kMaxPostingsFields) {
    throw std::invalid_argument(
        message("a postings index of ", fields, " fields; it must have 1 to ", kMaxPostingsFields));
  }
  work_ = std::make_unique<Work>(path_, fields);
  work_->spilled.unlink();
  work_->documents.fields = fields;
  work_->documents.totals.assign(fields, 0);
}

PostingsWriter::Work& PostingsWriter::writable() {
  if (work_) return *work_;
  throw std::invalid_argument(message("the writer of ", path_, published_ ? " is closed" : " was abandoned",
                                      "; open a new PostingsWriter"));
}

bool PostingsWriter::append(std::span<const std::vector<std::string_view>> fields) {
  const std::lock_guard lock(mutex_);
  Work& work = writable();
  if (fields.size() != fields_) {
    throw std::invalid_argument(message("document ", count_, " has ", fields.size(), " fields, the index ",
                                        fields_, "; pass a list of terms, maybe empty, for each"));
  }
  if (count_ >= kMaxPostingsDocuments) {
    throw std::length_error(message("a postings index holds at most ", kMaxPostingsDocuments, " documents"));
  }
  for (const auto& terms : fields) {
    if (terms.size() > std::numeric_limits<std::uint32_t>::max()) {
      throw std::length_error(
          message("a field of ", terms.size(), " terms; at most 4294967295 are possible"));
    }
  }
  if (due()) spill();  // nobody did
  try {
    const auto place = static_cast<std::uint16_t>(count_ % kBlockDocuments);
    for (std::size_t field = 0; field < fields_; ++field) {
      work.part.add(place, field, fields[field]);
      work.documents.lengths.push_back(static_cast<std::uint32_t>(fields[field].size()));
      work.documents.totals[field] += fields[field].size();
    }
  } catch (...) {
    work_.reset();
    throw;
  }
  ++count_;
  return due();
}

bool PostingsWriter::due() const {
  return !work_->part.empty() &&
         (count_ % kBlockDocuments == 0 || work_->part.memory_bytes() >= memory_bytes_);
}

void PostingsWriter::spill() {
  try {
    const auto block = static_cast<std::uint32_t>((count_ - 1) / kBlockDocuments);
    work_->parts.push_back(work_->part.spill(block, work_->spilled));
  } catch (...) {
    work_.reset();
    throw;
  }
}

void PostingsWriter::spill_if_due() {
  const std::lock_guard lock(mutex_);
  writable();
  if (due()) spill();
}

void PostingsWriter::close() {
  const std::lock_guard lock(mutex_);
  if (published_) return;
  Work& work = writable();
  if (!work.part.empty()) spill();
  try {
    merge_postings(path_, work.spilled, work.parts, work.documents, memory_bytes_);
  } catch (...) {
    work_.reset();
    throw;
  }
  published_ = true;
  work_.reset();
}

void PostingsWriter::abandon() {
  const std::lock_guard lock(mutex_);
  work_.reset();
}

std::int64_t PostingsWriter::size() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::int64_t>(count_);
}

}  // namespace searchpipe

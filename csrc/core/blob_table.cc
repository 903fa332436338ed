#include "core/blob_table.h"

#include <stdexcept>

#include "core/message.h"

namespace searchpipe {

BlobTable::BlobTable(std::span<const std::uint8_t> bytes, std::span<const std::int64_t> ends)
    : bytes_(bytes), ends_(ends) {
  if (ends.empty() || ends.front() != 0 || ends.back() != static_cast<std::int64_t>(bytes.size())) {
    throw std::invalid_argument(message("the table of ends does not lead from 0 to the end of the ",
                                        bytes.size(), " bytes; build the snapshot again"));
  }
}

std::span<const std::uint8_t> BlobTable::at(std::int64_t number) const {
  if (number < 0 || number >= size()) {
    throw std::out_of_range(message("document ", number, " is outside 0..", size() - 1));
  }
  const std::int64_t begin = ends_[static_cast<std::size_t>(number)];
  const std::int64_t end = ends_[static_cast<std::size_t>(number) + 1];
  if (begin < 0 || end < begin || end > static_cast<std::int64_t>(bytes_.size())) {
    throw std::runtime_error(message("document ", number, " lies from byte ", begin, " to ", end, " of ",
                                     bytes_.size(), "; the snapshot is damaged, build it again"));
  }
  return bytes_.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
}

}  // namespace searchpipe

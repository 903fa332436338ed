#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <utility>

namespace searchpipe {
namespace {

constexpr std::size_t kBufferBytes = 256 * 1024;

template <class Call>
auto retry_interrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

FileDescriptor open_file(const std::string& path, int flags) {
  const int fd = retry_interrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC, 0666); });
  if (fd < 0) throw IoError(errno, "open", path);
  return FileDescriptor(fd);
}

FileDescriptor create_unique(const std::string& path, std::string& name) {
  static std::atomic<unsigned> counter{0};
  for (;;) {
    name = path + "." + std::to_string(::getpid()) + "-" + std::to_string(counter++) + ".part";
    try {
      return open_file(name, O_RDWR | O_CREAT | O_EXCL);
    } catch (const IoError& error) {
      // Left by a process that was killed and had the same id.
      if (error.code().value() != EEXIST) throw;
    }
  }
}

void sync(const FileDescriptor& file, const std::string& path) {
  if (retry_interrupted([&] { return ::fsync(file.get()); }) != 0) throw IoError(errno, "fsync", path);
}

}  // namespace

IoError::IoError(int error, const std::string& call, std::string path)
    : std::system_error(error, std::generic_category(), call + " " + path), path_(std::move(path)) {}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

MappedFile::MappedFile(const std::string& path) {
  // O_NONBLOCK: opening a named pipe must not wait for its writer.
  const FileDescriptor file = open_file(path, O_RDONLY | O_NONBLOCK);
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) throw IoError(errno, "stat", path);
  if (!S_ISREG(status.st_mode)) {
    throw IoError(S_ISDIR(status.st_mode) ? EISDIR : EINVAL, "open", path);
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return;
  void* const address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED) throw IoError(errno, "mmap", path);
  bytes_ = {static_cast<const std::byte*>(address), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

TemporaryFile::TemporaryFile(std::string path)
    : path_(std::move(path)), file_(create_unique(path_, temporary_path_)) {
  buffer_.reserve(kBufferBytes);
}

TemporaryFile::~TemporaryFile() {
  if (!temporary_path_.empty()) ::unlink(temporary_path_.c_str());
}

void TemporaryFile::unlink() {
  if (temporary_path_.empty()) return;
  if (::unlink(temporary_path_.c_str()) != 0) throw IoError(errno, "unlink", temporary_path_);
  temporary_path_.clear();
}

void TemporaryFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto done = retry_interrupted(
        [&] { return ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
    if (done < 0) throw IoError(errno, "write", path_);
    offset += static_cast<std::uint64_t>(done);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

void TemporaryFile::flush() {
  write_at(written_, buffer_);
  written_ += buffer_.size();
  buffer_.clear();
}

void TemporaryFile::append(std::span<const std::byte> bytes) {
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() > kBufferBytes) {
    write_at(written_, bytes);
    written_ += bytes.size();
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
}

void TemporaryFile::overwrite(std::uint64_t offset, std::span<const std::byte> bytes) {
  flush();
  write_at(offset, bytes);
}

std::size_t TemporaryFile::read(std::uint64_t offset, std::span<std::byte> bytes) {
  flush();
  std::size_t total = 0;
  while (total < bytes.size()) {
    const auto done = retry_interrupted([&] {
      return ::pread(file_.get(), bytes.data() + total, bytes.size() - total,
                     static_cast<off_t>(offset + total));
    });
    if (done < 0) throw IoError(errno, "read", path_);
    if (done == 0) break;
    total += static_cast<std::size_t>(done);
  }
  return total;
}

void TemporaryFile::publish() {
  flush();
  sync(file_, path_);
  if (::rename(temporary_path_.c_str(), path_.c_str()) != 0) throw IoError(errno, "rename", path_);
  temporary_path_.clear();
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  const std::string folder_path = folder.empty() ? "." : folder;
  sync(open_file(folder_path, O_RDONLY | O_DIRECTORY), folder_path);
}

}  // namespace searchpipe

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace searchpipe {

// A call to the operating system that failed: code() is errno, path() the file.
class IoError : public std::system_error {
 public:
  IoError(int error, const std::string& call, std::string path);

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;

  int get() const { return fd_; }

 private:
  int fd_;
};

// A regular file mapped read-only. Immutable: any thread may read it. The file must not be truncated in place
// while it is mapped (the operating system answers with SIGBUS); replacing it by rename is safe.
class MappedFile {
 public:
  // Throws IoError; a directory, pipe or device is refused.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

// A file under a temporary name beside `path`, written through a buffer. It is removed unless publish() moves
// it to `path`. One thread at a time. Every member throws IoError.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string path);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  // Takes the name away now: the content lives as long as this object, whatever happens to the process.
  void unlink();

  void append(std::span<const std::byte> bytes);
  void overwrite(std::uint64_t offset, std::span<const std::byte> bytes);
  // Reads what was appended; at the end of the file it reads less than asked. Returns the bytes read.
  std::size_t read(std::uint64_t offset, std::span<std::byte> bytes);
  std::uint64_t size() const { return written_ + buffer_.size(); }

  // Makes the content durable, gives it its name (replacing what had it) and makes the name durable.
  void publish();

 private:
  void flush();
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);

  std::string path_;
  std::string temporary_path_;  // empty once the name is gone
  FileDescriptor file_;
  std::uint64_t written_ = 0;
  std::vector<std::byte> buffer_;
};

}  // namespace searchpipe

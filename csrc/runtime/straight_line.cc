#include "runtime/straight_line.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "cuda/error.h"
#include "runtime/copy_bytes_ptx.h"
#include "runtime/fill_bytes_ptx.h"

namespace searchpipe::runtime {
namespace {

constexpr unsigned kThreads = 256;
constexpr std::uint64_t kBytesAStore = 16;
constexpr unsigned kBlocksAMultiprocessor = 4;
// Of more, the copy engine moves the host's part without keeping multiprocessors waiting.
constexpr std::uint64_t kMostHostBytes = std::uint64_t{1} << 20;

// Memory as kernels of a device reach it.
struct Reached {
  cuda::DevicePtr address;
  bool on_host;
};

// None for memory of other devices, managed memory, and the host's unless it is page-locked.
std::optional<Reached> reach(cuda::DevicePtr address, int ordinal) {
  unsigned type = 0;
  cuda::DevicePtr on_device = 0;
  int owner = -1;
  unsigned managed = 0;  // the driver writes a bool or an unsigned
  std::array<int, 4> attributes = {cuda::kPointerMemoryType, cuda::kPointerDevicePointer,
                                   cuda::kPointerDeviceOrdinal, cuda::kPointerIsManaged};
  std::array<void*, 4> values = {&type, &on_device, &owner, &managed};
  const cuda::Result code =
      cuda::driver().cuPointerGetAttributes(values.size(), attributes.data(), values.data(), address);
  cuda::check(code, "cuPointerGetAttributes");
  if (on_device == 0 || managed != 0) return std::nullopt;
  if (type == cuda::kMemoryDevice && owner == ordinal) return Reached{on_device, false};
  if (type == cuda::kMemoryHost) return Reached{on_device, true};
  return std::nullopt;
}

std::optional<Reached> reach(const cuda::CopyEnd& end, int ordinal) {
  if (end.x_bytes != 0 || end.y != 0 || end.z != 0 || end.level != 0) return std::nullopt;
  switch (end.memory_type) {
    case cuda::kMemoryHost:
      return reach(reinterpret_cast<cuda::DevicePtr>(end.host), ordinal);
    case cuda::kMemoryDevice:
    case cuda::kMemoryUnified:
      return reach(end.device, ordinal);
    default:
      return std::nullopt;
  }
}

// The pattern of fill_bytes.cu.
std::uint64_t pattern_of(const cuda::MemsetParams& memset) {
  switch (memset.element_bytes) {
    case 1:
      return (memset.value & 0xffU) * 0x01010101U;
    case 2:
      return (memset.value & 0xffffU) * 0x00010001U;
    default:
      return memset.value;
  }
}

void load(std::optional<cuda::Kernel>& kernel, const std::shared_ptr<cuda::Device>& device, const char* ptx,
          const char* name) {
  if (!kernel) kernel.emplace(device, ptx, name);
}

std::string plural(std::size_t count, const char* one, const char* many) {
  return std::to_string(count) + " " + (count == 1 ? one : many);
}

}  // namespace

cuda::Rewritten StraightLine::operator()(cuda::GraphHandle graph) {
  cuda::Rewritten done;
  std::size_t memsets = 0, copies = 0, others = 0;
  for (const cuda::NodeHandle node : cuda::nodes_of(graph)) {
    const int type = cuda::type_of(node);
    if (type == cuda::kNodeKernel) continue;
    const std::optional<Launch> launch = launch_for(node, type);
    if (launch && cuda::replace(graph, node, *launch->kernel, launch->blocks, kThreads, launch->arguments)) {
      ++done.replaced;
    } else {
      ++(type == cuda::kNodeMemset ? memsets : type == cuda::kNodeCopy ? copies : others);
    }
  }
  const auto tell = [&done](const std::string& what) { done.left += (done.left.empty() ? "" : ", ") + what; };
  if (memsets > 0) tell(plural(memsets, "memset", "memsets"));
  if (copies > 0) tell(plural(copies, "copy", "copies"));
  if (others > 0) tell(plural(others, "node of another kind", "nodes of other kinds"));
  return done;
}

std::optional<StraightLine::Launch> StraightLine::launch_for(cuda::NodeHandle node, int type) {
  if (type == cuda::kNodeMemset) return fill(cuda::memset_of(node));
  if (type == cuda::kNodeCopy) return copy(cuda::copy_of(node));
  return std::nullopt;
}

std::optional<StraightLine::Launch> StraightLine::fill(const cuda::MemsetParams& memset) {
  const std::uint64_t element = memset.element_bytes;
  if (element != 1 && element != 2 && element != 4) return std::nullopt;
  const std::uint64_t row_bytes = memset.width * element;
  if (row_bytes == 0 || memset.height == 0 || memset.to % element != 0) return std::nullopt;
  if (memset.height > 1 && (memset.pitch < row_bytes || memset.pitch % element != 0)) return std::nullopt;
  const std::optional<Reached> to = reach(memset.to, device_->ordinal());
  if (!to || to->address % element != 0) return std::nullopt;
  const bool one_piece = memset.height == 1 || memset.pitch == row_bytes;
  const std::uint64_t rows = one_piece ? 1 : memset.height;
  const std::uint64_t bytes = one_piece ? row_bytes * memset.height : row_bytes;
  if (to->on_host && bytes * rows > kMostHostBytes) return std::nullopt;
  load(fill_, device_, kFillBytesPtx, "fill_bytes");
  const unsigned most = blocks(UINT64_MAX);
  const unsigned a_row = blocks(bytes);
  const auto rows_at_once = static_cast<unsigned>(std::min<std::uint64_t>(rows, std::max(most / a_row, 1U)));
  return Launch{&*fill_,
                a_row * rows_at_once,
                {to->address, bytes, one_piece ? bytes : memset.pitch, rows, pattern_of(memset), a_row}};
}

std::optional<StraightLine::Launch> StraightLine::copy(const cuda::CopyParams& copy) {
  const std::uint64_t bytes = copy.width_bytes;
  if (bytes == 0 || copy.height != 1 || copy.depth != 1) return std::nullopt;
  const std::optional<Reached> from = reach(copy.from, device_->ordinal());
  const std::optional<Reached> to = reach(copy.to, device_->ordinal());
  if (!from || !to) return std::nullopt;
  if ((from->on_host || to->on_host) && bytes > kMostHostBytes) return std::nullopt;
  if (from->address < to->address + bytes && to->address < from->address + bytes) return std::nullopt;
  load(copy_, device_, kCopyBytesPtx, "copy_bytes");
  return Launch{&*copy_, blocks(bytes), {to->address, from->address, bytes}};
}

// Enough for a store a thread, up to what keeps the whole device busy.
unsigned StraightLine::blocks(std::uint64_t bytes) const {
  const std::uint64_t most =
      std::uint64_t{kBlocksAMultiprocessor} * static_cast<unsigned>(device_->multiprocessors());
  const std::uint64_t a_block = kBytesAStore * kThreads;
  return static_cast<unsigned>(
      std::clamp<std::uint64_t>(bytes / a_block + 1, 1, std::max<std::uint64_t>(most, 1)));
}

}  // namespace searchpipe::runtime

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cuda/kernel.h"
#include "runtime/shape.h"

namespace searchpipe::runtime {

// Completes packed batches on the device: writes those inputs of InputBlock that the host does not send, from
// those that it does. The host would take 30 us for 256 rows of up to 128 tokens, and send 300 KB more.
// Immutable: any thread may call everything.
class PackedPlaces {
 public:
  // Throws CudaError naming the kernel, packed_places, if the driver cannot load it.
  explicit PackedPlaces(std::shared_ptr<cuda::Device> device);

  // Puts it on the stream, for the block of a bucket's inputs at `block`. Throws CudaError.
  void enqueue(const EngineShape& shape, const Bucket& bucket, cuda::DevicePtr block,
               cuda::StreamHandle stream) const;

 private:
  cuda::Kernel kernel_;
};

// The same on the host, token types aside: for whoever feeds a packed model otherwise.
struct HostPlaces {
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> ends;
  std::vector<std::int32_t> firsts;
  std::vector<std::int32_t> token_offset;
};
HostPlaces packed_places(std::span<const std::int32_t> lengths, std::int32_t longest_row,
                         const Bucket& bucket);

}  // namespace searchpipe::runtime

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cuda/graph.h"
#include "cuda/graph_nodes.h"
#include "cuda/kernel.h"

namespace searchpipe::runtime {

// Makes graphs consist of kernels alone. The driver launches a straight line of kernels in one go (CUDA 12.6
// and newer), and a device goes from kernel to kernel in 0.5 us; libraries put memsets between theirs (cuBLAS
// clears semaphores), and on an H200 the first of a graph cost 20 to 32 us, each later one 4 us.
//
// Memsets, and copies of one piece of memory that this device's kernels reach, are replaced by kernels that
// write the same; whatever else is not a kernel stays. One thread at a time.
class StraightLine {
 public:
  explicit StraightLine(std::shared_ptr<cuda::Device> device) : device_(std::move(device)) {}

  // For GraphExec::capture(); its graphs must not outlive this. Throws CudaError.
  cuda::Rewritten operator()(cuda::GraphHandle graph);

 private:
  struct Launch {
    const cuda::Kernel* kernel;
    unsigned blocks;
    std::vector<std::uint64_t> arguments;
  };
  std::optional<Launch> launch_for(cuda::NodeHandle node, int type);
  std::optional<Launch> fill(const cuda::MemsetParams& memset);
  std::optional<Launch> copy(const cuda::CopyParams& copy);
  unsigned blocks(std::uint64_t bytes) const;

  std::shared_ptr<cuda::Device> device_;
  // Loaded when a graph needs them.
  std::optional<cuda::Kernel> fill_;
  std::optional<cuda::Kernel> copy_;
};

}  // namespace searchpipe::runtime

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cuda/stream.h"

namespace searchpipe::cuda {

// One kernel of a PTX text (or cubin), compiled for this device by the driver. Any thread.
class Kernel {
 public:
  Kernel(std::shared_ptr<Device> device, const std::string& ptx, const std::string& entry);
  ~Kernel();
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  // Every argument is 64 bits wide: an address or an integer (.param .u64).
  void launch(StreamHandle stream, unsigned blocks, unsigned threads,
              const std::vector<uint64_t>& arguments) const;
  // For a node of a graph; valid as long as this.
  FunctionHandle function() const { return function_; }

 private:
  std::shared_ptr<Device> device_;
  ModuleHandle module_ = nullptr;
  FunctionHandle function_ = nullptr;
};

}  // namespace searchpipe::cuda

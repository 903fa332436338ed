#include "cuda/kernel.h"

#include <utility>

#include "cuda/error.h"

namespace searchpipe::cuda {

Kernel::Kernel(std::shared_ptr<Device> device, const std::string& ptx, const std::string& entry)
    : device_(std::move(device)) {
  CurrentContext current(*device_);
  if (Result code = driver().cuModuleLoadData(&module_, ptx.c_str()); code != kSuccess) {
    throw_cuda_error("cuModuleLoadData(" + entry + ")", code);
  }
  if (Result code = driver().cuModuleGetFunction(&function_, module_, entry.c_str()); code != kSuccess) {
    driver().cuModuleUnload(module_);
    throw_cuda_error("cuModuleGetFunction(" + entry + ")", code);
  }
}

Kernel::~Kernel() {
  try {
    CurrentContext current(*device_);
    driver().cuModuleUnload(module_);
  } catch (const CudaError&) {
  }
}

void Kernel::launch(StreamHandle stream, unsigned blocks, unsigned threads,
                    const std::vector<uint64_t>& arguments) const {
  CurrentContext current(*device_);
  std::vector<uint64_t> values = arguments;
  std::vector<void*> pointers;
  pointers.reserve(values.size());
  for (uint64_t& value : values) pointers.push_back(&value);
  check(driver().cuLaunchKernel(function_, blocks, 1, 1, threads, 1, 1, 0, stream, pointers.data(), nullptr),
        "cuLaunchKernel");
}

}  // namespace searchpipe::cuda

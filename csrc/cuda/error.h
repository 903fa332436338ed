#pragma once

#include <stdexcept>
#include <string>

#include "cuda/driver_api.h"

namespace searchpipe::cuda {

// A failed driver call: "cuMemAlloc(4096 bytes) failed: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory".
class CudaError : public std::runtime_error {
 public:
  CudaError(const std::string& call, Result code);

  const std::string& call() const { return call_; }
  Result code() const { return code_; }
  // True for errors after which the context answers every call with the same error.
  bool sticky() const;

 private:
  std::string call_;
  Result code_;
};

[[noreturn]] void throw_cuda_error(const std::string& call, Result code);

inline void check(Result code, const char* call) {
  if (code != kSuccess) throw_cuda_error(call, code);
}

}  // namespace searchpipe::cuda

#include "cuda/error.h"

namespace searchpipe::cuda {
namespace {

std::string describe(const std::string& call, Result code) {
  const char* name = nullptr;
  const char* text = nullptr;
  driver().cuGetErrorName(code, &name);
  driver().cuGetErrorString(code, &text);
  return call + " failed: " + (name == nullptr ? "unknown error" : name) + " (" + std::to_string(code) +
         "): " + (text == nullptr ? "no description" : text);
}

}  // namespace

CudaError::CudaError(const std::string& call, Result code)
    : std::runtime_error(describe(call, code)), call_(call), code_(code) {}

bool CudaError::sticky() const {
  // cuda.h says of these that the process must be restarted to use CUDA again:
  // illegal address 700 and its kin to launch failure 719, ECC 214, uncorrectable hardware 220..226.
  return code_ == 214 || code_ == 220 || code_ == 226 || code_ == 700 || code_ == 702 ||
         (code_ >= 714 && code_ <= 719);
}

void throw_cuda_error(const std::string& call, Result code) { throw CudaError(call, code); }

}  // namespace searchpipe::cuda

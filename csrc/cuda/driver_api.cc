#include "cuda/driver_api.h"

#include <dlfcn.h>

#include <cstdlib>
#include <stdexcept>

namespace searchpipe::cuda {
namespace {

using GetProcAddress = Result (*)(const char* symbol, void** function, int version, uint64_t flags,
                                  int* status);

// Streams are always named, so the legacy default stream is right: the
// per-thread variants (_ptsz) would only change what stream 0 means.
constexpr uint64_t kLegacyStream = 1;

struct Loaded {
  DriverApi api;
  Availability availability;
};

std::string cuda_text(const DriverApi& api, Result code) {
  const char* name = nullptr;
  const char* text = nullptr;
  if (api.cuGetErrorName == nullptr || api.cuGetErrorName(code, &name) != kSuccess || name == nullptr) {
    return "error " + std::to_string(code);
  }
  api.cuGetErrorString(code, &text);
  return std::string(name) + " (" + std::to_string(code) + "): " + (text == nullptr ? "" : text);
}

// Fills `api`; returns what is wrong, or an empty string.
std::string load_functions(void* library, DriverApi& api) {
  auto get = reinterpret_cast<GetProcAddress>(dlsym(library, "cuGetProcAddress_v2"));
  if (get == nullptr) {
    return "the NVIDIA driver is older than CUDA 12.0 (no cuGetProcAddress_v2); install driver 525 or newer";
  }
  int status = 0;
#define SEARCHPIPE_CUDA_LOAD(name, arguments)                                                            \
  {                                                                                                      \
    void* function = nullptr;                                                                            \
    if (get(#name, &function, kApiVersion, kLegacyStream, &status) != kSuccess || function == nullptr) { \
      return "the NVIDIA driver has no " #name " of CUDA 12.0; install driver 525 or newer";             \
    }                                                                                                    \
    api.name = reinterpret_cast<decltype(api.name)>(function);                                           \
  }
  SEARCHPIPE_CUDA_FUNCTIONS(SEARCHPIPE_CUDA_LOAD)
#undef SEARCHPIPE_CUDA_LOAD
  return "";
}

Loaded load() {
  Loaded loaded;
  Availability& found = loaded.availability;
  const char* chosen = std::getenv("SEARCHPIPE_LIBCUDA");
  found.library = chosen != nullptr && *chosen != '\0' ? chosen : "libcuda.so.1";
  // Never closed: the driver registers exit handlers of its own.
  void* library = dlopen(found.library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    found.reason = "no NVIDIA driver: cannot load " + found.library + " (" + (why == nullptr ? "?" : why) +
                   "); on a GPU host install the driver, in a container pass the GPU through";
    return loaded;
  }
  found.reason = load_functions(library, loaded.api);
  if (!found.reason.empty()) return loaded;
  const DriverApi& api = loaded.api;
  api.cuDriverGetVersion(&found.driver_version);
  if (Result code = api.cuInit(0); code != kSuccess) {
    found.reason = "the NVIDIA driver does not start: cuInit failed: " + cuda_text(api, code);
    return loaded;
  }
  if (Result code = api.cuDeviceGetCount(&found.device_count); code != kSuccess) {
    found.reason =
        "the NVIDIA driver does not list devices: cuDeviceGetCount failed: " + cuda_text(api, code);
    return loaded;
  }
  if (found.device_count == 0) {
    found.reason = "the NVIDIA driver sees no device; is CUDA_VISIBLE_DEVICES empty?";
    return loaded;
  }
  found.available = true;
  return loaded;
}

const Loaded& loaded() {
  // Leaked on purpose: worker threads may outlive static destruction.
  static const Loaded* instance = new Loaded(load());
  return *instance;
}

}  // namespace

const Availability& availability() { return loaded().availability; }

const DriverApi& driver() {
  const Loaded& it = loaded();
  if (!it.availability.available)
    throw std::runtime_error("CUDA is not available: " + it.availability.reason);
  return it.api;
}

}  // namespace searchpipe::cuda

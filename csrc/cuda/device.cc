#include "cuda/device.h"

#include <cstdio>
#include <map>
#include <mutex>
#include <stdexcept>

#include "cuda/error.h"

namespace searchpipe::cuda {
namespace {

std::string format_uuid(const Uuid& uuid) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(uuid.bytes[i]));
    text += digits;
  }
  return text;
}

int attribute(int which, int device) {
  int value = 0;
  check(driver().cuDeviceGetAttribute(&value, which, device), "cuDeviceGetAttribute");
  return value;
}

}  // namespace

std::shared_ptr<Device> Device::open(int ordinal) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<Device>> open_devices;
  driver();
  const int count = availability().device_count;
  if (ordinal < 0 || ordinal >= count) {
    throw std::out_of_range("no CUDA device " + std::to_string(ordinal) + ": this process sees " +
                            std::to_string(count) + ", numbered from 0");
  }
  std::lock_guard lock(mutex);
  std::shared_ptr<Device> device = open_devices[ordinal].lock();
  if (device == nullptr) {
    device.reset(new Device(ordinal));
    open_devices[ordinal] = device;
  }
  return device;
}

Device::Device(int ordinal) : ordinal_(ordinal) {
  const DriverApi& api = driver();
  check(api.cuDeviceGet(&device_, ordinal), "cuDeviceGet");
  char name[256] = {};
  check(api.cuDeviceGetName(name, sizeof name, device_), "cuDeviceGetName");
  name_ = name;
  Uuid uuid{};
  check(api.cuDeviceGetUuid(&uuid, device_), "cuDeviceGetUuid");
  uuid_ = format_uuid(uuid);
  capability_major_ = attribute(kAttributeCapabilityMajor, device_);
  capability_minor_ = attribute(kAttributeCapabilityMinor, device_);
  multiprocessors_ = attribute(kAttributeMultiprocessors, device_);
  check(api.cuDeviceTotalMem(&total_bytes_, device_), "cuDeviceTotalMem");
  check(api.cuDevicePrimaryCtxRetain(&context_, device_), "cuDevicePrimaryCtxRetain");
}

Device::~Device() {
  // At process exit the driver may be gone already: nothing to report then.
  driver().cuDevicePrimaryCtxRelease(device_);
}

size_t Device::free_bytes() const {
  CurrentContext current(*this);
  size_t free = 0;
  size_t total = 0;
  check(driver().cuMemGetInfo(&free, &total), "cuMemGetInfo");
  return free;
}

CurrentContext::CurrentContext(const Device& device) {
  ContextHandle now = nullptr;
  check(driver().cuCtxGetCurrent(&now), "cuCtxGetCurrent");
  if (now == device.context()) return;
  check(driver().cuCtxPushCurrent(device.context()), "cuCtxPushCurrent");
  pushed_ = true;
}

CurrentContext::~CurrentContext() {
  ContextHandle popped = nullptr;
  if (pushed_) driver().cuCtxPopCurrent(&popped);
}

}  // namespace searchpipe::cuda

#pragma once

// The part of the CUDA driver API that searchpipe uses, declared here because
// neither CUDA headers nor a link against CUDA may be needed to build or to
// import the extension. Types have the width of those in cuda.h; the list
// below is the single source for the table, the loader and the tests' fake.

#include <cstddef>
#include <cstdint>
#include <string>

namespace searchpipe::cuda {

using Result = int;            // CUresult
using DevicePtr = uint64_t;    // CUdeviceptr
using ContextHandle = void*;   // CUcontext
using StreamHandle = void*;    // CUstream
using EventHandle = void*;     // CUevent
using GraphHandle = void*;     // CUgraph
using NodeHandle = void*;      // CUgraphNode
using ExecHandle = void*;      // CUgraphExec
using ModuleHandle = void*;    // CUmodule
using FunctionHandle = void*;  // CUfunction
using HostFunction = void (*)(void*);

struct Uuid {
  char bytes[16];
};

// CUDA_MEMSET_NODE_PARAMS: rows of elements that all get one value.
struct MemsetParams {
  DevicePtr to;
  size_t pitch;            // bytes from row to row; means nothing if there is one
  unsigned value;          // its lowest element_bytes
  unsigned element_bytes;  // 1, 2 or 4
  size_t width;            // elements a row
  size_t height;           // rows
};

// One end of a CUDA_MEMCPY3D.
struct CopyEnd {
  size_t x_bytes;
  size_t y;
  size_t z;
  size_t level;
  int memory_type;
  void* host;        // of kMemoryHost
  DevicePtr device;  // of kMemoryDevice and kMemoryUnified
  void* array;
  void* reserved;
  size_t pitch;
  size_t height;
};

// CUDA_MEMCPY3D.
struct CopyParams {
  CopyEnd from;
  CopyEnd to;
  size_t width_bytes;
  size_t height;
  size_t depth;
};

// CUDA_KERNEL_NODE_PARAMS of CUDA 12.0.
struct KernelNodeParams {
  FunctionHandle function;
  unsigned grid_x, grid_y, grid_z;
  unsigned block_x, block_y, block_z;
  unsigned shared_bytes;
  void** arguments;
  void** extra;
  void* kernel;  // instead of a function
  ContextHandle context;
};

inline constexpr Result kSuccess = 0;
inline constexpr Result kDeinitialized = 4;
inline constexpr Result kLossyQuery = 402;
inline constexpr Result kNotReady = 600;

inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventBlockingSync = 1;
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr unsigned kHostAllocPortable = 1;
inline constexpr int kCaptureThreadLocal = 1;
inline constexpr int kAttributeMultiprocessors = 16;
inline constexpr int kAttributeCapabilityMajor = 75;
inline constexpr int kAttributeCapabilityMinor = 76;
inline constexpr int kNodeKernel = 0;
inline constexpr int kNodeCopy = 1;
inline constexpr int kNodeMemset = 2;
inline constexpr int kNodeAllocation = 10;
inline constexpr int kMemoryHost = 1;
inline constexpr int kMemoryDevice = 2;
inline constexpr int kMemoryUnified = 4;
inline constexpr int kPointerMemoryType = 2;
inline constexpr int kPointerDevicePointer = 3;
inline constexpr int kPointerIsManaged = 8;
inline constexpr int kPointerDeviceOrdinal = 9;

// Entry points are asked for as of this version of the interface: the names
// below have the signatures of CUDA 12.0 (cuMemAlloc is cuMemAlloc_v2 there),
// and newer drivers keep answering with them. The driver knows nothing of the
// macros of cuda.h: its "cuGraphInstantiate" is the one of CUDA 11 with five
// arguments, and today's has to be asked for by its full name. Queries of a
// graph's edges are those of before 12.3, which answer kLossyQuery where an
// edge carries data.
inline constexpr int kApiVersion = 12000;

// X(name, arguments): all return CUresult.
#define SEARCHPIPE_CUDA_FUNCTIONS(X)                                                                         \
  X(cuInit, (unsigned flags))                                                                                \
  X(cuDriverGetVersion, (int* version))                                                                      \
  X(cuGetErrorName, (Result error, const char** name))                                                       \
  X(cuGetErrorString, (Result error, const char** text))                                                     \
  X(cuDeviceGetCount, (int* count))                                                                          \
  X(cuDeviceGet, (int* device, int ordinal))                                                                 \
  X(cuDeviceGetName, (char* name, int length, int device))                                                   \
  X(cuDeviceGetUuid, (Uuid * uuid, int device))                                                              \
  X(cuDeviceGetAttribute, (int* value, int attribute, int device))                                           \
  X(cuDeviceTotalMem, (size_t* bytes, int device))                                                           \
  X(cuDevicePrimaryCtxRetain, (ContextHandle * context, int device))                                         \
  X(cuDevicePrimaryCtxRelease, (int device))                                                                 \
  X(cuCtxGetCurrent, (ContextHandle * context))                                                              \
  X(cuCtxPushCurrent, (ContextHandle context))                                                               \
  X(cuCtxPopCurrent, (ContextHandle * context))                                                              \
  X(cuMemGetInfo, (size_t* free, size_t* total))                                                             \
  X(cuMemAlloc, (DevicePtr * address, size_t bytes))                                                         \
  X(cuMemFree, (DevicePtr address))                                                                          \
  X(cuPointerGetAttributes, (unsigned count, int* attributes, void** values, DevicePtr address))             \
  X(cuMemHostAlloc, (void** address, size_t bytes, unsigned flags))                                          \
  X(cuMemFreeHost, (void* address))                                                                          \
  X(cuMemcpyHtoDAsync, (DevicePtr to, const void* from, size_t bytes, StreamHandle stream))                  \
  X(cuMemcpyDtoHAsync, (void* to, DevicePtr from, size_t bytes, StreamHandle stream))                        \
  X(cuMemcpyDtoDAsync, (DevicePtr to, DevicePtr from, size_t bytes, StreamHandle stream))                    \
  X(cuMemsetD8Async, (DevicePtr to, unsigned char value, size_t bytes, StreamHandle stream))                 \
  X(cuStreamCreateWithPriority, (StreamHandle * stream, unsigned flags, int priority))                       \
  X(cuStreamDestroy, (StreamHandle stream))                                                                  \
  X(cuStreamSynchronize, (StreamHandle stream))                                                              \
  X(cuStreamWaitEvent, (StreamHandle stream, EventHandle event, unsigned flags))                             \
  X(cuStreamBeginCapture, (StreamHandle stream, int mode))                                                   \
  X(cuStreamEndCapture, (StreamHandle stream, GraphHandle * graph))                                          \
  X(cuStreamIsCapturing, (StreamHandle stream, int* status))                                                 \
  X(cuEventCreate, (EventHandle * event, unsigned flags))                                                    \
  X(cuEventDestroy, (EventHandle event))                                                                     \
  X(cuEventRecord, (EventHandle event, StreamHandle stream))                                                 \
  X(cuEventQuery, (EventHandle event))                                                                       \
  X(cuEventSynchronize, (EventHandle event))                                                                 \
  X(cuEventElapsedTime, (float* milliseconds, EventHandle start, EventHandle end))                           \
  X(cuGraphInstantiateWithFlags, (ExecHandle * exec, GraphHandle graph, unsigned long long flags))           \
  X(cuGraphGetNodes, (GraphHandle graph, NodeHandle * nodes, size_t* count))                                 \
  X(cuGraphClone, (GraphHandle * clone, GraphHandle graph))                                                  \
  X(cuGraphNodeGetType, (NodeHandle node, int* type))                                                        \
  X(cuGraphNodeGetDependencies, (NodeHandle node, NodeHandle * nodes, size_t* count))                        \
  X(cuGraphNodeGetDependentNodes, (NodeHandle node, NodeHandle * nodes, size_t* count))                      \
  X(cuGraphMemsetNodeGetParams, (NodeHandle node, MemsetParams * params))                                    \
  X(cuGraphMemcpyNodeGetParams, (NodeHandle node, CopyParams * params))                                      \
  X(cuGraphAddKernelNode, (NodeHandle * node, GraphHandle graph, const NodeHandle* before, size_t count,     \
                           const KernelNodeParams* params))                                                  \
  X(cuGraphAddDependencies, (GraphHandle graph, const NodeHandle* from, const NodeHandle* to, size_t count)) \
  X(cuGraphDestroyNode, (NodeHandle node))                                                                   \
  X(cuGraphDestroy, (GraphHandle graph))                                                                     \
  X(cuGraphExecDestroy, (ExecHandle exec))                                                                   \
  X(cuGraphUpload, (ExecHandle exec, StreamHandle stream))                                                   \
  X(cuGraphLaunch, (ExecHandle exec, StreamHandle stream))                                                   \
  X(cuLaunchHostFunc, (StreamHandle stream, HostFunction function, void* data))                              \
  X(cuModuleLoadData, (ModuleHandle * module, const void* image))                                            \
  X(cuModuleUnload, (ModuleHandle module))                                                                   \
  X(cuModuleGetFunction, (FunctionHandle * function, ModuleHandle module, const char* name))                 \
  X(cuLaunchKernel, (FunctionHandle function, unsigned grid_x, unsigned grid_y, unsigned grid_z,             \
                     unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,            \
                     StreamHandle stream, void** arguments, void** extra))

struct DriverApi {
#define SEARCHPIPE_CUDA_MEMBER(name, arguments) Result(*name) arguments = nullptr;
  SEARCHPIPE_CUDA_FUNCTIONS(SEARCHPIPE_CUDA_MEMBER)
#undef SEARCHPIPE_CUDA_MEMBER
};

// Whether this process can use CUDA, found out once: the driver is loaded (the
// library named by the environment variable SEARCHPIPE_LIBCUDA, else
// libcuda.so.1), initialised and asked for its devices.
struct Availability {
  bool available = false;
  std::string reason;      // why not, and what to do; empty if available
  std::string library;     // what was loaded
  int driver_version = 0;  // 1000 * major + 10 * minor of the newest CUDA that the driver serves
  int device_count = 0;
};

// Any thread. Never throws.
const Availability& availability();

// Any thread. Throws std::runtime_error with availability().reason if there is no usable driver.
const DriverApi& driver();

}  // namespace searchpipe::cuda

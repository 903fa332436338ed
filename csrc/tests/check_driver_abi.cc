// Compiled, never run: compares every declaration of csrc/cuda/driver_api.h
// with NVIDIA's header. Only sizes, counts and pointers can be compared, since
// the header's own types are not ours.

#include <cstddef>
#include <type_traits>

#include "cuda/driver_api.h"

namespace own {
using searchpipe::cuda::ContextHandle;
using searchpipe::cuda::CopyParams;
using searchpipe::cuda::DevicePtr;
using searchpipe::cuda::EventHandle;
using searchpipe::cuda::ExecHandle;
using searchpipe::cuda::FunctionHandle;
using searchpipe::cuda::GraphHandle;
using searchpipe::cuda::HostFunction;
using searchpipe::cuda::KernelNodeParams;
using searchpipe::cuda::MemsetParams;
using searchpipe::cuda::ModuleHandle;
using searchpipe::cuda::NodeHandle;
using searchpipe::cuda::Result;
using searchpipe::cuda::StreamHandle;
using searchpipe::cuda::Uuid;
// Before cuda.h, which renames the functions by macros.
#define OWN(name, arguments) using type_of_##name = Result(*) arguments;
SEARCHPIPE_CUDA_FUNCTIONS(OWN)
#undef OWN
}  // namespace own

#include <cuda.h>
#include <cudaTypedefs.h>

// The header's are those of CUDA 12.3, which also tell what data the edges carry.
#undef cuGraphNodeGetDependencies
#undef cuGraphNodeGetDependentNodes
#undef cuGraphAddDependencies
extern "C" {
std::remove_pointer_t<PFN_cuGraphNodeGetDependencies_v10000> cuGraphNodeGetDependencies;
std::remove_pointer_t<PFN_cuGraphNodeGetDependentNodes_v10000> cuGraphNodeGetDependentNodes;
std::remove_pointer_t<PFN_cuGraphAddDependencies_v10000> cuGraphAddDependencies;
}

template <class A, class B>
constexpr bool same_argument = sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>;

// A handle of ours is a void*, of the header's a pointer to an opaque struct: both are pointers.
template <class A, class B>
struct SameAbi : std::false_type {};

template <class R1, class... A1, class R2, class... A2>
  requires(sizeof...(A1) == sizeof...(A2))
struct SameAbi<R1 (*)(A1...), R2 (*)(A2...)>
    : std::bool_constant<sizeof(R1) == sizeof(R2) && (same_argument<A1, A2> && ...)> {};

#define COMPARE(name, arguments) static_assert(SameAbi<own::type_of_##name, decltype(&::name)>::value, #name);
SEARCHPIPE_CUDA_FUNCTIONS(COMPARE)
#undef COMPARE

static_assert(searchpipe::cuda::kCaptureThreadLocal == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
static_assert(searchpipe::cuda::kStreamNonBlocking == CU_STREAM_NON_BLOCKING);
static_assert(searchpipe::cuda::kEventBlockingSync == CU_EVENT_BLOCKING_SYNC);
static_assert(searchpipe::cuda::kEventDisableTiming == CU_EVENT_DISABLE_TIMING);
static_assert(searchpipe::cuda::kHostAllocPortable == CU_MEMHOSTALLOC_PORTABLE);
static_assert(searchpipe::cuda::kNotReady == CUDA_ERROR_NOT_READY);
static_assert(searchpipe::cuda::kDeinitialized == CUDA_ERROR_DEINITIALIZED);
static_assert(searchpipe::cuda::kAttributeMultiprocessors == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
static_assert(searchpipe::cuda::kAttributeCapabilityMajor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(searchpipe::cuda::kAttributeCapabilityMinor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(searchpipe::cuda::kLossyQuery == CUDA_ERROR_LOSSY_QUERY);
static_assert(searchpipe::cuda::kNodeKernel == CU_GRAPH_NODE_TYPE_KERNEL);
static_assert(searchpipe::cuda::kNodeCopy == CU_GRAPH_NODE_TYPE_MEMCPY);
static_assert(searchpipe::cuda::kNodeMemset == CU_GRAPH_NODE_TYPE_MEMSET);
static_assert(searchpipe::cuda::kNodeAllocation == CU_GRAPH_NODE_TYPE_MEM_ALLOC);
static_assert(searchpipe::cuda::kMemoryHost == CU_MEMORYTYPE_HOST);
static_assert(searchpipe::cuda::kMemoryDevice == CU_MEMORYTYPE_DEVICE);
static_assert(searchpipe::cuda::kMemoryUnified == CU_MEMORYTYPE_UNIFIED);
static_assert(searchpipe::cuda::kPointerMemoryType == CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
static_assert(searchpipe::cuda::kPointerDevicePointer == CU_POINTER_ATTRIBUTE_DEVICE_POINTER);
static_assert(searchpipe::cuda::kPointerIsManaged == CU_POINTER_ATTRIBUTE_IS_MANAGED);
static_assert(searchpipe::cuda::kPointerDeviceOrdinal == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);

// Structs of calls, member by member.
#define SAME_MEMBER(Own, own_member, Theirs, their_member)                     \
  static_assert(offsetof(Own, own_member) == offsetof(Theirs, their_member) && \
                sizeof(Own::own_member) == sizeof(Theirs::their_member))
using searchpipe::cuda::CopyParams;
using searchpipe::cuda::KernelNodeParams;
using searchpipe::cuda::MemsetParams;
static_assert(sizeof(MemsetParams) == sizeof(CUDA_MEMSET_NODE_PARAMS));
SAME_MEMBER(MemsetParams, to, CUDA_MEMSET_NODE_PARAMS, dst);
SAME_MEMBER(MemsetParams, pitch, CUDA_MEMSET_NODE_PARAMS, pitch);
SAME_MEMBER(MemsetParams, value, CUDA_MEMSET_NODE_PARAMS, value);
SAME_MEMBER(MemsetParams, element_bytes, CUDA_MEMSET_NODE_PARAMS, elementSize);
SAME_MEMBER(MemsetParams, width, CUDA_MEMSET_NODE_PARAMS, width);
SAME_MEMBER(MemsetParams, height, CUDA_MEMSET_NODE_PARAMS, height);
static_assert(sizeof(CopyParams) == sizeof(CUDA_MEMCPY3D));
SAME_MEMBER(CopyParams, from.x_bytes, CUDA_MEMCPY3D, srcXInBytes);
SAME_MEMBER(CopyParams, from.y, CUDA_MEMCPY3D, srcY);
SAME_MEMBER(CopyParams, from.z, CUDA_MEMCPY3D, srcZ);
SAME_MEMBER(CopyParams, from.level, CUDA_MEMCPY3D, srcLOD);
SAME_MEMBER(CopyParams, from.memory_type, CUDA_MEMCPY3D, srcMemoryType);
SAME_MEMBER(CopyParams, from.host, CUDA_MEMCPY3D, srcHost);
SAME_MEMBER(CopyParams, from.device, CUDA_MEMCPY3D, srcDevice);
SAME_MEMBER(CopyParams, to.x_bytes, CUDA_MEMCPY3D, dstXInBytes);
SAME_MEMBER(CopyParams, to.memory_type, CUDA_MEMCPY3D, dstMemoryType);
SAME_MEMBER(CopyParams, to.host, CUDA_MEMCPY3D, dstHost);
SAME_MEMBER(CopyParams, to.device, CUDA_MEMCPY3D, dstDevice);
SAME_MEMBER(CopyParams, width_bytes, CUDA_MEMCPY3D, WidthInBytes);
SAME_MEMBER(CopyParams, height, CUDA_MEMCPY3D, Height);
SAME_MEMBER(CopyParams, depth, CUDA_MEMCPY3D, Depth);
static_assert(sizeof(KernelNodeParams) == sizeof(CUDA_KERNEL_NODE_PARAMS));
SAME_MEMBER(KernelNodeParams, function, CUDA_KERNEL_NODE_PARAMS, func);
SAME_MEMBER(KernelNodeParams, grid_x, CUDA_KERNEL_NODE_PARAMS, gridDimX);
SAME_MEMBER(KernelNodeParams, block_x, CUDA_KERNEL_NODE_PARAMS, blockDimX);
SAME_MEMBER(KernelNodeParams, shared_bytes, CUDA_KERNEL_NODE_PARAMS, sharedMemBytes);
SAME_MEMBER(KernelNodeParams, arguments, CUDA_KERNEL_NODE_PARAMS, kernelParams);
SAME_MEMBER(KernelNodeParams, extra, CUDA_KERNEL_NODE_PARAMS, extra);
SAME_MEMBER(KernelNodeParams, kernel, CUDA_KERNEL_NODE_PARAMS, kern);
SAME_MEMBER(KernelNodeParams, context, CUDA_KERNEL_NODE_PARAMS, ctx);

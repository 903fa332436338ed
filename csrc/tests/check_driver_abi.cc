// Compiled, never run: compares every declaration of csrc/cuda/driver_api.h
// with NVIDIA's header. Only sizes, counts and pointers can be compared, since
// the header's own types are not ours.

#include <type_traits>

#include "cuda/driver_api.h"

namespace own {
using searchpipe::cuda::ContextHandle;
using searchpipe::cuda::DevicePtr;
using searchpipe::cuda::EventHandle;
using searchpipe::cuda::ExecHandle;
using searchpipe::cuda::FunctionHandle;
using searchpipe::cuda::GraphHandle;
using searchpipe::cuda::HostFunction;
using searchpipe::cuda::ModuleHandle;
using searchpipe::cuda::Result;
using searchpipe::cuda::StreamHandle;
using searchpipe::cuda::Uuid;
// Before cuda.h, which renames the functions by macros.
#define OWN(name, arguments) using type_of_##name = Result(*) arguments;
SEARCHPIPE_CUDA_FUNCTIONS(OWN)
#undef OWN
}  // namespace own

#include <cuda.h>

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

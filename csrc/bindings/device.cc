#include "cuda/device.h"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <functional>
#include <memory>
#include <stdexcept>

#include "bindings/gil.h"
#include "bindings/module.h"
#include "cuda/buffer.h"
#include "cuda/error.h"
#include "cuda/graph.h"
#include "cuda/kernel.h"
#include "cuda/nvtx.h"
#include "cuda/stream.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

using cuda::Device;
using cuda::DeviceBuffer;
using cuda::GraphExec;
using cuda::Kernel;
using cuda::Stream;

void check_range(const DeviceBuffer& buffer, std::size_t offset, std::size_t bytes) {
  if (offset > buffer.bytes() || bytes > buffer.bytes() - offset) {
    throw std::out_of_range("bytes " + std::to_string(offset) + " to " + std::to_string(offset + bytes) +
                            " are outside of a buffer of " + std::to_string(buffer.bytes()));
  }
}

void write(const DeviceBuffer& buffer, const py::array& array, std::size_t offset) {
  if ((array.flags() & py::array::c_style) == 0) {
    throw py::value_error("the array is not C-contiguous; pass np.ascontiguousarray(array)");
  }
  const auto bytes = static_cast<std::size_t>(array.nbytes());
  check_range(buffer, offset, bytes);
  const void* data = array.data();
  ReleaseGil release;
  Stream stream(buffer.device());
  stream.copy_to_device(buffer.address() + offset, data, bytes);
  stream.synchronize();
}

void read(const DeviceBuffer& buffer, py::array& array, std::size_t offset) {
  if ((array.flags() & py::array::c_style) == 0 || !array.writeable()) {
    throw py::value_error("the array is not C-contiguous and writeable; pass np.empty(shape, dtype)");
  }
  const auto bytes = static_cast<std::size_t>(array.nbytes());
  check_range(buffer, offset, bytes);
  void* data = array.mutable_data();
  ReleaseGil release;
  Stream stream(buffer.device());
  stream.copy_to_host(data, buffer.address() + offset, bytes);
  stream.synchronize();
}

}  // namespace

void register_device(py::module_& m) {
  const py::object engine_error = py::module_::import("searchpipe.errors").attr("EngineError");
  py::register_exception<cuda::CudaError>(m, "CudaError", engine_error);

  py::class_<cuda::Availability>(m, "CudaStatus", "Whether CUDA can be used here; true if so. Immutable.")
      .def("__bool__", [](const cuda::Availability& it) { return it.available; })
      .def_readonly("available", &cuda::Availability::available)
      .def_readonly("reason", &cuda::Availability::reason, "Why not, and what to do; empty if available.")
      .def_readonly("library", &cuda::Availability::library, "The driver library that was tried.")
      .def_readonly("driver_version", &cuda::Availability::driver_version,
                    "The newest CUDA that the driver serves: 1000 * major + 10 * minor; 0 without a driver.")
      .def_readonly("device_count", &cuda::Availability::device_count);

  m.def(
      "cuda_available", [] { return cuda::availability(); }, py::call_guard<ReleaseGil>(),
      R"(Load the CUDA driver, once, and say whether it can be used: a CudaStatus, true if so.

The library is the one that the environment variable SEARCHPIPE_LIBCUDA names, else libcuda.so.1; nothing else of
CUDA needs to be installed. Never raises. Any thread.)");

  m.def(
      "set_nvtx",
      [](std::uintptr_t push, std::uintptr_t pop) {
        if ((push == 0) != (pop == 0))
          throw py::value_error("push and pop go together: give both, or 0 twice");
        nvtx::set_functions(reinterpret_cast<nvtx::Push>(push), reinterpret_cast<nvtx::Pop>(pop));
      },
      py::arg("push"), py::arg("pop"),
      R"(Record the engine's batches and slots as NVTX ranges, through these functions of NVIDIA's library.

push, pop: addresses of nvtxRangePushA and nvtxRangePop, which must stay loaded; 0 and 0 record no more. See
searchpipe.device.nvtx, which finds them. Raises ValueError if only one is 0. Any thread.)");

  py::class_<Device, std::shared_ptr<Device>>(m, "Device", R"(One GPU and its primary context.

That is the context of torch, cupy, FAISS and ONNX Runtime too: addresses and stream handles may be exchanged with
them. Threads: any.)")
      .def(py::init([](int ordinal) { return Device::open(ordinal); }), py::arg("ordinal") = 0,
           py::call_guard<ReleaseGil>(),
           "Raises RuntimeError without a usable driver, IndexError for an unknown ordinal, CudaError.")
      .def_property_readonly("ordinal", &Device::ordinal)
      .def_property_readonly("name", &Device::name)
      .def_property_readonly("uuid", &Device::uuid)
      .def_property_readonly(
          "capability",
          [](const Device& it) { return py::make_tuple(it.capability_major(), it.capability_minor()); },
          "Compute capability (major, minor).")
      .def_property_readonly("multiprocessors", &Device::multiprocessors)
      .def_property_readonly("total_bytes", &Device::total_bytes, "Memory of the device, in bytes.")
      .def("free_bytes", &Device::free_bytes, py::call_guard<ReleaseGil>(),
           "Memory that is free now, in bytes. Raises CudaError.");

  py::class_<Stream, std::shared_ptr<Stream>>(
      m, "Stream", "An in-order queue of device work. Threads: any, one at a time.")
      .def(py::init([](std::shared_ptr<Device> device, int priority) {
             return releasing(std::make_unique<Stream>(std::move(device), priority));
           }),
           py::arg("device"), py::kw_only(), py::arg("priority") = 0, py::call_guard<ReleaseGil>(),
           "A lower priority number runs first. Raises CudaError.")
      .def_property_readonly(
          "handle", [](const Stream& it) { return reinterpret_cast<std::uintptr_t>(it.handle()); },
          "The CUstream, as a number.")
      .def("synchronize", &Stream::synchronize, py::call_guard<ReleaseGil>(),
           "Wait for everything on the stream. Raises CudaError.")
      .def_property_readonly("capturing", &Stream::capturing);

  py::class_<GraphExec, std::shared_ptr<GraphExec>>(
      m, "RecordedWork",
      R"(Device work of others, recorded once and put on its stream as one call.

Memory that the work names must outlive it. Threads: any, one at a time.)")
      .def(py::init([](const std::shared_ptr<Device>& device, std::uintptr_t stream,
                       const std::function<void()>& enqueue) {
             return std::make_shared<GraphExec>(
                 GraphExec::capture(device, reinterpret_cast<cuda::StreamHandle>(stream), enqueue));
           }),
           py::arg("device"), py::arg("stream"), py::arg("enqueue"),
           R"(Record, and do not run, what `enqueue()` puts on the stream with this handle.

It may call nothing on this thread that synchronises or allocates. Raises what it raises, CudaError or RuntimeError for
what cannot be recorded; the stream is usable again either way.)")
      .def(
          "launch",
          [](const GraphExec& work, std::uintptr_t stream) {
            work.launch(reinterpret_cast<cuda::StreamHandle>(stream));
          },
          py::arg("stream"), "Put it on the stream with this handle. Raises CudaError.")
      .def_property_readonly("nodes", &GraphExec::nodes, "Pieces of work in it.");

  py::class_<DeviceBuffer, std::shared_ptr<DeviceBuffer>>(
      m, "DeviceBuffer",
      "Device memory, freed with the object. Threads: any; concurrent writes are the caller's.")
      .def(py::init([](std::shared_ptr<Device> device, std::size_t bytes) {
             return releasing(std::make_unique<DeviceBuffer>(std::move(device), bytes));
           }),
           py::arg("device"), py::arg("nbytes"), py::call_guard<ReleaseGil>(),
           "Raises CudaError, naming the memory that is free.")
      .def_property_readonly("address", &DeviceBuffer::address)
      .def_property_readonly("nbytes", &DeviceBuffer::bytes)
      .def("write", &write, py::arg("array"), py::kw_only(), py::arg("offset") = 0,
           "Copy a C-contiguous array in, `offset` bytes from the start, and wait. Raises IndexError, "
           "CudaError.")
      .def("read", &read, py::arg("array"), py::kw_only(), py::arg("offset") = 0,
           "Fill a C-contiguous array from `offset` bytes on, and wait. Raises IndexError, CudaError.");

  py::class_<Kernel, std::shared_ptr<Kernel>>(m, "Kernel",
                                              "A kernel that the driver compiles from PTX. Threads: any.")
      .def(py::init([](std::shared_ptr<Device> device, const std::string& ptx, const std::string& entry) {
             return releasing(std::make_unique<Kernel>(std::move(device), ptx, entry));
           }),
           py::arg("device"), py::arg("ptx"), py::arg("entry"), py::call_guard<ReleaseGil>(),
           "Raises CudaError for text that does not compile or has no such entry.")
      .def(
          "launch",
          [](const Kernel& kernel, std::uintptr_t stream, unsigned blocks, unsigned threads,
             const std::vector<std::uint64_t>& arguments) {
            ReleaseGil release;
            kernel.launch(reinterpret_cast<cuda::StreamHandle>(stream), blocks, threads, arguments);
          },
          py::arg("stream"), py::arg("blocks"), py::arg("threads"), py::arg("arguments"),
          R"(Put one launch on the stream with this handle.

arguments: every one 64 bits wide (.param .u64), as many as the kernel takes. Raises CudaError.)");
}

}  // namespace searchpipe::bindings

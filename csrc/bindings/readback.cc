#include "runtime/readback.h"

#include <pybind11/numpy.h>

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "bindings/gil.h"
#include "bindings/module.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

using runtime::Readback;

bool wait(const Readback& it, double seconds) {
  if (std::isnan(seconds)) throw py::value_error("seconds is NaN");
  if (it.done()) return true;  // most often, and not worth giving the GIL up
  if (!(seconds > 0.0)) return false;
  ReleaseGil release;
  return it.wait(seconds);
}

void copy(const Readback& it, py::array& array, std::size_t offset) {
  if ((array.flags() & py::array::c_style) == 0 || !array.writeable()) {
    throw py::value_error("the array is not C-contiguous and writeable; pass np.empty(shape, dtype)");
  }
  const auto bytes = static_cast<std::size_t>(array.nbytes());
  if (offset > it.bytes() || bytes > it.bytes() - offset) {
    throw std::out_of_range("bytes " + std::to_string(offset) + " to " + std::to_string(offset + bytes) +
                            " are outside of a buffer of " + std::to_string(it.bytes()));
  }
  if (!it.done()) throw std::runtime_error("the copy is still on its way: wait() has not answered true");
  std::memcpy(array.mutable_data(), it.host() + offset, bytes);
}

}  // namespace

void register_readback(py::module_& m) {
  py::class_<Readback, std::shared_ptr<Readback>>(
      m, "Readback",
      R"(Device memory that work on a stream fills, and a copy on the host that follows it there.

Nobody has to wait in between: the work is put on the stream, then fetch(), and the copy is read whenever wait() says
that it is there. Freed with the object, which waits for a copy on its way. Threads: one at a time; done() any.)")
      .def(py::init([](const std::shared_ptr<cuda::Device>& device, std::size_t bytes) {
             return releasing(std::make_unique<Readback>(device, bytes));
           }),
           py::arg("device"), py::arg("nbytes"), py::call_guard<ReleaseGil>(),
           "Raises CudaError when device or pinned memory is short.")
      .def_property_readonly("address", &Readback::address, "Of the device memory.")
      .def_property_readonly("nbytes", &Readback::bytes)
      .def(
          "fetch",
          [](Readback& it, std::uintptr_t stream, std::size_t bytes) {
            it.fetch(reinterpret_cast<cuda::StreamHandle>(stream), bytes);
          },
          py::arg("stream"), py::arg("nbytes"),
          "Put a copy of the first `nbytes` on the stream with this handle; of 0, the mark of its end alone. "
          "Raises "
          "CudaError, IndexError.")
      .def("done", &Readback::done,
           "Whether the last fetch() has ended; true before the first. Raises CudaError if what came before "
           "it "
           "on its stream has failed.")
      .def("wait", &wait, py::arg("seconds"),
           "As done(), after at most `seconds` with the GIL released: a millisecond of asking, then sleeps.")
      .def("copy", &copy, py::arg("array"), py::kw_only(), py::arg("offset") = 0,
           "Fill a C-contiguous array with the host's copy, from byte `offset` on. Raises IndexError, and "
           "RuntimeError before the copy is there.");
}

}  // namespace searchpipe::bindings

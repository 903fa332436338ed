#include "runtime/request_cost.h"

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "runtime/executor.h"

namespace py = pybind11;

namespace searchpipe::bindings {

using runtime::Executor;
using runtime::RequestCost;

constexpr std::size_t kLongRequest = 64;  // rows; fewer take less than the GIL's way back

void register_request_cost(py::module_& m) {
  py::class_<RequestCost>(m, "RequestCost",
                          R"(How long requests take on an executor whose batches were measured.

A request costs the sum of the batches that a Scorer would cut it into (cut_into_batches), each at what its bucket
was measured to cost. Immutable; threads: any.)")
      .def(py::init([](const Executor& executor) {
             return std::make_unique<RequestCost>(executor.shape(), executor.costs());
           }),
           py::arg("executor"), "Raises ValueError for an executor without costs.")
      .def(
          "seconds",
          [](const RequestCost& cost, const py::object& lengths) {
            const auto values = input_vector<std::int32_t>(lengths, "lengths");
            const ReleaseIfLong release(values.span().size(), kLongRequest);
            return cost.seconds(values.span());
          },
          py::arg("lengths"),
          R"(Seconds of a request of rows with these lengths in tokens, int32 (n,), in any order.

A row longer than the executor takes counts as the longest. Raises TypeError, ValueError for another array.)");
}

}  // namespace searchpipe::bindings

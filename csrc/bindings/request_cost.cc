#include "runtime/request_cost.h"

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "core/pair_packer.h"
#include "core/token_store.h"
#include "runtime/executor.h"

namespace py = pybind11;

namespace searchpipe::bindings {

using runtime::Executor;
using runtime::RequestCost;

namespace {

constexpr std::size_t kLongRequest = 1024;  // rows; fewer take less than the GIL's way back

py::tuple of_pairs(const RequestCost& cost, const PairPacker& packer, const TokenStore& store,
                   const py::object& query, const py::object& documents) {
  const auto ids = input_vector<std::int32_t>(query, "query");
  const auto docs = input_vector<std::int32_t>(documents, "docs");
  auto lengths = new_array<std::int32_t>(docs.span().size());
  const std::span<std::int32_t> out(lengths.mutable_data(), docs.span().size());
  std::int64_t tokens = 0;
  double seconds = 0.0;
  {
    const ReleaseIfLong release(out.size(), kLongRequest);
    tokens = packer.lengths(ids.span(), docs.span(), store, out);
    seconds = cost.seconds(out);
  }
  return py::make_tuple(std::move(lengths), tokens, seconds);
}

}  // namespace

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

A row longer than the executor takes counts as the longest. Raises TypeError, ValueError for another array.)")
      .def("of_pairs", &of_pairs, py::arg("packer"), py::arg("store"), py::arg("query"), py::arg("docs"),
           R"((packer.lengths(query, store, docs), their sum, seconds() of them). Raises as the two do.)");
}

}  // namespace searchpipe::bindings

#include "core/histogram.h"

#include <memory>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

py::bytes to_bytes(const Histogram& histogram) {
  std::vector<std::byte> bytes;
  {
    ReleaseGil release;
    bytes = histogram.to_bytes();
  }
  return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::unique_ptr<Histogram> from_bytes(const py::bytes& data) {
  const auto view = static_cast<std::string_view>(data);
  ReleaseGil release;
  return std::make_unique<Histogram>(Histogram::from_bytes(std::as_bytes(std::span(view))));
}

py::array_t<double> quantiles(const Histogram& histogram, const py::object& object) {
  const auto points = input_vector<double>(object, "points");
  std::vector<double> values;
  {
    ReleaseGil release;
    values = histogram.quantiles(points.span());
  }
  return to_array(std::move(values));
}

}  // namespace

void register_histogram(py::module_& m) {
  py::class_<Histogram>(m, "Histogram",
                        R"(Quantiles of a stream of values with bounded relative error; mergeable.

Logarithmic buckets as in DDSketch (Masson, Rim, Lee, VLDB 2019). Values from 1e-9 to 1e12 (in any unit) are estimated
within relative_error; smaller ones and 0 are estimated as min, larger ones as max. NaN, infinite and negative values
are refused with ValueError.
Threads: any number may call everything at once; recording never blocks.)")
      .def(py::init<double>(), py::kw_only(), py::arg("relative_error") = 0.01,
           "relative_error: 0.0001 to 0.5, else ValueError. Memory: about 200 bytes / relative_error.")
      .def("record", &Histogram::record, py::arg("value"), "Record one value.")
      .def(
          "record_many",
          [](Histogram& histogram, const py::object& object) {
            const auto values = input_vector<double>(object, "values");
            ReleaseGil release;
            histogram.record_many(values.span());
          },
          py::arg("values"), "Record float64 (n,). If one value is refused, none is recorded.")
      .def(
          "quantile",
          [](const Histogram& histogram, double q) {
            ReleaseGil release;
            return histogram.quantiles({&q, 1}).front();
          },
          py::arg("q"), R"(Estimate of the value of rank floor(q * (count - 1)), from 0 in ascending order.

NaN where nothing was recorded; ValueError for q outside of 0..1.)")
      .def("quantiles", &quantiles, py::arg("points"),
           "quantile() of each of float64 (n,), all from one state: float64 (n,).")
      .def("merge", &Histogram::merge, py::arg("other"), py::call_guard<ReleaseGil>(),
           "Add what another histogram recorded. ValueError if its relative_error differs.")
      .def_property_readonly("relative_error", &Histogram::relative_error)
      .def_property_readonly("count", &Histogram::count, "Values recorded.")
      .def_property_readonly("sum", &Histogram::sum, "Their sum.")
      .def_property_readonly("min", &Histogram::min, "The smallest, exactly; NaN where nothing was recorded.")
      .def_property_readonly("max", &Histogram::max, "The largest, exactly; NaN where nothing was recorded.")
      .def("to_bytes", &to_bytes, "A checksummed copy of the state, for from_bytes().")
      .def_static("from_bytes", &from_bytes, py::arg("data"),
                  "The histogram that to_bytes() wrote; RuntimeError says what is wrong with other bytes.")
      .def(py::pickle(&to_bytes, &from_bytes));
}

}  // namespace searchpipe::bindings

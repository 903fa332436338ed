#include <pybind11/stl.h>

#include <memory>
#include <utility>
#include <vector>

#include "bindings/columns.h"
#include "bindings/module.h"
#include "bindings/request_options.h"
#include "runtime/scorer.h"
#include "runtime/text_rows.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

using runtime::Scorer;
using runtime::Ticket;

// What every row of one encoder has in common. Immutable.
struct TextPacker {
  std::int32_t cls_id;
  std::int32_t sep_id;
  std::int32_t pad_id;
  std::int32_t max_tokens;
};

std::shared_ptr<Ticket> prepare(const TextPacker& packer, const Scorer& scorer, const py::object& text,
                                std::optional<double> deadline, std::int32_t priority,
                                std::uint64_t device_output) {
  const VectorView<std::int32_t> ids(text, [] { return "text"; });
  std::vector<std::vector<std::int32_t>> rows;
  rows.emplace_back(ids.span().begin(), ids.span().end());
  auto source = std::make_unique<runtime::TextRows>(std::move(rows), packer.cls_id, packer.sep_id,
                                                    packer.pad_id, packer.max_tokens);
  return scorer.prepare(std::move(source), make_options(deadline, priority, device_output));
}

py::array token_ids(const py::list& ids, std::size_t most) {
  NewVector<std::int32_t> made(std::min(ids.size(), most));
  for (std::size_t i = 0; i < made.out.size(); ++i) {
    made.out[i] = py::handle(PyList_GET_ITEM(ids.ptr(), static_cast<Py_ssize_t>(i))).cast<std::int32_t>();
  }
  return std::move(made.array);
}

}  // namespace

void register_text_packer(py::module_& m) {
  py::class_<TextPacker>(m, "TextPacker",
                         R"(Makes requests of one text, as a query is one. Immutable; threads: any.)")
      .def(py::init([](std::int32_t cls_id, std::int32_t sep_id, std::int32_t pad_id,
                       std::int32_t max_tokens) { return TextPacker{cls_id, sep_id, pad_id, max_tokens}; }),
           py::kw_only(), py::arg("cls_id"), py::arg("sep_id"), py::arg("pad_id") = 0,
           py::arg("max_tokens") = 512, "As of Scorer.prepare_texts().")
      .def("prepare", &prepare, py::arg("scorer"), py::arg("text"), py::arg("deadline"), py::arg("priority"),
           py::arg("device_output"),
           R"(scorer.prepare_texts([text], ...) with the arguments of this packer, at a fraction of the cost.

text: int32 (n,). Raises as that does.)");

  m.def("token_ids", &token_ids, py::arg("ids"), py::arg("most"),
        R"(np.array(ids[:most], np.int32) of a list of int, at a fraction of the cost.

Raises RuntimeError for an item that is no int32. Threads: any; the GIL is held.)");
}

}  // namespace searchpipe::bindings

#include "core/batch_planner.h"

#include <pybind11/stl.h>

#include "bindings/arrays.h"
#include "bindings/module.h"
#include "core/message.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

const char* name_of(Refusal refusal) {
  switch (refusal) {
    case Refusal::kNone:
      return "";
    case Refusal::kQueuedRequests:
      return "queued_requests";
    case Refusal::kQueuedRows:
      return "queued_rows";
    case Refusal::kRowTooWide:
      return "row_too_wide";
    case Refusal::kDeadlinePassed:
      return "deadline_passed";
  }
  return "";
}

const char* name_of(Trigger trigger) {
  switch (trigger) {
    case Trigger::kFull:
      return "full";
    case Trigger::kDelay:
      return "delay";
    case Trigger::kDeadline:
      return "deadline";
    case Trigger::kFlush:
      return "flush";
  }
  return "";
}

std::unique_ptr<BatchPlanner> make_planner(std::int64_t max_rows, std::int64_t token_budget,
                                           std::int64_t width_step, double max_delay_s, double starve_after_s,
                                           std::int64_t max_queued_rows, std::int64_t max_queued_requests,
                                           bool packed, double base_s, double token_s) {
  return std::make_unique<BatchPlanner>(
      BatchLimits{max_rows, token_budget, width_step, max_delay_s, starve_after_s, max_queued_rows,
                  max_queued_requests, packed},
      BatchCost{base_s, token_s});
}

Admission add(BatchPlanner& planner, std::uint64_t id, const py::object& lengths, double now, double deadline,
              std::int32_t priority) {
  const auto values = input_vector<std::int32_t>(lengths, "lengths");
  const auto span = values.span();
  return planner.add(id, std::vector<std::int32_t>(span.begin(), span.end()), now, deadline, priority);
}

py::object next_batch(BatchPlanner& planner, double now, bool flush) {
  Decision decision = planner.next_batch(now, flush);
  if (decision.batch) return py::cast(std::move(*decision.batch));
  return py::float_(decision.ask_again_at);
}

void register_results(py::module_& m) {
  py::class_<Admission>(m, "Admission",
                        "Whether BatchPlanner.add queued a request; true if it did. Immutable.")
      .def_property_readonly("accepted", &Admission::accepted)
      .def_property_readonly(
          "code", [](const Admission& admission) { return name_of(admission.refusal); },
          "\"\" when accepted, else \"queued_requests\", \"queued_rows\", \"row_too_wide\" or "
          "\"deadline_passed\".")
      .def_readonly("reason", &Admission::reason, "Value, limit and cure; empty when accepted.")
      .def("__bool__", &Admission::accepted)
      .def("__repr__", [](const Admission& admission) {
        return admission.accepted()
                   ? std::string("Admission(accepted)")
                   : message("Admission(", name_of(admission.refusal), ": ", admission.reason, ")");
      });

  py::class_<BatchPart>(m, "BatchPart", "Rows of one request inside a batch. Immutable.")
      .def_readonly("request", &BatchPart::request, "The id given to add.")
      .def_readonly("first_row", &BatchPart::first_row)
      .def_readonly("rows", &BatchPart::rows)
      .def("__repr__", [](const BatchPart& part) {
        return message("BatchPart(request ", part.request, ", rows ", part.first_row, "..",
                       part.first_row + part.rows - 1, ")");
      });

  py::class_<PlannedBatch>(m, "PlannedBatch", "Rows to run together, most urgent request first. Immutable.")
      .def_readonly("parts", &PlannedBatch::parts, "list of BatchPart.")
      .def_readonly("rows", &PlannedBatch::rows)
      .def_readonly("width", &PlannedBatch::width, "Tokens of the longest row, rounded up.")
      .def_readonly("tokens", &PlannedBatch::tokens, "Tokens of all rows without padding.")
      .def_readonly("padded_tokens", &PlannedBatch::places, "rows x width or, if packed, tokens.")
      .def_readonly("estimated_s", &PlannedBatch::estimated_s, "By the cost given to the planner.")
      .def_property_readonly(
          "trigger", [](const PlannedBatch& batch) { return name_of(batch.trigger); },
          "Why it was not held back any longer: \"full\", \"delay\", \"deadline\" or \"flush\".")
      .def("__repr__", [](const PlannedBatch& batch) {
        return message("PlannedBatch(", batch.parts.size(), " parts, ", batch.rows, " x ", batch.width,
                       " tokens, ", name_of(batch.trigger), ")");
      });
}

}  // namespace

void register_batch_planner(py::module_& m) {
  register_results(m);
  py::class_<BatchPlanner>(m, "BatchPlanner", R"(Decides which rows of which requests run together, and when.

Pure policy: it looks at no clock, sleeps never and runs nothing. Times are seconds on any clock of the caller's; one
that steps back is taken to stand still.

Order: larger priority first, inside a priority the earliest deadline, then arrival. Nothing starves: a request that
has waited ``starve_after_s`` comes before every request that arrived after it, and starts within ``1 + B`` further
batches, ``B`` being the sum, over the requests still queued that arrived before it, of
``ceil(rows / most rows of that width in one batch)``.

A batch takes as many rows of the first request as fit (the rest stays queued), then rows of the next ones. One is
passed over while the padding it adds is estimated to cost more than a batch of its own, or while it would make the
batch miss a deadline that it keeps without. The batch is held back until it is full, or a waiting request has waited
``max_delay_s`` or could by the estimate not keep its deadline if it waited longer.

Args:
    max_rows: of a batch.
    token_budget: token places of a batch: rows x width or, if packed, tokens.
    width_step: widths are rounded up to a multiple of this.
    max_delay_s: longest wait for company, in seconds.
    starve_after_s: may be infinite.
    max_queued_rows, max_queued_requests: beyond them requests are refused.
    packed: rows lie one after the other, so that lengths may be mixed at no cost.
    base_s, token_s: a batch is estimated to take ``base_s + token_s * padded_tokens`` seconds; ``base_s / token_s``
        is the padding worth one batch less. Replace the defaults by what you measure, see :meth:`set_cost`.

Raises:
    ValueError: an argument out of range.

One thread at a time may use it. The GIL is held: every call is short.)")
      .def(py::init(&make_planner), py::kw_only(), py::arg("max_rows") = BatchLimits{}.max_rows,
           py::arg("token_budget") = BatchLimits{}.token_budget,
           py::arg("width_step") = BatchLimits{}.width_step,
           py::arg("max_delay_s") = BatchLimits{}.max_delay_s,
           py::arg("starve_after_s") = BatchLimits{}.starve_after_s,
           py::arg("max_queued_rows") = BatchLimits{}.max_queued_rows,
           py::arg("max_queued_requests") = BatchLimits{}.max_queued_requests,
           py::arg("packed") = BatchLimits{}.packed, py::arg("base_s") = BatchCost{}.base_s,
           py::arg("token_s") = BatchCost{}.token_s)
      .def("add", &add, R"(Queues a request.

Args:
    request: its id, 0 to 2**64 - 1, not queued yet.
    lengths: int32 ``(rows,)``, tokens of each row, longest first (``PackedLayout.lengths``).
    now: seconds.
    deadline: seconds on the same clock; infinity for none.
    priority: int32, larger is more urgent.

Returns:
    Admission: false, with the reason, for a request that cannot be taken under the limits.

Raises:
    TypeError: lengths are not an int32 array.
    ValueError: no rows, a length below 1, not longest first, an id that is queued, a NaN.)",
           py::arg("request"), py::arg("lengths"), py::kw_only(), py::arg("now"),
           py::arg("deadline") = std::numeric_limits<double>::infinity(), py::arg("priority") = 0)
      .def("cancel", &BatchPlanner::cancel, py::arg("request"),
           "Drops the rows of a request that are still queued; False when there are none.")
      .def("expire", &BatchPlanner::expire, py::arg("now"),
           R"(Removes the requests whose deadline is ``now`` or earlier.

Returns their ids in order of arrival. Call it before :meth:`next_batch`, which never batches them.)")
      .def("next_batch", &next_batch, R"(A batch to run now or, without one, the time at which to ask again.

Args:
    now: seconds.
    flush: do not wait for company (the engine is idle, or the service shuts down).

Returns:
    PlannedBatch: its rows have left the queue.
    float: seconds on the same clock, later than ``now``; infinity when nothing waits. Ask again after every add, too.)",
           py::arg("now"), py::kw_only(), py::arg("flush") = false)
      .def(
          "set_cost",
          [](BatchPlanner& planner, double base_s, double token_s) { planner.set_cost({base_s, token_s}); },
          py::kw_only(), py::arg("base_s"), py::arg("token_s"),
          "Replaces the estimate of what a batch takes, in seconds.")
      .def("__len__", &BatchPlanner::queued_requests, "Requests with rows in the queue.")
      .def_property_readonly("queued_rows", &BatchPlanner::queued_rows)
      .def_property_readonly("queued_tokens", &BatchPlanner::queued_tokens, "Without padding.");
}

}  // namespace searchpipe::bindings

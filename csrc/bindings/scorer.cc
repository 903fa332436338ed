#include "runtime/scorer.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "bindings/arrays.h"
#include "bindings/flight.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "bindings/request_options.h"
#include "core/candidates.h"
#include "runtime/pair_rows.h"
#include "runtime/text_rows.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

using runtime::Clock;
using runtime::Executor;
using runtime::RequestOptions;
using runtime::Scorer;
using runtime::ScorerStats;
using runtime::Ticket;
using runtime::TicketStatus;

constexpr std::size_t kLongRequest = 1024;  // rows (some 50 us) from which on preparing it releases the GIL

void translate(std::exception_ptr pending) {
  const auto raise = [](const char* name, const char* text) {
    py::object type = py::module_::import("searchpipe.errors").attr(name);
    PyErr_SetString(type.ptr(), text);
  };
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const runtime::QueueFull& error) {
    raise("OverloadedError", error.what());
  } catch (const runtime::ScorerClosed& error) {
    raise("ClosedError", error.what());
  }
}

std::vector<std::int32_t> to_vector(py::handle object, const std::string& name) {
  const InputVector<std::int32_t> input = input_vector<std::int32_t>(object, name);
  return {input.span().begin(), input.span().end()};
}

std::shared_ptr<Ticket> prepare_pairs(const Scorer& scorer, const PairPacker& packer,
                                      std::shared_ptr<TokenStore> store, const py::object& query,
                                      const py::object& docs, std::optional<double> deadline,
                                      std::int32_t priority, std::uint64_t device_output) {
  std::vector<std::int32_t> query_ids = to_vector(query, "query");
  std::vector<std::int32_t> ordinals = to_vector(docs, "docs");
  const RequestOptions options = make_options(deadline, priority, device_output);
  const ReleaseIfLong release(ordinals.size(), kLongRequest);
  return scorer.prepare(std::make_unique<runtime::PairRows>(packer, std::move(store), std::move(query_ids),
                                                            std::move(ordinals)),
                        options);
}

std::shared_ptr<Ticket> prepare_texts(const Scorer& scorer, const py::sequence& texts, std::int32_t cls_id,
                                      std::int32_t sep_id, std::int32_t pad_id, std::int32_t max_tokens,
                                      std::optional<double> deadline, std::int32_t priority,
                                      std::uint64_t device_output) {
  std::vector<std::vector<std::int32_t>> ids;
  ids.reserve(texts.size());
  for (const py::handle text : texts)
    ids.push_back(to_vector(text, "texts[" + std::to_string(ids.size()) + "]"));
  const RequestOptions options = make_options(deadline, priority, device_output);
  const ReleaseIfLong release(ids.size(), kLongRequest);
  return scorer.prepare(
      std::make_unique<runtime::TextRows>(std::move(ids), cls_id, sep_id, pad_id, max_tokens), options);
}

// Prepares with `prepare`, which has the arguments of the function that Python calls, and submits.
template <auto prepare, class... Arguments>
std::shared_ptr<Ticket> submit(Scorer& scorer, Arguments... arguments) {
  std::shared_ptr<Ticket> ticket = prepare(scorer, std::forward<Arguments>(arguments)...);
  ReleaseGil release;
  scorer.submit(ticket);
  return ticket;
}

bool wait(const Ticket& ticket, std::optional<double> timeout) {
  return wait_in_slices(timeout, [&](double seconds) { return ticket.wait(seconds); });
}

bool run(Scorer& scorer, const std::shared_ptr<Ticket>& ticket, std::optional<double> timeout,
         const std::optional<py::function>& meanwhile, const std::optional<py::function>& before_end) {
  return run_with_callbacks(
      timeout, meanwhile, before_end,
      [&](double seconds, const auto& spare, const auto& late) {
        return scorer.run(ticket, seconds, spare, late);
      },
      [&](double seconds) { return ticket->wait(seconds); });
}

py::array_t<float> scores(const Ticket& ticket) {
  if (ticket.status() != TicketStatus::kDone)
    throw std::runtime_error("the ticket has no scores: its status is not done");
  const auto rows = static_cast<py::ssize_t>(ticket.rows());
  const auto width = static_cast<py::ssize_t>(ticket.output_width());
  const auto shape = width == 1 ? std::vector<py::ssize_t>{rows} : std::vector<py::ssize_t>{rows, width};
  py::array_t<float> result(shape);
  std::copy(ticket.scores().begin(), ticket.scores().end(), result.mutable_data());
  return result;
}

// In one call what a caller asks for in the good case.
py::object sound_scores(const Ticket& ticket) {
  const std::size_t rows = ticket.rows();
  if (ticket.status() != TicketStatus::kDone || rows == 0 || ticket.scored() != rows) return py::none();
  return all_finite(ticket.scores()) ? scores(ticket) : py::object(py::none());
}

const char* status_name(const Ticket& ticket) {
  switch (ticket.status()) {
    case TicketStatus::kPending:
      return "pending";
    case TicketStatus::kDone:
      return "done";
    case TicketStatus::kFailed:
      return "failed";
    case TicketStatus::kCancelled:
      return "cancelled";
    case TicketStatus::kClosed:
      return "closed";
  }
  return "unknown";
}

bool holds(const Ticket& ticket, const py::object& values) {
  return ticket.holds(input_vector<float>(values, "values").span());
}

void on_done(Ticket& ticket, py::function callback) {
  GilFunction held(std::move(callback));
  ReleaseGil release;
  ticket.on_done([held] {
    try {
      held.call([] { return py::tuple(); });
    } catch (const std::exception& error) {
      if (python_has_ended()) return;
      AcquireGil acquire;
      PyErr_SetString(PyExc_RuntimeError, error.what());
      PyErr_WriteUnraisable(nullptr);
    }
  });
}

void register_ticket(py::module_& m) {
  py::class_<Ticket, std::shared_ptr<Ticket>>(
      m, "Ticket", R"(One request's place in a scorer's queue and, later, its scores.

Threads: any thread may call everything.)")
      .def("wait", &wait, py::arg("timeout") = py::none(),
           "Wait up to `timeout` seconds (None: for ever) with the GIL released; False if still pending, as "
           "one "
           "is that was never submitted. Signals come through.")
      .def_property_readonly("status", &status_name,
                             R"("pending", "done", "failed", "cancelled" or "closed".)")
      .def("done", &Ticket::done, "True once the status is not pending.")
      .def("cancel", &Ticket::cancel, py::call_guard<ReleaseGil>(),
           "End the request if it is pending, and say whether it was. What the device has begun runs on "
           "unseen.")
      .def("on_done", &on_done, py::arg("callback"),
           R"(Call callback() once the request ends, at once if it has; from whichever thread ends it.

Keep it short (loop.call_soon_threadsafe, Event.set): the scorer's thread, or another caller, waits for it. What it raises goes to
sys.unraisablehook.)")
      .def("scores", &scores, R"(A copy of the scores: float32 [n], or [n, output_width] where that is not 1.

NaN where the deadline came before the row was begun. Raises RuntimeError unless the status is done.)")
      .def("holds", &holds, py::arg("values"),
           "Whether the status is done and `values`, float32, are all the scores in one row, bit for bit.")
      .def(
          "sound_scores", &sound_scores,
          "As scores(), if every row that was asked for has been scored, and with finite numbers; else None.")
      .def_property_readonly("rows", &Ticket::rows, "Rows that were asked for.")
      .def_property_readonly("scored", &Ticket::scored, "Rows that have been scored so far.")
      .def_property_readonly("error", &Ticket::error,
                             "Why the request failed, was cancelled or closed, or empty.");
}

}  // namespace

void register_scorer(py::module_& m) {
  py::register_local_exception_translator(&translate);
  register_ticket(m);
  m.def(
      "follow_launched", &Scorer::follow_launched, py::arg("device_output"), py::arg("stream"),
      R"(Let later work on `stream` wait for the rows that this thread has just launched: their Ticket, or None.

For `meanwhile` of Scorer.run: what is put on the stream then (a handle, of the same device) finds the request's rows
complete at `device_output`, the address that it was prepared with, and need not wait on the host. None, with nothing
done, elsewhere, for another address, on an executor without a device, and unless this thread itself has begun all rows
of the request: in the queue of others nobody knows their batch yet. Whether they came out well, the ticket tells later.
Raises CudaError. Keeps the GIL: one short driver call.)");

  py::class_<ScorerStats>(m, "ScorerStats", "Counts since a scorer was made. A copy.")
      .def_readonly("requests", &ScorerStats::requests)
      .def_readonly("batches", &ScorerStats::batches)
      .def_readonly("rows", &ScorerStats::rows, "Rows that were scored.")
      .def_readonly("real_tokens", &ScorerStats::real_tokens, "Tokens of those rows.")
      .def_readonly("padded_tokens", &ScorerStats::padded_tokens,
                    "Tokens of their batches, padding included.")
      .def_readonly("late_rows", &ScorerStats::late_rows, "Rows given up at a deadline.")
      .def_readonly("failed_batches", &ScorerStats::failed_batches)
      .def_readonly("queued_rows", &ScorerStats::queued_rows, "Rows that wait now.")
      .def_readonly("batches_in_flight", &ScorerStats::batches_in_flight, "Batches that run now.")
      .def_readonly("lone_batches", &ScorerStats::lone_batches,
                    "Of `batches`, those that the thread that asked began itself.");

  py::class_<Flight>(m, "Flight", R"(A request that Scorer.begin has put on its way.

What is dropped unfinished ends on the scorer's own threads, seen by its ticket. For one thread at a time; it keeps its
scorer.)")
      .def("finish", &Flight::finish, py::arg("timeout") = py::none(), py::arg("meanwhile") = py::none(),
           py::arg("before_end") = py::none(),
           "The second half of Scorer.run: meanwhile() and the wait for the end, with the same arguments; "
           "True "
           "once the request ended. Called once.");

  py::class_<Scorer, std::shared_ptr<Scorer>>(m, "Scorer", R"(Scores the rows of many callers on one executor.

Requests that wait are merged, their rows cut into batches of similar length, packed straight into the executor's
memory and handed back as their batches end, all outside of Python. Requests run by priority (higher first), deadline
and arrival; see BatchPlanner. A batch that fails ends the requests it held rows of and nothing else.
Threads: any thread may call everything.)")
      .def(py::init([](std::shared_ptr<Executor> executor, std::int64_t max_queued_rows,
                       std::int64_t batch_tokens, double max_delay_s) {
             const runtime::ScorerOptions options{max_queued_rows, batch_tokens, max_delay_s};
             return releasing(std::make_unique<Scorer>(std::move(executor), options));
           }),
           py::arg("executor"), py::kw_only(), py::arg("max_queued_rows") = 16384,
           py::arg("batch_tokens") = 0, py::arg("max_delay_s") = 0.0005, R"(Start the scorer's two threads.

max_queued_rows: rows that may wait; a request that would pass it is refused.
batch_tokens: requests are merged up to so many padded tokens; 0 stands for rows x tokens of the largest bucket.
max_delay_s: seconds that a request waits for company while another batch runs; none while none runs.
Raises ValueError for limits outside their range.)")
      .def(
          "prepare_pairs", &prepare_pairs, py::arg("packer"), py::arg("store"), py::arg("query"),
          py::arg("docs"), py::kw_only(), py::arg("deadline") = py::none(), py::arg("priority") = 0,
          py::arg("device_output") = 0,
          R"(A request for (query, document) pairs: a row [CLS] query [SEP] document [SEP] for each of `docs`.

To be given to run() or submit(). query: int32 (q,) token ids without special tokens; docs: int32 (n,) ordinals of
`store`. deadline: seconds of time.monotonic(); rows not begun by then are given up. device_output: address of device
memory, float32 [n, output_width], that the rows are also copied to before the ticket is done; 0 for none.
Raises IndexError for a document that does not exist, ValueError for a row longer than every bucket.)")
      .def(
          "prepare_texts", &prepare_texts, py::arg("texts"), py::kw_only(), py::arg("cls_id"),
          py::arg("sep_id"), py::arg("pad_id") = 0, py::arg("max_tokens") = 512,
          py::arg("deadline") = py::none(), py::arg("priority") = 0, py::arg("device_output") = 0,
          R"(A request for rows [CLS] text [SEP], one for each of `texts`: int32 (n,) token ids, none of them special.

Texts of more than max_tokens - 2 tokens are cut. The rest is as in prepare_pairs.)")
      .def(
          "submit", py::overload_cast<const std::shared_ptr<Ticket>&>(&Scorer::submit), py::arg("ticket"),
          py::call_guard<ReleaseGil>(),
          R"(Queue what prepare_pairs or prepare_texts of this scorer gave, unless it was queued or has ended.

Raises OverloadedError, ClosedError, ValueError for another scorer's ticket.)")
      .def(
          "run", &run, py::arg("ticket"), py::arg("timeout") = py::none(), py::arg("meanwhile") = py::none(),
          py::arg("before_end") = py::none(),
          R"(As submit(ticket), meanwhile() and ticket.wait(timeout), the GIL released but for the second: True once it ended.

The fastest way for a caller that waits: on a GPU that nobody else uses, this thread packs, starts and watches the
batch itself, so that no other thread has to be woken, and asks the device for its end (150 us of a core) instead of
being woken. `meanwhile` is called once, on this thread, when the request is on its way. So is `before_end`, perhaps,
when the end is near: for a caller whose batch this thread watches, if nobody else waits or runs in this scorer, with as
much time (350 us at first) as it has taken before; never once the batch has ended. It is for what makes the caller
quick afterwards. Raises as submit; what the two raise comes out when the request has ended, or after 0.1 s.)")
      .def(
          "begin",
          [](Scorer& scorer, const std::shared_ptr<Ticket>& ticket) {
            return std::make_unique<Flight>(scorer, ticket);
          },
          py::arg("ticket"), py::keep_alive<0, 1>(),
          R"(The first half of run(ticket): the request is on its way when this returns. A Flight, to be finished.

For a caller with something to do that needs neither the scores nor the time before the device has begun. Raises as
submit.)")
      .def("submit_pairs",
           &submit<&prepare_pairs, const PairPacker&, std::shared_ptr<TokenStore>, const py::object&,
                   const py::object&, std::optional<double>, std::int32_t, std::uint64_t>,
           py::arg("packer"), py::arg("store"), py::arg("query"), py::arg("docs"), py::kw_only(),
           py::arg("deadline") = py::none(), py::arg("priority") = 0, py::arg("device_output") = 0,
           "prepare_pairs and submit: for callers that do not wait at once.")
      .def("submit_texts",
           &submit<&prepare_texts, const py::sequence&, std::int32_t, std::int32_t, std::int32_t,
                   std::int32_t, std::optional<double>, std::int32_t, std::uint64_t>,
           py::arg("texts"), py::kw_only(), py::arg("cls_id"), py::arg("sep_id"), py::arg("pad_id") = 0,
           py::arg("max_tokens") = 512, py::arg("deadline") = py::none(), py::arg("priority") = 0,
           py::arg("device_output") = 0, "prepare_texts and submit: for callers that do not wait at once.")
      .def(
          "close", &Scorer::close, py::kw_only(), py::arg("drain") = true, py::call_guard<ReleaseGil>(),
          R"(Refuse new requests, finish those that wait (or, with drain=False, end them as "closed"), stop the threads.

A second call does nothing. Not from a callback of on_done.)")
      .def_property_readonly("executor", &Scorer::executor, "What it runs on.")
      .def("stats", &Scorer::stats, "A ScorerStats.")
      .def(
          "queue_seconds",
          [](const Scorer& scorer, const std::vector<double>& points) {
            return scorer.queue_time().quantiles(points);
          },
          py::arg("points"),
          "Quantiles of the time from arrival to first batch, in seconds; NaN without requests.");
}

}  // namespace searchpipe::bindings

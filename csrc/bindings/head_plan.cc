#include "runtime/head_plan.h"

#include <pybind11/stl.h>

#include <deque>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "bindings/columns.h"
#include "bindings/flight.h"
#include "bindings/module.h"
#include "core/message.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

using runtime::HeadAnswer;
using runtime::HeadLimit;
using runtime::HeadQuestion;
using runtime::HeadTerm;
using runtime::RequestCost;
using runtime::Scorer;
using runtime::Ticket;

// A question with the arrays that it reads, and its answer.
class HeadPlan {
 public:
  HeadPlan(const py::dict& found, const py::dict& weights, const std::string& method, double k,
           const py::object& formula, std::int64_t depth, const PairPacker& packer,
           std::shared_ptr<TokenStore> store, const py::object& query, std::int32_t priority) {
    if (method != "rrf" && method != "minmax") {
      throw py::value_error(message("the method is '", method, "'; it must be 'rrf' or 'minmax'"));
    }
    if (depth < 0) throw py::value_error(message("depth is ", depth, "; it must be at least 0"));
    question_.rule.by_rank = method == "rrf";
    question_.rule.k = k;
    question_.awaited = found.size();
    for (const auto& [name, value] : found) {
      names_.push_back(py::reinterpret_borrow<py::object>(name));
      const auto given = py::reinterpret_borrow<py::object>(PyDict_GetItem(weights.ptr(), name.ptr()));
      question_.weights.push_back(given ? given.cast<double>() : 1.0);
      if (value.is_none()) {
        if (question_.awaited != found.size()) throw py::value_error("more than one list is not known yet");
        question_.awaited = question_.lists.size();
        question_.lists.emplace_back();
      } else {
        question_.lists.push_back(list(value.cast<py::tuple>()));
      }
    }
    if (question_.awaited == found.size()) throw py::value_error("every list is known: None is missing");
    question_.ordered = !formula.is_none();
    if (question_.ordered) {
      for (const py::handle term : formula) add(term.cast<py::tuple>());
    }
    question_.depth = static_cast<std::size_t>(depth);
    question_.packer = packer;
    question_.store = std::move(store);
    const auto ids = input_vector<std::int32_t>(query, "query");
    question_.query.assign(ids.span().begin(), ids.span().end());
    question_.priority = priority;
  }

  std::unique_ptr<Flight> begin(const py::object& docs, const py::object& scores, Scorer& scorer,
                                const RequestCost& cost, double allowance_s, double wait_s, double handover_s,
                                double margin) {
    if (answer_) throw py::value_error("begin() was called before");
    const VectorView<std::int32_t> documents(docs, [] { return "docs"; });
    const VectorView<float> values(scores, [] { return "scores"; });
    answer_ = runtime::head_answer(question_, {documents.span(), values.span()},
                                   {allowance_s, wait_s, handover_s, margin}, cost, scorer);
    return answer_ ? std::make_unique<Flight>(scorer, answer_->ticket) : nullptr;
  }

  void rehearse(const py::object& docs, const py::object& scores, const Scorer& scorer,
                const RequestCost& cost) const {
    const VectorView<std::int32_t> documents(docs, [] { return "docs"; });
    const VectorView<float> values(scores, [] { return "scores"; });
    const HeadLimit unlimited{std::numeric_limits<double>::infinity(), 0.0, 0.0, 1.0};
    runtime::head_answer(question_, {documents.span(), values.span()}, unlimited, cost, scorer);
  }

  std::shared_ptr<Ticket> ticket() const { return answer().ticket; }
  std::int64_t tokens() const { return answer().tokens; }
  double seconds() const { return answer().seconds; }
  std::optional<double> deadline() const {
    if (!answer().deadline) return std::nullopt;
    return std::chrono::duration<double>(answer().deadline->time_since_epoch()).count();
  }

  py::tuple fused(const py::object& name) const {
    const FusedColumns& made = answer().fused;
    const std::size_t width = made.fused.docs.size();
    py::dict columns;
    set_item(columns, name, copied<float>(made.fused.scores));
    for (std::size_t i = 0; i < names_.size(); ++i) {
      set_item(columns, names_[i],
               copied<float>(std::span<const float>(made.columns).subspan(i * width, width)));
    }
    return py::make_tuple(copied<std::int32_t>(made.fused.docs), columns);
  }

  py::tuple ordered(const py::object& fused_name, const py::object& name) const {
    const HeadAnswer& it = answer();
    if (!question_.ordered) throw py::value_error("there is no formula to order by");
    const std::size_t width = it.fused.fused.docs.size();
    py::dict columns;
    set_item(columns, fused_name, gathered<float>(it.fused.fused.scores, it.order));
    for (std::size_t i = 0; i < names_.size(); ++i) {
      const std::span<const float> column =
          std::span<const float>(it.fused.columns).subspan(i * width, width);
      set_item(columns, names_[i], gathered<float>(column, it.order));
    }
    set_item(columns, name, gathered<float>(it.sums, it.order));
    return py::make_tuple(gathered<std::int32_t>(it.fused.fused.docs, it.order), columns);
  }

 private:
  const HeadAnswer& answer() const {
    if (!answer_) throw std::runtime_error("nothing was begun");
    return *answer_;
  }

  std::span<const float> held_floats(py::handle array, const char* what) {
    floats_.push_back(input_vector<float>(array, what));
    return floats_.back().span();
  }

  ScoredList list(const py::tuple& pair) {
    if (pair.size() != 2) throw py::type_error("what was found is no pair; give (docs, scores)");
    docs_.push_back(input_vector<std::int32_t>(pair[0], "docs"));
    return {docs_.back().span(), held_floats(pair[1], "scores")};
  }

  void add(const py::tuple& given) {
    if (given.size() != 3) throw py::type_error("a term is no triple; give (how, what, weight)");
    const auto how = given[0].cast<std::string>();
    HeadTerm term;
    term.weight = given[2].cast<float>();
    if (how == "fused" || how == "list") {
      if (how == "list") {
        std::size_t place = 0;
        while (place < names_.size() && !names_[place].equal(given[1])) ++place;
        if (place == names_.size()) return;  // nobody has such scores: zeros
        term.score = place + 1;
      }
    } else if (how == "by document") {
      term.how = HeadTerm::How::kDocument;
      term.values = held_floats(given[1], "by document");
    } else if (how == "by place") {
      term.how = HeadTerm::How::kPlace;
      term.values = held_floats(given[1], "by place");
    } else {
      throw py::value_error(
          message("a term is '", how, "'; it must be 'fused', 'list', 'by document' or 'by place'"));
    }
    question_.formula.push_back(term);
  }

  std::vector<py::object> names_;
  std::deque<InputVector<std::int32_t>> docs_;  // arrays that the question sees
  std::deque<InputVector<float>> floats_;
  HeadQuestion question_;
  std::optional<HeadAnswer> answer_;
};

}  // namespace

void register_head_plan(py::module_& m) {
  py::class_<HeadPlan>(m, "HeadPlan", R"(What follows a query's last list of documents, told beforehand.

found: name -> (docs int32 (n,), scores float32 (n,)), None for the one list that is still awaited; in the order, and
with the weights, method ("rrf" or "minmax") and k, of fuse_found(). formula: None to leave the fused order, or terms
(how, what, weight) that are added up in float32: ("fused", None, w), ("list", name, w) the scores, scaled to unit;
("by document", float32 (count,), w); ("by place", float32 (n or more,), w) by place in the fused order. depth: how many
candidates become pairs, of packer, store and query as in Scorer.prepare_pairs(). Arrays are kept, not copied.
Belongs to one thread. Raises TypeError, ValueError.)")
      .def(py::init<const py::dict&, const py::dict&, const std::string&, double, const py::object&,
                    std::int64_t, const PairPacker&, std::shared_ptr<TokenStore>, const py::object&,
                    std::int32_t>(),
           py::arg("found"), py::arg("weights"), py::arg("method"), py::arg("k"), py::arg("formula"),
           py::arg("depth"), py::arg("packer"), py::arg("store"), py::arg("query"), py::arg("priority") = 0)
      .def("begin", &HeadPlan::begin, py::arg("docs"), py::arg("scores"), py::arg("scorer"), py::arg("cost"),
           py::arg("allowance_s"), py::arg("wait_s"), py::arg("handover_s"), py::arg("margin"),
           py::keep_alive<0, 4>(),
           R"(The list has come: fuse, order, and put the pairs on their way, as Scorer.begin(). Once.

None, with nothing begun, if there is no document, a value of the formula is not finite, or
wait_s + margin * (cost of the pairs + handover_s) is more than allowance_s (inf: no limit), from which the request's
deadline follows, too. Raises as fuse_found, Scorer.prepare_pairs and Scorer.begin.)")
      .def_property_readonly("ticket", &HeadPlan::ticket, "Of the request that was begun.")
      .def_property_readonly("tokens", &HeadPlan::tokens, "Of its rows, all together.")
      .def_property_readonly("seconds", &HeadPlan::seconds, "What cost.seconds() says of them.")
      .def("rehearse", &HeadPlan::rehearse, py::arg("docs"), py::arg("scores"), py::arg("scorer"),
           py::arg("cost"),
           "All of begin() but the beginning, with any list: code and data are in the caches then. Raises as "
           "it does.")
      .def_property_readonly("deadline", &HeadPlan::deadline,
                             "In seconds of time.monotonic(); None without a limit.")
      .def("fused", &HeadPlan::fused, py::arg("name"), "As fuse_found() gives them.")
      .def("ordered", &HeadPlan::ordered, py::arg("fused_name"), py::arg("name"),
           "The candidates by the formula, whose values are added as `name`: (docs, name -> column).");
}

}  // namespace searchpipe::bindings

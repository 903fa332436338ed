#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "bindings/gil.h"
#include "bindings/module.h"
#include "runtime/graph_engine.h"
#include "runtime/host_executor.h"
#include "runtime/packed_places.h"
#include "runtime/staging_ring.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

using runtime::Bucket;
using runtime::BucketCost;
using runtime::BucketReport;
using runtime::EngineShape;
using runtime::Executor;
using runtime::GraphEngine;
using runtime::HostExecutor;
using runtime::RowLayout;
using runtime::SlotView;
using runtime::StagingRing;
using Pairs = std::vector<std::pair<std::int32_t, std::int32_t>>;

// `longest_row` 0 stands for padded rows.
EngineShape make_shape(const Pairs& buckets, std::int32_t inputs, std::int32_t output_width,
                       std::int32_t longest_row = 0) {
  EngineShape shape;
  shape.layout = longest_row == 0 ? RowLayout::kPadded : RowLayout::kPacked;
  shape.longest_row = longest_row;
  for (const auto& [rows, tokens] : buckets) shape.buckets.push_back({rows, tokens});
  shape.inputs = inputs;
  shape.output_width = output_width;
  return shape;
}

Pairs buckets_of(const EngineShape& shape) {
  Pairs pairs;
  for (const Bucket& bucket : shape.buckets) pairs.emplace_back(bucket.rows, bucket.tokens);
  return pairs;
}

// A view of memory that the executor owns; `base` being set keeps NumPy from copying.
template <class T>
py::array_t<T> view(T* data, py::ssize_t rows, py::ssize_t columns) {
  return py::array_t<T>({rows, columns}, data, py::none());
}

void set_enqueue(GraphEngine& engine, py::function function) {
  GilFunction held(std::move(function));
  engine.set_enqueue([held](int index, const Bucket& bucket, const GraphEngine::Addresses& addresses,
                            cuda::StreamHandle stream) {
    held.call([&] {
      return py::make_tuple(index, py::make_tuple(bucket.rows, bucket.tokens), py::cast(addresses.inputs),
                            addresses.output, reinterpret_cast<std::uintptr_t>(stream));
    });
  });
}

std::shared_ptr<HostExecutor> make_host_executor(py::function function, const Pairs& buckets,
                                                 std::int32_t inputs, std::int32_t output_width, int slots,
                                                 const std::vector<std::pair<double, double>>& costs) {
  GilFunction held(std::move(function));
  const auto compute = [held, output_width](const SlotView& slot, const Bucket& shape) {
    held.call([&] {
      py::object types = py::none();
      if (slot.types != nullptr) types = view(slot.types, shape.rows, shape.tokens);
      return py::make_tuple(view(slot.ids, shape.rows, shape.tokens),
                            view(slot.mask, shape.rows, shape.tokens), types,
                            view(slot.output, shape.rows, output_width));
    });
  };
  std::vector<BucketCost> bucket_costs;
  for (const auto& [fixed, per_token] : costs) bucket_costs.push_back({fixed, per_token});
  return std::make_shared<HostExecutor>(make_shape(buckets, inputs, output_width), compute, slots,
                                        std::move(bucket_costs));
}

void register_executors(py::module_& m) {
  py::class_<Executor, std::shared_ptr<Executor>>(
      m, "Executor",
      "Runs batches in numbered slots for a Scorer; one executor serves one scorer. Immutable in Python.")
      .def_property_readonly(
          "buckets", [](const Executor& it) { return buckets_of(it.shape()); },
          "Shapes (rows, tokens), smallest first; tokens of each row or, if packed, of all together.")
      .def_property_readonly(
          "packed", [](const Executor& it) { return it.shape().packed(); },
          "True if rows lie one after the other, without padding.")
      .def_property_readonly(
          "longest_row", [](const Executor& it) { return it.shape().longest_row; },
          "Tokens of the longest row that it takes.")
      .def_property_readonly(
          "inputs", [](const Executor& it) { return it.shape().inputs; },
          "Arrays that a batch consists of: 2 or 3, 5 or 6 if packed.")
      .def_property_readonly(
          "output_width", [](const Executor& it) { return it.shape().output_width; }, "Values a row.")
      .def_property_readonly("slots", &Executor::slots)
      .def_property_readonly(
          "costs",
          [](const Executor& it) {
            std::vector<std::pair<double, double>> costs;
            for (const BucketCost& cost : it.costs()) costs.emplace_back(cost.fixed, cost.per_token);
            return costs;
          },
          "For each bucket (fixed, per token); milliseconds where measured.");

  py::class_<HostExecutor, Executor, std::shared_ptr<HostExecutor>>(
      m, "HostExecutor", "Batches computed on the host by a Python function; needs no GPU.")
      .def(py::init(&make_host_executor), py::arg("compute"), py::arg("buckets"), py::kw_only(),
           py::arg("inputs") = 3, py::arg("output_width") = 1, py::arg("slots") = 2,
           py::arg("costs") = std::vector<std::pair<double, double>>{},
           R"(compute(ids, mask, types, output) fills `output`.

ids, mask, types: int32 [rows, tokens] (types None where inputs is 2); output: float32 [rows, output_width]; views
that are valid during the call. It runs on a thread of the scorer with the GIL held, and gets the shape that a batch
really has, at most (rows, tokens) of a bucket. What it raises fails the requests of that batch.
costs: for each bucket, smallest first, (fixed, per token), to cut rows into batches by.
Raises ValueError for buckets, inputs, output_width or slots outside their limits.)");

  py::class_<StagingRing, Executor, std::shared_ptr<StagingRing>>(
      m, "StagingRing",
      R"(Slots of pinned and device memory around GPU engines.

Packing, copy-in, compute and copy-out of different slots overlap. Several engines (lanes) compute side by side.)")
      .def(
          py::init([](std::vector<std::shared_ptr<GraphEngine>> lanes, int slots, double spin_s) {
            return releasing(std::make_unique<StagingRing>(std::move(lanes), slots, spin_s));
          }),
          py::arg("lanes"), py::kw_only(), py::arg("slots") = 3, py::arg("spin_s") = 150e-6,
          py::call_guard<ReleaseGil>(),
          R"(spin_s: seconds before a batch's expected end from which on its end is asked for again and again, and
after it, if other batches run too, until which; the rest of the time is slept. With 0 nobody asks: the driver wakes
whoever waits, some 50 us late, and no batch runs on the thread of a caller of Scorer.run().
Raises ValueError for engines that are not prepared or differ in shape or a spin_s outside of 0 to 0.01, CudaError
when memory is short.)")
      .def_property_readonly("device_bytes", &StagingRing::device_bytes,
                             "Device memory of the slots, in bytes.")
      .def_property_readonly("pinned_bytes", &StagingRing::pinned_bytes,
                             "Page-locked host memory, in bytes.");
}

std::vector<std::tuple<std::size_t, std::size_t, std::int32_t, std::int32_t>> cut(
    const std::vector<std::int32_t>& lengths, const Pairs& buckets,
    const std::vector<std::pair<double, double>>& costs, bool exact_shape, std::int32_t longest_row) {
  if (costs.size() != buckets.size()) {
    throw std::invalid_argument("there are " + std::to_string(costs.size()) + " costs for " +
                                std::to_string(buckets.size()) + " buckets");
  }
  EngineShape shape = make_shape(buckets, longest_row == 0 ? 2 : 5, 1, longest_row);
  if (!shape.packed() && !std::is_sorted(lengths.begin(), lengths.end(), std::greater<>())) {
    throw std::invalid_argument("lengths are not sorted longest first");
  }
  if (shape.packed() && exact_shape) throw std::invalid_argument("packed rows have no exact shape");
  const std::vector<Bucket> given = shape.buckets;
  shape.validate();
  shape.buckets = given;  // the costs' order
  std::vector<BucketCost> bucket_costs;
  for (const auto& [fixed, per_token] : costs) bucket_costs.push_back({fixed, per_token});
  std::vector<std::tuple<std::size_t, std::size_t, std::int32_t, std::int32_t>> batches;
  for (const runtime::BucketBatch& batch :
       runtime::cut_into_batches(lengths, shape, bucket_costs, exact_shape)) {
    batches.emplace_back(batch.begin, batch.end, batch.shape.rows, batch.shape.tokens);
  }
  return batches;
}

// The inputs of a packed batch that tell where its rows are.
py::tuple packed_places(const std::vector<std::int32_t>& lengths, std::int32_t rows, std::int32_t tokens,
                        std::int32_t longest_row) {
  if (longest_row < 1) throw std::invalid_argument("longest_row must be 1 or more");
  const Bucket bucket{rows, tokens};
  EngineShape shape = make_shape({{rows, tokens}, {1, longest_row}}, 5, 1, longest_row);
  shape.validate();
  std::int64_t left = tokens;
  for (const std::int32_t length : lengths) {
    left -= length;
    if (length < 1 || length > longest_row || left < 0 || lengths.size() > static_cast<std::size_t>(rows)) {
      throw std::invalid_argument("rows of these lengths do not fit " + to_string(bucket) +
                                  " with rows of 1 to " + std::to_string(longest_row) + " tokens");
    }
  }
  const runtime::HostPlaces at = runtime::packed_places(lengths, longest_row, bucket);
  const auto copy = [](const std::vector<std::int32_t>& from, std::vector<py::ssize_t> dims) {
    return py::array_t<std::int32_t>(std::move(dims), from.data());
  };
  return py::make_tuple(copy(at.positions, {tokens}), copy(at.ends, {rows + 1}), copy(at.firsts, {rows}),
                        copy(at.token_offset, {rows, longest_row}));
}

}  // namespace

void register_engine(py::module_& m) {
  m.def("packed_places", &packed_places, py::arg("lengths"), py::kw_only(), py::arg("rows"),
        py::arg("tokens"), py::arg("longest_row"),
        R"(Inputs of a packed batch besides token ids: (positions, ends, firsts, token_offset), all int32.

lengths: tokens of each row, in their order; rows, tokens: of the bucket; longest_row: tokens.
positions (tokens,): place in its row; ends (rows + 1,): row r is tokens ends[r] to ends[r + 1], rows that are not
there are empty; firsts (rows,): each row's first token, 0 for rows that are not there; token_offset
(rows, longest_row): for every token row * longest_row + position, then the places of that matrix without a token.
Raises ValueError for rows that do not fit.)");
  m.def("cut_into_batches", &cut, py::arg("lengths"), py::arg("buckets"), py::arg("costs"), py::kw_only(),
        py::arg("exact_shape") = false, py::arg("longest_row") = 0,
        R"(Cut rows into batches whose costs sum to the least: [(begin, end, rows, tokens)].

lengths: tokens of each row, longest first; buckets: (rows, tokens) in any order; costs: for each (fixed, per token),
in milliseconds. exact_shape: batches run with the shape they have, and cost fixed + per token x that. longest_row:
0 for padded rows; else the buckets are of packed rows, tokens all together, and lengths may come in any order.
Raises ValueError for a row that fits no bucket. What a Scorer does; pure.)");

  py::class_<BucketReport>(m, "BucketReport", "What preparing one bucket gave. Immutable.")
      .def_property_readonly(
          "bucket", [](const BucketReport& it) { return py::make_tuple(it.bucket.rows, it.bucket.tokens); },
          "(rows, tokens).")
      .def_readonly("captured", &BucketReport::captured, "Replayed from a CUDA graph.")
      .def_readonly("reason", &BucketReport::reason, "Why not captured; empty if it was.")
      .def_readonly("graph_nodes", &BucketReport::graph_nodes, "Kernels, memsets and copies in the graph.")
      .def_readonly("replaced_nodes", &BucketReport::replaced_nodes,
                    "Of them memsets and copies that became kernels.")
      .def_readonly("kept_nodes", &BucketReport::kept_nodes,
                    "The nodes that are no kernels, or why none was replaced; empty if all are kernels.")
      .def_readonly("milliseconds", &BucketReport::milliseconds,
                    "One batch on an idle device, median of three.")
      .def_readonly("device_bytes", &BucketReport::device_bytes, "Device memory that it took.");

  py::class_<GraphEngine, std::shared_ptr<GraphEngine>>(m, "GraphEngine",
                                                        R"(Device work of a model, replayed from CUDA graphs.

The work is put on the engine's stream by a Python function, from and to addresses that stay the same for the
engine's life; prepare() captures it into one graph for each bucket, which C++ launches from then on.
Threads: one at a time; after it was given to a StagingRing, none.)")
      .def(py::init([](std::shared_ptr<cuda::Device> device, const Pairs& buckets, std::int32_t inputs,
                       std::int32_t output_width, std::int32_t longest_row, bool straight_line) {
             auto shape = make_shape(buckets, inputs, output_width, longest_row);
             return releasing(
                 std::make_unique<GraphEngine>(std::move(device), std::move(shape), straight_line));
           }),
           py::arg("device"), py::arg("buckets"), py::kw_only(), py::arg("inputs") = 3,
           py::arg("output_width") = 1, py::arg("longest_row") = 0, py::arg("straight_line") = true,
           py::call_guard<ReleaseGil>(),
           R"(Allocate inputs and output for the largest of `buckets` (rows, tokens).

inputs: int32 arrays that the model takes; output_width: float32 values a row. longest_row 0: padded rows, 2 or 3
inputs [rows, tokens]: ids, mask and token types. Else packed rows of at most so many tokens, `tokens` of all rows
together, 5 or 6 inputs: ids (tokens,), what packed_places() tells and token types (tokens,).
What packed_places() and the types tell is written on the device, before the model's work of every batch.
straight_line: memsets and plain copies among the captured work become kernels that write the same, so that the driver
launches the graph in one go; where that fails, graphs stay as captured.
Raises ValueError for impossible values, CudaError when memory is short or the driver refuses that kernel.)")
      .def_property_readonly(
          "buckets", [](const GraphEngine& it) { return buckets_of(it.shape()); },
          "Shapes (rows, tokens), smallest first.")
      .def_property_readonly(
          "longest_row", [](const GraphEngine& it) { return it.shape().longest_row; },
          "Tokens of the longest row that it takes.")
      .def_property_readonly(
          "stream", [](GraphEngine& it) { return reinterpret_cast<std::uintptr_t>(it.stream().handle()); },
          "Handle of the stream that everything is enqueued on.")
      .def(
          "addresses",
          [](const GraphEngine& it, std::int32_t rows, std::int32_t tokens) {
            const GraphEngine::Addresses where = it.addresses({rows, tokens});
            return py::make_tuple(where.inputs, where.output);
          },
          py::arg("rows"), py::arg("tokens"), "Addresses of a bucket's arrays: (inputs, output).")
      .def("set_enqueue", &set_enqueue, py::arg("enqueue"),
           R"(Set enqueue(index, (rows, tokens), inputs, output, stream), to be called before prepare().

It puts one batch of bucket `index` on `stream` (a handle) and returns without waiting. It is called on the thread of
prepare(), and for buckets that were not captured on the scorer's own thread. If it refers to the engine, only close()
ends that circle.)")
      .def(
          "launch", &GraphEngine::launch, py::arg("index"), py::call_guard<ReleaseGil>(),
          R"(Put one batch of bucket `index` on the stream, of what its inputs hold, and return without waiting.

What a StagingRing does between its copies; for measurements. Raises RuntimeError for a closed engine, IndexError,
CudaError.)")
      .def("close", &GraphEngine::close, py::call_guard<ReleaseGil>(),
           "Drop the graphs and the enqueue function, after the scorer that used the engine was closed.")
      .def(
          "prepare", &GraphEngine::prepare, py::kw_only(), py::arg("capture") = true,
          py::arg("why_not") = "capture is switched off", py::call_guard<ReleaseGil>(),
          R"(For each bucket, largest first: enqueue until no memory is taken any more, capture, time a replay.

A bucket that cannot be captured keeps calling enqueue; its report says why (`why_not` where capture is false). Raises
RuntimeError with what enqueue raised outside of a capture, CudaError.)")
      .def_property_readonly(
          "reports", [](const GraphEngine& it) { return it.reports(); },
          "A BucketReport for each of `buckets`.");
  register_executors(m);
}

}  // namespace searchpipe::bindings

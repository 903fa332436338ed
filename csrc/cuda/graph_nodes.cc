#include "cuda/graph_nodes.h"

#include <optional>

#include "cuda/error.h"

namespace searchpipe::cuda {
namespace {

using NeighbourQuery = Result (*)(NodeHandle, NodeHandle*, size_t*);

// None if an edge to a neighbour carries data.
std::optional<std::vector<NodeHandle>> neighbours(NeighbourQuery query, const char* name, NodeHandle node) {
  size_t count = 0;
  Result code = query(node, nullptr, &count);
  std::vector<NodeHandle> nodes(count);
  if (code == kSuccess && count > 0) code = query(node, nodes.data(), &count);
  if (code == kLossyQuery) return std::nullopt;
  check(code, name);
  nodes.resize(count);
  return nodes;
}

}  // namespace

std::vector<NodeHandle> nodes_of(GraphHandle graph) {
  size_t count = 0;
  check(driver().cuGraphGetNodes(graph, nullptr, &count), "cuGraphGetNodes");
  std::vector<NodeHandle> nodes(count);
  if (count > 0) check(driver().cuGraphGetNodes(graph, nodes.data(), &count), "cuGraphGetNodes");
  nodes.resize(count);
  return nodes;
}

int type_of(NodeHandle node) {
  int type = -1;
  check(driver().cuGraphNodeGetType(node, &type), "cuGraphNodeGetType");
  return type;
}

MemsetParams memset_of(NodeHandle node) {
  MemsetParams params{};
  check(driver().cuGraphMemsetNodeGetParams(node, &params), "cuGraphMemsetNodeGetParams");
  return params;
}

CopyParams copy_of(NodeHandle node) {
  CopyParams params{};
  check(driver().cuGraphMemcpyNodeGetParams(node, &params), "cuGraphMemcpyNodeGetParams");
  return params;
}

bool replace(GraphHandle graph, NodeHandle node, const Kernel& kernel, unsigned blocks, unsigned threads,
             const std::vector<uint64_t>& arguments) {
  const auto before = neighbours(driver().cuGraphNodeGetDependencies, "cuGraphNodeGetDependencies", node);
  const auto after = neighbours(driver().cuGraphNodeGetDependentNodes, "cuGraphNodeGetDependentNodes", node);
  if (!before || !after) return false;
  std::vector<uint64_t> values = arguments;  // copied by the call below
  std::vector<void*> pointers;
  pointers.reserve(values.size());
  for (uint64_t& value : values) pointers.push_back(&value);
  KernelNodeParams params{};
  params.function = kernel.function();
  params.grid_x = blocks;
  params.grid_y = params.grid_z = 1;
  params.block_x = threads;
  params.block_y = params.block_z = 1;
  params.arguments = pointers.data();
  NodeHandle added = nullptr;
  check(driver().cuGraphAddKernelNode(&added, graph, before->data(), before->size(), &params),
        "cuGraphAddKernelNode");
  const std::vector<NodeHandle> from(after->size(), added);
  if (!from.empty()) {
    check(driver().cuGraphAddDependencies(graph, from.data(), after->data(), from.size()),
          "cuGraphAddDependencies");
  }
  check(driver().cuGraphDestroyNode(node), "cuGraphDestroyNode");
  return true;
}

}  // namespace searchpipe::cuda

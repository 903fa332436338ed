#pragma once

#include <cstdint>
#include <vector>

#include "cuda/driver_api.h"
#include "cuda/kernel.h"

namespace searchpipe::cuda {

// The nodes of a graph and what they are. A graph is one thread's at a time; its device's context is current.
// All of them throw CudaError.
std::vector<NodeHandle> nodes_of(GraphHandle graph);
int type_of(NodeHandle node);  // kNodeKernel, ...
MemsetParams memset_of(NodeHandle node);
CopyParams copy_of(NodeHandle node);

// Puts a launch of `kernel`, with arguments of 64 bits each, in the place of `node`: after what that came
// after, before what came after it. False, with the graph as it was, if one of these edges carries data, as
// those of programmatic launches do. After a CudaError the graph is good for nothing but being destroyed.
// The kernel outlives what is instantiated from the graph.
bool replace(GraphHandle graph, NodeHandle node, const Kernel& kernel, unsigned blocks, unsigned threads,
             const std::vector<uint64_t>& arguments);

}  // namespace searchpipe::cuda

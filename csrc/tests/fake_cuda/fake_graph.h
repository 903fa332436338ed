#pragma once

// Work and graphs of it. Part of fake_cuda.cc.

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "cuda/driver_api.h"

namespace fake_cuda {

using Work = std::function<void()>;

// CUgraphNodeType values besides those of driver_api.h.
enum : int { kNodeHost = 3, kNodeEmpty = 5, kNodeWaitEvent = 6, kNodeFree = 11 };

struct Op {
  std::string name;
  Work work;
  int type = kNodeEmpty;
  std::variant<std::monostate, searchpipe::cuda::MemsetParams, searchpipe::cuda::CopyParams> params = {};
};

struct Graph;

struct Node {
  Graph* graph;
  Op op;
  std::vector<Node*> before = {};
  std::vector<Node*> after = {};
};

// For one thread at a time.
struct Graph {
  std::vector<std::unique_ptr<Node>> nodes;

  Node* add(Op op, const std::vector<Node*>& before) {
    nodes.push_back(std::make_unique<Node>(Node{this, std::move(op)}));
    for (Node* one : before) connect(one, nodes.back().get());
    return nodes.back().get();
  }
  // What a stream captures comes one after the other.
  void record(Op op) {
    Node* last = nodes.empty() ? nullptr : nodes.back().get();
    add(std::move(op), last == nullptr ? std::vector<Node*>{} : std::vector<Node*>{last});
  }
  static void connect(Node* from, Node* to) {
    from->after.push_back(to);
    to->before.push_back(from);
  }
  void remove(Node* node) {
    for (Node* one : node->before) std::erase(one->after, node);
    for (Node* one : node->after) std::erase(one->before, node);
    std::erase_if(nodes, [node](const auto& it) { return it.get() == node; });
  }
  // Such graphs cannot be copied, and lose no nodes.
  bool allocates() const {
    return std::any_of(nodes.begin(), nodes.end(), [](const auto& it) {
      return it->op.type == searchpipe::cuda::kNodeAllocation || it->op.type == kNodeFree;
    });
  }
  std::unique_ptr<Graph> clone() const {
    auto copy = std::make_unique<Graph>();
    std::unordered_map<const Node*, Node*> twins;
    for (const auto& node : nodes) twins[node.get()] = copy->add(node->op, {});
    for (const auto& node : nodes) {
      for (const Node* to : node->after) connect(twins[node.get()], twins[to]);
    }
    return copy;
  }
  // An order that the edges allow: of nodes that may run the youngest first, so that an edge that is missing
  // shows. Fewer than there are nodes if the edges form a circle.
  std::vector<Work> order() const {
    std::unordered_map<const Node*, size_t> waits_for;
    std::vector<const Node*> ready;
    const auto age = [this](const Node* node) {
      return std::find_if(nodes.begin(), nodes.end(), [node](const auto& it) { return it.get() == node; });
    };
    for (const auto& node : nodes) {
      waits_for[node.get()] = node->before.size();
      if (node->before.empty()) ready.push_back(node.get());
    }
    std::vector<Work> works;
    while (!ready.empty()) {
      const auto next = std::max_element(ready.begin(), ready.end(),
                                         [&](const Node* a, const Node* b) { return age(a) < age(b); });
      const Node* node = *next;
      ready.erase(next);
      works.push_back(node->op.work);
      for (const Node* one : node->after) {
        if (--waits_for[one] == 0) ready.push_back(one);
      }
    }
    return works;
  }
};

struct Exec {
  std::shared_ptr<const std::vector<Work>> works;
};

}  // namespace fake_cuda

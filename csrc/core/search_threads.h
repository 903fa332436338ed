#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/postings_search.h"

namespace searchpipe {

// Threads that work on searches which others have begun. Nothing waits for one of them: a search that finds
// them all busy is left to whoever wants its result. Any thread may call everything but the destructor.
class SearchThreads {
 public:
  static constexpr int kMost = 256;

  // Throws std::invalid_argument unless there are 1 to kMost, std::system_error where a thread cannot be had.
  explicit SearchThreads(int count);
  // As close().
  ~SearchThreads();
  SearchThreads(const SearchThreads&) = delete;
  SearchThreads& operator=(const SearchThreads&) = delete;

  // Lets idle threads work on `search`, at most `wanted` and at most half of the idle ones, so that something
  // is left for the next search. Returns how many. Costs the caller the waking of one thread: each wakes the
  // next.
  int share(const std::shared_ptr<PostingsSearch>& search, int wanted);

  // Ends the threads once what they search has ended; from then on nothing is shared. Idempotent.
  void close();

 private:
  struct Worker {
    std::condition_variable given;
    std::shared_ptr<PostingsSearch> search;
    Worker* next = nullptr;  // was given the same search
    std::thread thread;
  };

  void serve(Worker& worker);

  std::mutex mutex_;
  std::mutex joining_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> idle_;  // the last one is the warmest
  bool closing_ = false;
};

}  // namespace searchpipe

// The one engine thread of a process: it owns request state and runs steps; everything else reaches
// it by post(). Steppers are the engines (prefill, decode) that share the thread, and so the model.
//
// Thread contract: post and stop from any thread; add_stepper before start.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace kvferry {

// Runs a closure on another thread some time later, in order: how engines reach the reactor.
using Executor = std::function<void(std::function<void()>)>;

class EngineThread {
 public:
  EngineThread() = default;
  ~EngineThread();  // stops
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  // step() does one bounded piece of work and returns whether it did any. When none did, the thread
  // sleeps until the next post.
  void add_stepper(std::function<bool()> step);
  void start();
  // Finishes the current step, drops what is posted and not yet run, and joins.
  void stop();

  void post(std::function<void()> task);

  // Nanoseconds since the loop last turned; 0 while it sleeps for want of work, and before start. A
  // large value means that a step or a task hangs. Not a point in time, which a caller would have
  // to subtract from a clock that it read earlier.
  std::uint64_t still_ns() const;

 private:
  void run();

  std::vector<std::function<bool()>> steppers_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void()>> inbox_;
  bool stopping_ = false;
  bool idle_ = true;  // no thread, or one that waits for a post
  std::uint64_t last_turn_ns_ = 0;
  std::thread thread_;
};

}  // namespace kvferry

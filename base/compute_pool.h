// The one pool of compute threads of a process. There is no second pool: GEMMs, attention and
// encoding all run here, oneDNN single-threaded inside a task.
//
// Thread contract: parallel_for may be called by one thread at a time (the engine thread), which
// works along. Tasks must not call parallel_for. Idle threads sleep; nothing spins for long.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace kvferry {

class ComputePool {
 public:
  // `threads` >= 1 counts the caller of parallel_for: 1 means no thread is created.
  explicit ComputePool(int threads);
  ~ComputePool();
  ComputePool(const ComputePool&) = delete;
  ComputePool& operator=(const ComputePool&) = delete;

  int threads() const;

  // Calls task(index, worker) for every index in [0, count) and returns when all have returned.
  // worker is in [0, threads()): use it to pick scratch memory. The order is unspecified, so a
  // result must not depend on it. Tasks must not throw.
  void parallel_for(std::size_t count,
                    const std::function<void(std::size_t index, int worker)>& task);

  // CPU nanoseconds the pool's threads and callers have spent inside tasks since start.
  std::uint64_t busy_ns() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvferry

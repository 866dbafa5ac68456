// How many requests run at once, how many wait, and when a client is told to come back later.
// Thread contract: one thread. Pure logic.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <set>

#include "base/status.h"

namespace kvferry::scheduler {

struct AdmissionLimits {
  std::uint32_t running = 256;
  std::uint32_t queued = 1024;
};

class Admission {
 public:
  using RequestId = std::uint64_t;
  explicit Admission(const AdmissionLimits& limits) : limits_(limits) {}

  // True: start it now. False: it waits for its turn. kResourceExhausted: the queue is full.
  Result<bool> enter(RequestId id);

  // A request is over, after `seconds` of running if it ran. Gives one that is to start now, if
  // any. Unknown ids are ignored.
  std::optional<RequestId> leave(RequestId id, double seconds);

  std::size_t running() const { return running_.size(); }
  std::size_t queued() const { return queue_.size(); }

  // When a place in the queue may be free again: the time that the queue takes at the average pace
  // of late, between 1 and 60 s.
  std::uint32_t retry_after_s() const;

 private:
  AdmissionLimits limits_;
  std::set<RequestId> running_;
  std::deque<RequestId> queue_;
  double average_s_ = 1;  // of a request's running time; exponential, weight 1/8
};

}  // namespace kvferry::scheduler

#include "scheduler/admission.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace kvferry::scheduler {

Result<bool> Admission::enter(RequestId id) {
  if (running_.size() < limits_.running && queue_.empty()) {
    running_.insert(id);
    return true;
  }
  if (queue_.size() >= limits_.queued) {
    return resource_exhausted(std::to_string(limits_.running) + " requests are running and " +
                              std::to_string(limits_.queued) +
                              " are waiting, which is the limit; try again later");
  }
  queue_.push_back(id);
  return false;
}

std::optional<Admission::RequestId> Admission::leave(RequestId id, double seconds) {
  if (running_.erase(id) == 0) {
    const auto waiting = std::find(queue_.begin(), queue_.end(), id);
    if (waiting != queue_.end()) queue_.erase(waiting);
    return std::nullopt;
  }
  average_s_ += (seconds - average_s_) / 8;
  if (queue_.empty()) return std::nullopt;
  const RequestId next = queue_.front();
  queue_.pop_front();
  running_.insert(next);
  return next;
}

std::uint32_t Admission::retry_after_s() const {
  const double rounds = static_cast<double>(queue_.size()) / std::max(1u, limits_.running);
  return static_cast<std::uint32_t>(std::clamp(std::ceil(rounds * average_s_), 1.0, 60.0));
}

}  // namespace kvferry::scheduler

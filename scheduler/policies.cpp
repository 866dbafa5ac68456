#include <algorithm>
#include <array>
#include <tuple>

#include "scheduler/router.h"

namespace kvferry::scheduler {
namespace {

class RoundRobin : public RoutePolicy {
 public:
  std::string_view name() const override { return "round_robin"; }
  WorkerId pick(std::span<const Candidate> candidates) override {
    std::uint64_t& next = next_[candidates.front().role == Role::kPrefill ? 0 : 1];
    // The first at or after the one whose turn it is, so that workers that come and go do not
    // change whose turn is next.
    const auto found = std::find_if(candidates.begin(), candidates.end(),
                                    [&](const Candidate& c) { return c.id >= next; });
    const WorkerId picked = found == candidates.end() ? candidates.front().id : found->id;
    next = std::uint64_t{picked} + 1;
    return picked;
  }

 private:
  std::array<std::uint64_t, 2> next_{};
};

class LeastLoaded : public RoutePolicy {
 public:
  std::string_view name() const override { return "least_loaded"; }
  WorkerId pick(std::span<const Candidate> candidates) override {
    const auto key = [](const Candidate& c) {
      const bool prefill = c.role == Role::kPrefill;
      return std::tuple(prefill ? c.tokens : c.requests, prefill ? c.requests : c.tokens,
                        -c.pool_free, c.id);
    };
    return std::min_element(candidates.begin(), candidates.end(),
                            [&](const Candidate& a, const Candidate& b) { return key(a) < key(b); })
        ->id;
  }
};

}  // namespace

std::unique_ptr<RoutePolicy> make_round_robin() { return std::make_unique<RoundRobin>(); }
std::unique_ptr<RoutePolicy> make_least_loaded() { return std::make_unique<LeastLoaded>(); }

Result<std::unique_ptr<RoutePolicy>> make_policy(std::string_view name) {
  if (name == "round_robin") return make_round_robin();
  if (name == "least_loaded") return make_least_loaded();
  return invalid_argument("no routing policy is called \"" + std::string(name) +
                          "\"; there are round_robin and least_loaded");
}

}  // namespace kvferry::scheduler

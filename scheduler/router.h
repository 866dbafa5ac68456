// Which workers serve a request. Pure logic on plain structs: no sockets, no threads, no clock.
//
// A prompt is prefilled on its decode worker when it is shorter than local_prefill_tokens, when the
// request says so, or when no prefill worker is left for it. Prefill and decode pair only where
// fingerprint and numerics class are equal, because only then does the answer not depend on the
// pairing.
//
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace kvferry::scheduler {

using WorkerId = std::uint32_t;  // the gateway's number for a member, for its whole life

enum class Role : std::uint8_t { kPrefill, kDecode };

// What two workers must share to compute the same bits.
struct ComputeClass {
  std::uint64_t fingerprint = 0;  // of weights, shapes, rope and compute type
  std::uint64_t numerics = 0;     // of a probe's output bits
  bool operator==(const ComputeClass&) const = default;
};

struct WorkerInfo {
  Role role = Role::kDecode;
  std::string name;
  ComputeClass compute;
  std::uint64_t pool_bytes = 0;
};

// As the worker last said. A second old, so what the router itself has handed out since counts too.
struct WorkerLoad {
  std::uint32_t queued = 0, running = 0;
  std::uint64_t queued_tokens = 0;
  std::uint64_t pool_free_bytes = 0;
};

// A worker as a policy sees it. requests and tokens are the larger of what the worker says and of
// what this router has given it and not got back.
struct Candidate {
  WorkerId id = 0;
  Role role = Role::kDecode;
  std::uint64_t requests = 0;
  std::uint64_t tokens = 0;  // of prompts not yet computed
  double pool_free = 0;      // share of the pool, 0..1
};

// Picks one of at least one candidates, which come in ascending order of id.
class RoutePolicy {
 public:
  virtual ~RoutePolicy() = default;
  virtual std::string_view name() const = 0;
  virtual WorkerId pick(std::span<const Candidate> candidates) = 0;
};
// In turn, each role for itself.
std::unique_ptr<RoutePolicy> make_round_robin();
// A prefill worker with the fewest tokens to compute, a decode worker with the fewest requests;
// then the freest pool, then the lowest id.
std::unique_ptr<RoutePolicy> make_least_loaded();
// "round_robin" or "least_loaded". kInvalidArgument lists them.
Result<std::unique_ptr<RoutePolicy>> make_policy(std::string_view name);

struct RouteRequest {
  std::uint32_t prompt_tokens = 0;
  bool local_prefill = false;  // of whatever length
  // Workers on which earlier attempts of this request failed: taken only where no other is left,
  // and never for prefill, which the decode worker can do itself.
  std::set<WorkerId> failed;
  // Set once the client has seen tokens: what goes on must compute the same bits.
  std::optional<ComputeClass> bound_to;
};

struct Route {
  WorkerId decode = 0;
  std::optional<WorkerId> prefill;  // none: the decode worker computes the prompt
  ComputeClass compute;
};

class Router {
 public:
  Router(std::unique_ptr<RoutePolicy> policy, std::uint32_t local_prefill_tokens);
  ~Router();

  void worker_up(WorkerId id, const WorkerInfo& info);
  void worker_down(WorkerId id);  // forgets its load; unknown ids are ignored
  void worker_load(WorkerId id, const WorkerLoad& load);

  // None when no decode worker is up that may serve the request. Counts the request with the
  // workers it picks until released.
  std::optional<Route> route(const RouteRequest& request);
  // The prompt of a route has been computed: only the decode worker is still busy with it.
  void prefilled(const Route& route, std::uint32_t prompt_tokens);
  // The route's attempt has ended. `prefilled` must not have been called for it if it has not.
  void release(const Route& route, std::uint32_t prompt_tokens, bool was_prefilled);

  std::size_t up(Role role) const;
  // Whether some prefill worker can work with some decode worker.
  bool has_pair() const;
  const WorkerInfo* find(WorkerId id) const;  // up ones only

 private:
  struct Worker;
  std::vector<Candidate> candidates(Role role, const std::optional<ComputeClass>& compute,
                                    const std::set<WorkerId>& without) const;
  void give(WorkerId id, std::uint32_t tokens);
  void take_back(WorkerId id, std::uint32_t tokens);

  std::unique_ptr<RoutePolicy> policy_;
  std::uint32_t local_prefill_tokens_;
  std::map<WorkerId, Worker> workers_;
};

}  // namespace kvferry::scheduler

#include "scheduler/router.h"

#include <algorithm>
#include <utility>

namespace kvferry::scheduler {

struct Router::Worker {
  WorkerInfo info;
  WorkerLoad load;
  // Given out by this router and not yet back. A worker that went down and came up again starts at
  // zero; taking back what an earlier life was given stops there.
  std::uint64_t given_requests = 0;
  std::uint64_t given_tokens = 0;
};

Router::Router(std::unique_ptr<RoutePolicy> policy, std::uint32_t local_prefill_tokens)
    : policy_(std::move(policy)), local_prefill_tokens_(local_prefill_tokens) {}
Router::~Router() = default;

void Router::worker_up(WorkerId id, const WorkerInfo& info) {
  workers_[id] = Worker{};
  workers_[id].info = info;
  workers_[id].load.pool_free_bytes = info.pool_bytes;
}

void Router::worker_down(WorkerId id) { workers_.erase(id); }

void Router::worker_load(WorkerId id, const WorkerLoad& load) {
  const auto found = workers_.find(id);
  if (found != workers_.end()) found->second.load = load;
}

std::vector<Candidate> Router::candidates(Role role, const std::optional<ComputeClass>& compute,
                                          const std::set<WorkerId>& without) const {
  std::vector<Candidate> list;
  for (const auto& [id, worker] : workers_) {
    if (worker.info.role != role || without.contains(id)) continue;
    if (compute && worker.info.compute != *compute) continue;
    Candidate candidate;
    candidate.id = id;
    candidate.role = role;
    const std::uint64_t said = std::uint64_t{worker.load.queued} + worker.load.running;
    candidate.requests = std::max(said, worker.given_requests);
    candidate.tokens = std::max(worker.load.queued_tokens, worker.given_tokens);
    if (worker.info.pool_bytes > 0) {
      candidate.pool_free = static_cast<double>(worker.load.pool_free_bytes) /
                            static_cast<double>(worker.info.pool_bytes);
    }
    list.push_back(candidate);
  }
  return list;
}

std::optional<Route> Router::route(const RouteRequest& request) {
  auto decoders = candidates(Role::kDecode, request.bound_to, request.failed);
  if (decoders.empty()) decoders = candidates(Role::kDecode, request.bound_to, {});
  if (decoders.empty()) return std::nullopt;
  Route route;
  route.decode = policy_->pick(decoders);
  route.compute = workers_.at(route.decode).info.compute;
  if (!request.local_prefill && request.prompt_tokens >= local_prefill_tokens_) {
    const auto prefillers = candidates(Role::kPrefill, route.compute, request.failed);
    if (!prefillers.empty()) route.prefill = policy_->pick(prefillers);
  }
  give(route.decode, route.prefill ? 0 : request.prompt_tokens);
  if (route.prefill) give(*route.prefill, request.prompt_tokens);
  return route;
}

void Router::prefilled(const Route& route, std::uint32_t prompt_tokens) {
  if (route.prefill) {
    take_back(*route.prefill, prompt_tokens);
    return;
  }
  const auto found = workers_.find(route.decode);
  if (found == workers_.end()) return;
  std::uint64_t& tokens = found->second.given_tokens;
  tokens -= std::min<std::uint64_t>(tokens, prompt_tokens);
}

void Router::release(const Route& route, std::uint32_t prompt_tokens, bool was_prefilled) {
  if (route.prefill && !was_prefilled) take_back(*route.prefill, prompt_tokens);
  take_back(route.decode, route.prefill || was_prefilled ? 0 : prompt_tokens);
}

void Router::give(WorkerId id, std::uint32_t tokens) {
  Worker& worker = workers_.at(id);
  ++worker.given_requests;
  worker.given_tokens += tokens;
}

void Router::take_back(WorkerId id, std::uint32_t tokens) {
  const auto found = workers_.find(id);
  if (found == workers_.end()) return;
  Worker& worker = found->second;
  if (worker.given_requests > 0) --worker.given_requests;
  worker.given_tokens -= std::min<std::uint64_t>(worker.given_tokens, tokens);
}

std::size_t Router::up(Role role) const {
  return static_cast<std::size_t>(std::count_if(workers_.begin(), workers_.end(), [&](auto& entry) {
    return entry.second.info.role == role;
  }));
}

bool Router::has_pair() const {
  for (const auto& [id, decoder] : workers_) {
    if (decoder.info.role != Role::kDecode) continue;
    if (!candidates(Role::kPrefill, decoder.info.compute, {}).empty()) return true;
  }
  return false;
}

const WorkerInfo* Router::find(WorkerId id) const {
  const auto found = workers_.find(id);
  return found == workers_.end() ? nullptr : &found->second.info;
}

}  // namespace kvferry::scheduler

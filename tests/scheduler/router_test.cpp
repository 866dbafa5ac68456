#include "scheduler/router.h"

#include <gtest/gtest.h>

namespace kvferry::scheduler {
namespace {

constexpr ComputeClass kA{1, 1};
constexpr ComputeClass kOtherNumerics{1, 2};
constexpr ComputeClass kOtherModel{2, 1};

WorkerInfo worker(Role role, ComputeClass compute = kA) {
  WorkerInfo info;
  info.role = role;
  info.compute = compute;
  info.pool_bytes = 1000;
  return info;
}

RouteRequest prompt_of(std::uint32_t tokens) {
  RouteRequest request;
  request.prompt_tokens = tokens;
  return request;
}

TEST(Router, NoDecodeWorkerNoRoute) {
  Router router(make_least_loaded(), 0);
  EXPECT_FALSE(router.route(prompt_of(10)));
  router.worker_up(1, worker(Role::kPrefill));
  EXPECT_FALSE(router.route(prompt_of(10)));
  router.worker_up(2, worker(Role::kDecode));
  EXPECT_TRUE(router.route(prompt_of(10)));
  router.worker_down(2);
  EXPECT_FALSE(router.route(prompt_of(10)));
}

TEST(Router, ShortPromptsAndLackOfPrefillWorkersArePrefilledOnTheDecodeWorker) {
  Router router(make_least_loaded(), 64);
  router.worker_up(1, worker(Role::kDecode));
  EXPECT_EQ(router.route(prompt_of(1000))->prefill, std::nullopt);
  router.worker_up(2, worker(Role::kPrefill));
  EXPECT_EQ(router.route(prompt_of(63))->prefill, std::nullopt);
  EXPECT_EQ(router.route(prompt_of(64))->prefill, 2u);
}

TEST(Router, PairsOnlyWithinAComputeClass) {
  Router router(make_least_loaded(), 0);
  router.worker_up(1, worker(Role::kDecode));
  router.worker_up(2, worker(Role::kPrefill, kOtherNumerics));
  router.worker_up(3, worker(Role::kPrefill, kOtherModel));
  EXPECT_FALSE(router.has_pair());
  EXPECT_EQ(router.route(prompt_of(100))->prefill, std::nullopt);
  router.worker_up(4, worker(Role::kPrefill));
  EXPECT_TRUE(router.has_pair());
  for (int i = 0; i < 5; ++i) EXPECT_EQ(router.route(prompt_of(100))->prefill, 4u);
}

TEST(Router, ARequestThatHasAnsweredStaysInItsClass) {
  Router router(make_least_loaded(), 0);
  router.worker_up(1, worker(Role::kDecode, kOtherNumerics));
  RouteRequest request = prompt_of(100);
  request.bound_to = kA;
  EXPECT_FALSE(router.route(request));
  router.worker_up(2, worker(Role::kDecode));
  EXPECT_EQ(router.route(request)->decode, 2u);
}

TEST(Router, AvoidsWorkersThatFailedTheRequestWhereOthersExist) {
  Router router(make_least_loaded(), 0);
  router.worker_up(1, worker(Role::kDecode));
  router.worker_up(2, worker(Role::kDecode));
  router.worker_up(3, worker(Role::kPrefill));
  RouteRequest request = prompt_of(100);
  request.failed = {1, 3};
  auto route = router.route(request);
  EXPECT_EQ(route->decode, 2u);
  EXPECT_EQ(route->prefill, std::nullopt);  // rather than the one that failed
  request.failed = {1, 2, 3};
  EXPECT_TRUE(router.route(request));  // a decode worker cannot be done without
}

TEST(Router, LeastLoadedCountsWhatWasHandedOutSinceTheLastReport) {
  Router router(make_least_loaded(), 0);
  router.worker_up(1, worker(Role::kDecode));
  router.worker_up(2, worker(Role::kDecode));
  router.worker_load(1, {.queued = 1, .running = 2, .queued_tokens = 0, .pool_free_bytes = 9});
  EXPECT_EQ(router.route(prompt_of(10))->decode, 2u);
  EXPECT_EQ(router.route(prompt_of(10))->decode, 2u);
  EXPECT_EQ(router.route(prompt_of(10))->decode, 2u);
  EXPECT_EQ(router.route(prompt_of(10))->decode, 1u);  // 3 requests each: fewer tokens, then
}

TEST(Router, PrefillGoesWhereTheFewestTokensWait) {
  Router router(make_least_loaded(), 0);
  router.worker_up(1, worker(Role::kDecode));
  router.worker_up(2, worker(Role::kPrefill));
  router.worker_up(3, worker(Role::kPrefill));
  const auto long_one = router.route(prompt_of(2000));
  EXPECT_EQ(long_one->prefill, 2u);
  EXPECT_EQ(router.route(prompt_of(500))->prefill, 3u);
  EXPECT_EQ(router.route(prompt_of(500))->prefill, 3u);
  router.prefilled(*long_one, 2000);
  EXPECT_EQ(router.route(prompt_of(500))->prefill, 2u);
}

TEST(Router, WhatIsReleasedNoLongerCounts) {
  Router router(make_least_loaded(), 0);
  router.worker_up(1, worker(Role::kDecode));
  router.worker_up(2, worker(Role::kDecode));
  const auto first = router.route(prompt_of(10));
  EXPECT_EQ(first->decode, 1u);
  EXPECT_EQ(router.route(prompt_of(10))->decode, 2u);
  router.prefilled(*first, 10);
  router.release(*first, 10, true);
  EXPECT_EQ(router.route(prompt_of(10))->decode, 1u);
  // Down and up again forgets; a release for its earlier life must not go below zero.
  router.worker_down(1);
  router.worker_up(1, worker(Role::kDecode));
  router.release(*first, 10, false);
  EXPECT_EQ(router.route(prompt_of(10))->decode, 1u);
  EXPECT_EQ(router.route(prompt_of(10))->decode, 1u);
}

TEST(Router, RoundRobinTakesTurnsWhileWorkersComeAndGo) {
  Router router(make_round_robin(), 0);
  for (WorkerId id : {1u, 2u, 3u}) router.worker_up(id, worker(Role::kDecode));
  for (WorkerId id : {7u, 8u}) router.worker_up(id, worker(Role::kPrefill));
  std::vector<WorkerId> decodes, prefills;
  for (int i = 0; i < 4; ++i) {
    const auto route = router.route(prompt_of(10));
    decodes.push_back(route->decode);
    prefills.push_back(*route->prefill);
  }
  EXPECT_EQ(decodes, (std::vector<WorkerId>{1, 2, 3, 1}));
  EXPECT_EQ(prefills, (std::vector<WorkerId>{7, 8, 7, 8}));
  router.worker_down(2);
  EXPECT_EQ(router.route(prompt_of(10))->decode, 3u);
}

TEST(Router, PoliciesByName) {
  EXPECT_EQ((*make_policy("round_robin"))->name(), "round_robin");
  EXPECT_EQ((*make_policy("least_loaded"))->name(), "least_loaded");
  EXPECT_EQ(make_policy("best").status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace kvferry::scheduler

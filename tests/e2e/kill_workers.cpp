// Kills a worker with SIGKILL while four requests are under way, again and again, and compares
// every answer with the undisturbed one.
//   kill_workers [ROUNDS [ARCHITECTURE]]
// 10 rounds unless said, of models/mini or of a random checkpoint of an architecture that
// random_checkpoint.h names; ends with status 0 when nothing was lost.

#include <signal.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <thread>

#include "base/hash.h"
#include "cluster_fixture.h"
#include "random_checkpoint.h"

namespace kvferry::e2e {
namespace {

constexpr int kRequests = 4;
constexpr int kAttempts = 10;  // at a kill, where answers come fast

struct Round {
  std::vector<Ask> asks;
  std::vector<Answer> expected;
};

Result<Round> prepare(Undisturbed& single, int number) {
  Round round;
  for (int i = 0; i < kRequests; ++i) {
    const std::uint64_t seed = static_cast<std::uint64_t>(number) * kRequests + i + 1;
    const std::uint32_t length = 300 + counter_random(seed, 0) % 1600;
    Ask ask{random_prompt(seed, length), kCodecs[seed % std::size(kCodecs)],
            i % 2 == 0 ? 0.0f : 0.8f, seed, 100};
    ask.choices = i == 3 ? 3 : 1;
    ask.penalties = i >= 2;
    ask.logprobs = i == 1;
    KVF_ASSIGN_OR_RETURN(Answer answer, single.answer(ask));
    round.asks.push_back(std::move(ask));
    round.expected.push_back(std::move(answer));
  }
  return round;
}

// A prefill worker dies while it has work; a decode worker when tokens of a request have come.
// False if every answer was complete before.
bool kill_in_the_middle(const Cluster& cluster, int number, const std::atomic<int>& events,
                        const std::atomic<int>& ended) {
  const bool prefill = number % 2 == 0;
  const std::string victim = (prefill ? "prefill-" : "decode-") + std::to_string(number / 2 % 2);
  const int wanted = 5 + static_cast<int>(counter_random(number, 1) % 100);
  for (;;) {
    if (ended == kRequests) return false;
    const auto active = cluster.metric(victim, "kvferry_requests_active");
    if (active.ok() && *active > 0 && (prefill || events >= wanted)) break;
    std::this_thread::yield();
  }
  std::printf("  SIGKILL to %s after %d events\n", victim.c_str(), events.load());
  const auto pid = cluster.process(victim);
  return pid.ok() && kill(*pid, SIGKILL) == 0;
}

// Every worker must be back before the next round, or the kills would find nobody.
Status wait_whole(const Cluster& cluster) {
  for (const std::string& worker : cluster.workers()) {
    KVF_RETURN_IF_ERROR(cluster.wait_metric(worker, "kvferry_requests_active",
                                            [](double active) { return active == 0; }));
  }
  const double workers = static_cast<double>(cluster.workers().size());
  return cluster.wait_metric("gateway", "kvferry_gateway_workers_up",
                             [workers](double up) { return up == workers; });
}

struct Outcome {
  bool killed;
  int wrong;
};

Outcome run_round(const Cluster& cluster, const Round& round, int number) {
  std::atomic<int> events{0}, ended{0}, wrong{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < kRequests; ++i) {
    clients.emplace_back([&, i] {
      const auto answer = stream(cluster.url(), round.asks[i], [&](const Answer&) {
        ++events;
        return true;
      });
      ++ended;
      const bool same = answer.ok() && answer->done && answer->ids == round.expected[i].ids &&
                        answer->others == round.expected[i].others &&
                        answer->logprobs == round.expected[i].logprobs &&
                        answer->finish_reason == round.expected[i].finish_reason;
      if (same) return;
      ++wrong;
      std::printf("  request %d of round %d differs: %s; %zu of %zu ids, %s\n", i, number,
                  answer.ok() ? answer->error.c_str() : answer.status().to_string().c_str(),
                  answer.ok() ? answer->ids.size() : 0, round.expected[i].ids.size(),
                  answer.ok() && answer->done ? "complete" : "cut short");
    });
  }
  const bool killed = kill_in_the_middle(cluster, number, events, ended);
  for (std::thread& client : clients) client.join();
  return {killed, wrong};
}

Status run(int rounds, const std::string& architecture) {
  ClusterOptions options;
  std::unique_ptr<RandomCheckpoint> checkpoint;
  if (!architecture.empty()) {
    KVF_ASSIGN_OR_RETURN(checkpoint, RandomCheckpoint::create(architecture));
    options.model = checkpoint->directory();
  }
  KVF_ASSIGN_OR_RETURN(const auto single, Undisturbed::create(options.model));
  options.prefill = options.decode = 2;
  options.arguments = {"--lease-ms", "1000"};
  KVF_ASSIGN_OR_RETURN(const auto cluster, Cluster::start(options));
  int asked = 0, wrong = 0;
  for (int number = 0; number < rounds; ++number) {
    KVF_ASSIGN_OR_RETURN(const Round round, prepare(*single, number));
    Outcome outcome{false, 0};
    for (int attempt = 0; !outcome.killed; ++attempt) {
      if (attempt == kAttempts) return internal_error("answers end before their worker is killed");
      KVF_RETURN_IF_ERROR(wait_whole(*cluster));
      std::printf("round %d of %d\n", number + 1, rounds);
      outcome = run_round(*cluster, round, number);
      asked += kRequests;
      wrong += outcome.wrong;
      std::fflush(stdout);
    }
  }
  std::printf("%d rounds, %d requests, %d wrong or lost\n", rounds, asked, wrong);
  return wrong == 0 ? ok_status() : internal_error("answers were lost or differ");
}

}  // namespace
}  // namespace kvferry::e2e

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 10;
  const kvferry::Status status = kvferry::e2e::run(rounds, argc > 2 ? argv[2] : "");
  if (!status.ok()) std::fprintf(stderr, "kill_workers: %s\n", status.to_string().c_str());
  return status.ok() ? 0 : 1;
}

// Connections to all workers: who is up and usable, and messages both ways.
// Thread contract: the reactor's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "cluster/control.h"
#include "gateway/request_manager.h"
#include "scheduler/router.h"

namespace kvferry::proto {
class HelloReply;
}

namespace kvferry::gateway {

// What a worker must agree with to be used.
struct WorkerTerms {
  std::string model;
  std::uint32_t context = 0;
  std::vector<std::string> codecs;  // normalised; the worker must allow each
};

struct WorkerLinksHandlers {
  std::function<void(scheduler::WorkerId, const WorkerFacts&)> up;
  std::function<void(scheduler::WorkerId)> down;
  std::function<void(scheduler::WorkerId, const scheduler::WorkerLoad&)> load;
  std::function<void(scheduler::WorkerId, const proto::Envelope&)> message;
};

class WorkerLinks {
 public:
  struct Seen {
    cluster::Member member;
    bool usable = false;
    std::string role;  // empty before the first hello
    std::string name;
    std::string problem;  // why it is not usable
  };

  WorkerLinks(boost::asio::io_context& io, Timers& timers, const cluster::LivenessConfig& liveness,
              WorkerTerms terms, WorkerLinksHandlers handlers);
  ~WorkerLinks();

  // Connects to those that are new and lets go of those that are no longer listed.
  void set_members(const std::vector<cluster::Member>& members);
  // Dropped when the worker is not up; its death is then told by `down`.
  void send(scheduler::WorkerId id, const proto::Envelope& message);
  std::vector<Seen> seen() const;

 private:
  struct Link;
  void connect(scheduler::WorkerId id, const cluster::Member& member);
  void on_up(scheduler::WorkerId id, const proto::HelloReply& hello);
  void send_artifacts(scheduler::WorkerId id, const proto::HelloReply& hello);
  void on_down(scheduler::WorkerId id, const Status& cause);

  boost::asio::io_context& io_;
  Timers& timers_;
  cluster::LivenessConfig liveness_;
  WorkerTerms terms_;
  WorkerLinksHandlers handlers_;
  std::map<scheduler::WorkerId, std::unique_ptr<Link>> links_;
  scheduler::WorkerId last_id_ = 0;
};

}  // namespace kvferry::gateway

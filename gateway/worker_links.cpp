#include "gateway/worker_links.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "codec/artifacts.h"
#include "control.pb.h"

namespace kvferry::gateway {

using scheduler::WorkerId;

struct WorkerLinks::Link {
  Seen seen;
  std::unique_ptr<cluster::ControlClient> client;
};

namespace {

const char* role_name(proto::Role role) {
  if (role == proto::ROLE_PREFILL) return "prefill";
  return role == proto::ROLE_DECODE ? "decode" : "";
}

// Empty when the worker can be used.
std::string problem_of(const proto::HelloReply& hello, const WorkerTerms& terms) {
  if (*role_name(hello.role()) == 0) return "it says neither prefill nor decode";
  if (hello.model() != terms.model) {
    return "it serves the model '" + hello.model() + "', not '" + terms.model + "'";
  }
  if (hello.context() < terms.context) {
    return "its context is " + std::to_string(hello.context()) + " tokens, not " +
           std::to_string(terms.context);
  }
  for (const std::string& codec : terms.codecs) {
    if (std::find(hello.codecs().begin(), hello.codecs().end(), codec) == hello.codecs().end()) {
      return "it does not allow the codec \"" + codec + "\"; add it to its list of codecs";
    }
  }
  return "";
}

}  // namespace

WorkerLinks::WorkerLinks(boost::asio::io_context& io, Timers& timers,
                         const cluster::LivenessConfig& liveness, WorkerTerms terms,
                         WorkerLinksHandlers handlers)
    : io_(io),
      timers_(timers),
      liveness_(liveness),
      terms_(std::move(terms)),
      handlers_(std::move(handlers)) {}

WorkerLinks::~WorkerLinks() = default;

void WorkerLinks::set_members(const std::vector<cluster::Member>& members) {
  const auto same = [](const cluster::Member& a, const cluster::Member& b) {
    return a.host == b.host && a.control_port == b.control_port;
  };
  for (auto at = links_.begin(); at != links_.end();) {
    const bool listed = std::any_of(members.begin(), members.end(), [&](const auto& member) {
      return same(member, at->second->seen.member);
    });
    const WorkerId id = at->first;
    const bool usable = at->second->seen.usable;
    at = listed ? std::next(at) : links_.erase(at);
    if (!listed && usable) handlers_.down(id);
  }
  for (const cluster::Member& member : members) {
    const bool known = std::any_of(links_.begin(), links_.end(), [&](const auto& entry) {
      return same(member, entry.second->seen.member);
    });
    if (!known) connect(++last_id_, member);
  }
}

void WorkerLinks::connect(WorkerId id, const cluster::Member& member) {
  auto link = std::make_unique<Link>();
  link->seen.member = member;
  link->seen.problem = "not connected";
  Link* raw = link.get();
  links_[id] = std::move(link);
  cluster::ControlClientHandlers handlers;
  handlers.up = [this, id](const proto::HelloReply& hello) { on_up(id, hello); };
  handlers.down = [this, id](const Status& cause) { on_down(id, cause); };
  handlers.beat = [this, id](const proto::BeatReply& beat) {
    handlers_.load(id,
                   {beat.queued(), beat.running(), beat.queued_tokens(), beat.pool_free_bytes()});
  };
  handlers.message = [this, id](const proto::Envelope& message) { handlers_.message(id, message); };
  raw->client = cluster::connect_control(io_, timers_, member.host, member.control_port, liveness_,
                                         std::move(handlers));
}

void WorkerLinks::on_up(WorkerId id, const proto::HelloReply& hello) {
  Seen& seen = links_.at(id)->seen;
  seen.role = role_name(hello.role());
  seen.name = hello.name();
  seen.problem = problem_of(hello, terms_);
  if (!seen.problem.empty()) {
    log_error("gateway", "worker " + hello.name() + " at " + seen.member.host + ":" +
                             std::to_string(seen.member.control_port) +
                             " cannot be used: " + seen.problem);
    return;
  }
  send_artifacts(id, hello);
  seen.usable = true;
  WorkerFacts facts;
  facts.info.role =
      hello.role() == proto::ROLE_PREFILL ? scheduler::Role::kPrefill : scheduler::Role::kDecode;
  facts.info.name = hello.name();
  facts.info.compute = {hello.model_fingerprint(), hello.numerics_class()};
  facts.info.pool_bytes = hello.pool_bytes();
  facts.data_address = hello.data_address();
  log_info("gateway", seen.role + " worker " + hello.name() + " is up, over " + hello.transport());
  handlers_.up(id, facts);
}

// What the worker's codecs lack. Those that this gateway has not either belong to codecs that it
// does not serve.
void WorkerLinks::send_artifacts(WorkerId id, const proto::HelloReply& hello) {
  for (const std::string& digest : hello.missing_artifacts()) {
    const auto content = codec::find_artifact(digest);
    if (content == nullptr) continue;
    proto::Envelope envelope;
    envelope.mutable_artifact()->set_digest(digest);
    envelope.mutable_artifact()->set_content(*content);
    log_info("gateway", "sends the artefact " + digest + " to " + hello.name());
    send(id, envelope);
  }
}

void WorkerLinks::on_down(WorkerId id, const Status& cause) {
  Seen& seen = links_.at(id)->seen;
  seen.problem = cause.message();
  if (!std::exchange(seen.usable, false)) return;
  log_warn("gateway", seen.role + " worker " + seen.name + " is down: " + cause.to_string());
  handlers_.down(id);
}

void WorkerLinks::send(WorkerId id, const proto::Envelope& message) {
  const auto found = links_.find(id);
  if (found != links_.end()) found->second->client->send(message);
}

std::vector<WorkerLinks::Seen> WorkerLinks::seen() const {
  std::vector<Seen> list;
  for (const auto& [id, link] : links_) list.push_back(link->seen);
  return list;
}

}  // namespace kvferry::gateway

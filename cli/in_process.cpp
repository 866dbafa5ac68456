#include "cli/in_process.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <future>
#include <map>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/engine_thread.h"
#include "base/hash.h"
#include "cluster/messages.h"
#include "transport/loopback.h"
#include "transport/transfer_hub.h"

namespace kvferry::cli {
namespace asio = boost::asio;

// Members are destroyed in reverse: the reactor has stopped before anything that it calls goes.
struct InProcessCluster::Impl {
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard{io.get_executor()};
  std::unique_ptr<Timers> timers = make_asio_timers(io);
  Metrics prefill_metrics, decode_metrics;
  std::unique_ptr<ExtentPool> prefill_pool, decode_pool;
  transport::LoopbackNetwork network;
  std::unique_ptr<transport::Transport> prefill_transport, decode_transport;
  std::unique_ptr<transport::TransferHub> prefill_hub, decode_hub;
  EngineThread engine;
  std::unique_ptr<prefill::PrefillEngine> prefill;
  std::unique_ptr<decode::DecodeEngine> decode;
  struct Open {
    Reply reply;
    std::uint32_t choices = 0;  // not finished
  };
  std::map<std::uint64_t, Open> open;  // by transfer id; the reactor's
  std::thread reactor;

  ~Impl() {
    engine.stop();
    guard.reset();
    io.stop();
    if (reactor.joinable()) reactor.join();
  }

  Executor executor() {
    return [this](std::function<void()> task) { asio::post(io, std::move(task)); };
  }

  static std::uint64_t transfer_of(const proto::Envelope& message) {
    if (message.has_token()) return message.token().transfer_id();
    if (message.has_prompt_logprobs()) return message.prompt_logprobs().transfer_id();
    return message.has_finished() ? message.finished().transfer_id()
                                  : message.failed().transfer_id();
  }

  void reply(const proto::Envelope& message) {
    const std::uint64_t id = transfer_of(message);
    const auto found = open.find(id);
    if (found == open.end()) return;  // the other engine has ended it already
    const Reply to = found->second.reply;
    const bool over =
        message.has_failed() || (message.has_finished() && --found->second.choices == 0);
    if (over) open.erase(found);
    if (message.has_failed()) {
      const Status why = cancelled("the other side failed");
      decode->cancel(id, why);
      prefill->cancel(id, why);
    }
    to(message);
  }
};

InProcessCluster::InProcessCluster(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
InProcessCluster::~InProcessCluster() = default;

Result<std::unique_ptr<InProcessCluster>> InProcessCluster::start(model::Model& model,
                                                                  const codec::CodecSet& codecs,
                                                                  const InProcessOptions& options) {
  auto impl = std::make_unique<Impl>();
  KVF_ASSIGN_OR_RETURN(impl->prefill_pool, ExtentPool::create(options.pool_bytes));
  KVF_ASSIGN_OR_RETURN(impl->decode_pool, ExtentPool::create(options.pool_bytes));
  const transport::ModelIdentity identity{model.fingerprint(), model.numerics_class()};
  impl->prefill_transport = impl->network.attach(impl->io);
  impl->decode_transport = impl->network.attach(impl->io);
  impl->prefill_hub = std::make_unique<transport::TransferHub>(
      *impl->prefill_transport, *impl->timers, *impl->prefill_pool, fresh_id(), identity,
      impl->prefill_metrics);
  impl->decode_hub = std::make_unique<transport::TransferHub>(
      *impl->decode_transport, *impl->timers, *impl->decode_pool, fresh_id(), identity,
      impl->decode_metrics);
  auto reply = [impl = impl.get()](std::uint64_t, const proto::Envelope& message) {
    impl->reply(message);
  };

  prefill::PrefillParts prefill;
  prefill.model = &model;
  prefill.pool = impl->prefill_pool.get();
  prefill.thread = &impl->engine;
  prefill.sender = &impl->prefill_hub->sender();
  prefill.timers = impl->timers.get();
  prefill.metrics = &impl->prefill_metrics;
  prefill.reactor = impl->executor();
  prefill.codecs = &codecs;
  prefill.reply = reply;
  impl->prefill = std::make_unique<prefill::PrefillEngine>(std::move(prefill), options.prefill);

  decode::DecodeParts decode;
  decode.model = &model;
  decode.pool = impl->decode_pool.get();
  decode.thread = &impl->engine;
  decode.receiver = &impl->decode_hub->receiver();
  decode.timers = impl->timers.get();
  decode.metrics = &impl->decode_metrics;
  decode.reactor = impl->executor();
  decode.codecs = &codecs;
  decode.reply = reply;
  impl->decode = std::make_unique<decode::DecodeEngine>(std::move(decode), options.decode);

  impl->prefill->attach();
  impl->decode->attach();
  impl->engine.start();
  impl->reactor = std::thread([impl = impl.get()] { impl->io.run(); });
  return std::unique_ptr<InProcessCluster>(new InProcessCluster(std::move(impl)));
}

void InProcessCluster::submit(const proto::Plan& plan, bool remote_prefill, Reply reply) {
  asio::post(impl_->io, [impl = impl_.get(), plan, remote_prefill, reply = std::move(reply)] {
    impl->open[plan.transfer_id()] = {reply, plan.choices()};
    proto::StartDecode decode;
    *decode.mutable_plan() = plan;
    decode.set_remote_prefill(remote_prefill);
    impl->decode->start(decode, 0);
    if (!remote_prefill) return;
    proto::StartPrefill prefill;
    *prefill.mutable_plan() = plan;
    prefill.set_decode_data_address(impl->decode_transport->address());
    impl->prefill->start(prefill, 0);
  });
}

void InProcessCluster::cancel_choice(std::uint64_t transfer_id, std::uint32_t choice) {
  asio::post(impl_->io, [impl = impl_.get(), transfer_id, choice] {
    impl->decode->cancel_choice(transfer_id, choice);
    const auto found = impl->open.find(transfer_id);
    if (found != impl->open.end() && --found->second.choices == 0) impl->open.erase(found);
  });
}

std::vector<std::int32_t> InProcessCluster::Choice::ids() const {
  std::vector<std::int32_t> ids;
  for (const proto::Token& token : tokens) ids.push_back(token.id());
  return ids;
}

Result<InProcessCluster::Answer> InProcessCluster::answer(const proto::Plan& plan,
                                                          bool remote_prefill) {
  std::promise<Status> over;
  Answer answer;
  answer.choices.resize(plan.choices());
  std::uint32_t finished = 0;
  const std::uint64_t begin_ns = monotonic_ns();
  auto elapsed_ms = [begin_ns] { return static_cast<double>(monotonic_ns() - begin_ns) * 1e-6; };
  submit(plan, remote_prefill, [&](const proto::Envelope& message) {
    if (message.has_token()) {
      if (answer.ttft_ms == 0) answer.ttft_ms = elapsed_ms();
      answer.choices[message.token().choice() - plan.first_choice()].tokens.push_back(
          message.token());
    } else if (message.has_prompt_logprobs()) {
      const auto& entries = message.prompt_logprobs().entries();
      answer.prompt_logprobs.insert(answer.prompt_logprobs.end(), entries.begin(), entries.end());
    } else if (message.has_finished()) {
      const proto::Finished& end = message.finished();
      answer.choices[end.choice() - plan.first_choice()].finish_reason = end.reason();
      answer.usage = end.usage();
      if (++finished == plan.choices()) over.set_value(ok_status());
    } else if (message.has_failed()) {
      over.set_value(cluster::failed_status(message.failed()));
    }
  });
  const Status status = over.get_future().get();
  if (!status.ok()) return status;
  answer.total_ms = elapsed_ms();
  return answer;
}

ExtentPool& InProcessCluster::prefill_pool() { return *impl_->prefill_pool; }
ExtentPool& InProcessCluster::decode_pool() { return *impl_->decode_pool; }

}  // namespace kvferry::cli

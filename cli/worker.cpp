// `kvferry prefill` and `kvferry decode`: one worker process.

#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <map>
#include <utility>

#include "base/clock.h"
#include "base/compute_pool.h"
#include "base/engine_thread.h"
#include "base/extent_pool.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/process_metrics.h"
#include "cli/commands.h"
#include "cli/engine_setup.h"
#include "cli/load_progress.h"
#include "cli/worker_config.h"
#include "cluster/admin_http.h"
#include "cluster/messages.h"
#include "codec/artifacts.h"
#include "codec/codec_set.h"
#include "kernels/isa.h"
#include "model/model.h"
#include "transport/transfer_hub.h"
#include "transport/ucx_transport.h"

namespace kvferry::cli {
namespace {

namespace asio = boost::asio;

// An engine that has not turned for this long, with work to do, is stuck: /healthz says so.
constexpr std::uint64_t kStuckNs = 30 * kSecond;

// A worker's parts, built from the bottom up. Members are destroyed in reverse order, after run()
// has stopped the engine thread.
class Worker {
 public:
  Worker(proto::Role role, WorkerConfig config) : role_(role), config_(std::move(config)) {}

  Status start();
  // Serves until SIGINT or SIGTERM; a second signal ends the process at once.
  void run();

 private:
  Status start_transport();
  void start_engine();
  Status start_servers();
  std::uint64_t owner_of(const std::shared_ptr<cluster::ControlConnection>& connection);
  void on_message(const std::shared_ptr<cluster::ControlConnection>& from,
                  const proto::Envelope& message);
  void take_artifact(const proto::Artifact& artifact);
  void on_closed(const std::shared_ptr<cluster::ControlConnection>& connection, const Status& why);
  void reply(std::uint64_t owner, const proto::Envelope& message);
  proto::HelloReply hello() const;
  cluster::AdminAnswer healthz() const;
  void update_transport_info();
  std::string metrics();
  void wait_for_signal();

  const proto::Role role_;
  const WorkerConfig config_;
  const std::uint64_t epoch_ = fresh_id();
  asio::io_context io_{1};
  asio::signal_set signals_{io_, SIGINT, SIGTERM};
  std::unique_ptr<Timers> timers_ = make_asio_timers(io_);
  Metrics metrics_;
  std::unique_ptr<ComputePool> compute_;
  std::unique_ptr<model::Model> model_;
  codec::CodecSet codecs_;
  std::unique_ptr<ExtentPool> pool_;
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<transport::TransferHub> hub_;
  EngineThread engine_;
  std::unique_ptr<prefill::PrefillEngine> prefill_;
  std::unique_ptr<decode::DecodeEngine> decode_;
  // The gateways' connections that gave orders, by the number that the engines know them by.
  std::map<std::uint64_t, std::shared_ptr<cluster::ControlConnection>> owners_;
  std::uint64_t next_owner_ = 1;
  std::unique_ptr<cluster::ControlServer> control_;
  std::unique_ptr<cluster::AdminServer> admin_;
  std::uint64_t counted_busy_ns_ = 0;
  std::string described_;  // the transport, as the metric last said
  bool stopping_ = false;
};

Status Worker::start() {
  KVF_ASSIGN_OR_RETURN(codecs_, codec::CodecSet::parse(config_.codecs));
  KVF_ASSIGN_OR_RETURN(pool_, ExtentPool::create(config_.pool_bytes));
  compute_ = std::make_unique<ComputePool>(config_.threads);
  model::LoadOptions options;
  options.compute = config_.compute;
  options.pool = compute_.get();
  options.progress = load_progress(config_.name, config_.model);
  const std::uint64_t begin_ns = monotonic_ns();
  KVF_ASSIGN_OR_RETURN(model_, model::load_model(config_.model, options));
  for (const auto& codec : codecs_.codecs()) {
    if (!codec->missing_artifact().empty()) {
      log_info(config_.name, "codec " + codec->spec() + " waits for its file from a gateway");
      continue;
    }
    KVF_RETURN_IF_ERROR(
        codec->supports(model_->config().kv_geometry()).with_context("codec " + codec->spec()));
  }
  log_info(config_.name,
           fmt::format("model {} ready in {:.2f} s; kernels {}, {} threads, numerics class {:016x}",
                       model_->config().name, double(monotonic_ns() - begin_ns) * 1e-9,
                       kernels::isa_name(kernels::active_isa()), config_.threads,
                       model_->numerics_class()));
  KVF_RETURN_IF_ERROR(start_transport());
  start_engine();
  return start_servers();
}

Status Worker::start_transport() {
  transport::UcxConfig ucx;
  ucx.tls = config_.ucx_tls;
  KVF_RETURN_IF_ERROR(transport::ucx_self_test(ucx.tls));
  ucx.arena = pool_->arena();
  KVF_ASSIGN_OR_RETURN(transport_, transport::make_ucx_transport(io_, *timers_, ucx));
  const transport::ModelIdentity identity{model_->fingerprint(), model_->numerics_class()};
  hub_ = std::make_unique<transport::TransferHub>(*transport_, *timers_, *pool_, epoch_, identity,
                                                  metrics_, config_.transfer);
  log_info(config_.name, "transport " + transport_->describe());
  metrics_
      .gauge("kvferry_build_info", "Always 1; the labels say what this process runs on.",
             {{"role", role_ == proto::ROLE_PREFILL ? "prefill" : "decode"},
              {"kernels", std::string(kernels::isa_name(kernels::active_isa()))},
              {"model", model_->config().name},
              {"numerics_class", fmt::format("{:016x}", model_->numerics_class())}})
      .set(1);
  return ok_status();
}

// The parts that both engines stand on.
template <class Parts>
void fill_parts(Parts& parts, model::Model* model, ExtentPool* pool, EngineThread* thread,
                Timers* timers, Metrics* metrics, const codec::CodecSet* codecs) {
  parts.model = model;
  parts.pool = pool;
  parts.thread = thread;
  parts.timers = timers;
  parts.metrics = metrics;
  parts.codecs = codecs;
}

void Worker::start_engine() {
  auto reactor = [this](std::function<void()> task) { asio::post(io_, std::move(task)); };
  auto answer = [this](std::uint64_t owner, const proto::Envelope& message) {
    reply(owner, message);
  };
  if (role_ == proto::ROLE_PREFILL) {
    prefill::PrefillParts parts;
    fill_parts(parts, model_.get(), pool_.get(), &engine_, timers_.get(), &metrics_, &codecs_);
    parts.sender = &hub_->sender();
    parts.reactor = reactor;
    parts.reply = answer;
    prefill_ = std::make_unique<prefill::PrefillEngine>(std::move(parts), config_.prefill);
    prefill_->attach();
  } else {
    decode::DecodeParts parts;
    fill_parts(parts, model_.get(), pool_.get(), &engine_, timers_.get(), &metrics_, &codecs_);
    parts.receiver = &hub_->receiver();
    parts.reactor = reactor;
    parts.reply = answer;
    decode_ = std::make_unique<decode::DecodeEngine>(std::move(parts), config_.decode);
    decode_->attach();
  }
  engine_.start();
}

Status Worker::start_servers() {
  cluster::ControlServerHandlers handlers;
  handlers.hello = [this] { return hello(); };
  handlers.beat = [this] { return prefill_ ? prefill_->load() : decode_->load(); };
  handlers.message = [this](const auto& from, const proto::Envelope& message) {
    on_message(from, message);
  };
  handlers.closed = [this](const auto& connection, const Status& why) {
    on_closed(connection, why);
  };
  KVF_ASSIGN_OR_RETURN(
      control_, cluster::listen_control(io_, *timers_, config_.control.host, config_.control.port,
                                        config_.liveness, handlers));
  cluster::AdminHandlers admin;
  admin.healthz = [this] { return healthz(); };
  admin.readyz = [] { return cluster::AdminAnswer{true, "{\"ready\":true}\n"}; };
  admin.metrics = [this] { return metrics(); };
  KVF_ASSIGN_OR_RETURN(
      admin_, cluster::serve_admin(io_, config_.admin.host, config_.admin.port, std::move(admin)));
  log_info(config_.name, fmt::format("control on {}:{}, metrics on {}:{}", config_.control.host,
                                     control_->port(), config_.admin.host, admin_->port()));
  return ok_status();
}

std::uint64_t Worker::owner_of(const std::shared_ptr<cluster::ControlConnection>& connection) {
  for (const auto& [owner, known] : owners_) {
    if (known == connection) return owner;
  }
  owners_[next_owner_] = connection;
  return next_owner_++;
}

void Worker::on_message(const std::shared_ptr<cluster::ControlConnection>& from,
                        const proto::Envelope& message) {
  if (message.has_start_prefill() && prefill_) {
    prefill_->start(message.start_prefill(), owner_of(from));
  } else if (message.has_start_decode() && decode_) {
    decode_->start(message.start_decode(), owner_of(from));
  } else if (message.has_cancel()) {
    const proto::Cancel& order = message.cancel();
    const Status why = cancelled(order.reason());
    if (order.has_choice()) {
      if (decode_) decode_->cancel_choice(order.transfer_id(), order.choice());
      return;
    }
    if (prefill_) prefill_->cancel(order.transfer_id(), why);
    if (decode_) decode_->cancel(order.transfer_id(), why);
  } else if (message.has_artifact()) {
    take_artifact(message.artifact());
  } else {
    log_warn(config_.name, "a message that is not for this kind of worker, from " + from->peer());
  }
}

void Worker::take_artifact(const proto::Artifact& artifact) {
  Status status;
  if (codec::artifact_digest(artifact.content()) != artifact.digest()) {
    status = data_loss("its content has another digest");
  } else {
    status = codec::add_artifact(artifact.content()).status();
  }
  if (status.ok()) {
    log_info(config_.name, "received the artefact " + artifact.digest());
  } else {
    log_error(config_.name, "artefact " + artifact.digest() + ": " + status.to_string());
  }
}

void Worker::on_closed(const std::shared_ptr<cluster::ControlConnection>& connection,
                       const Status& why) {
  const std::uint64_t owner = owner_of(connection);
  owners_.erase(owner);
  const Status gone = cancelled("the gateway is gone: " + why.message());
  if (prefill_) prefill_->cancel_owner(owner, gone);
  if (decode_) decode_->cancel_owner(owner, gone);
}

void Worker::reply(std::uint64_t owner, const proto::Envelope& message) {
  const auto found = owners_.find(owner);
  if (found != owners_.end()) found->second->send(message);
}

proto::HelloReply Worker::hello() const {
  proto::HelloReply reply;
  reply.set_role(role_);
  reply.set_name(config_.name);
  reply.set_epoch(epoch_);
  reply.set_model(model_->config().name);
  reply.set_model_fingerprint(model_->fingerprint());
  reply.set_numerics_class(model_->numerics_class());
  reply.set_data_address(transport_->address());
  reply.set_transport(transport_->describe());
  reply.set_context(model_->config().context);
  reply.set_pool_bytes(pool_->usage().pool);
  for (const std::string& spec : codecs_.specs()) reply.add_codecs(spec);
  for (const std::string& digest : codecs_.missing_artifacts()) reply.add_missing_artifacts(digest);
  return reply;
}

cluster::AdminAnswer Worker::healthz() const {
  const std::uint64_t still_ns = engine_.still_ns();
  if (still_ns < kStuckNs) return {true, "{\"healthy\":true}\n"};
  return {false, fmt::format("{{\"healthy\":false,\"engine_still_s\":{}}}\n", still_ns / kSecond)};
}

// What the transport runs over is known once it has connected, and may change with the peers.
void Worker::update_transport_info() {
  auto info = [this](const std::string& transport) -> Gauge& {
    return metrics_.gauge("kvferry_transport_info",
                          "1 for the transport and the lanes in use, 0 for those before.",
                          {{"transport", transport}});
  };
  const std::string now = transport_->describe();
  if (!described_.empty() && described_ != now) info(described_).set(0);
  described_ = now;
  info(now).set(1);
}

std::string Worker::metrics() {
  static constexpr const char* kClassNames[kExtentClasses] = {"closed", "open", "staging"};
  const PoolUsage usage = pool_->usage();
  auto pool_gauge = [&](const char* name, const char* state, std::size_t bytes) {
    metrics_
        .gauge("kvferry_pool_bytes", "Bytes of the KV pool by class of extent and state.",
               {{"class", name}, {"state", state}})
        .set(static_cast<double>(bytes));
  };
  pool_gauge("any", "free", usage.free);
  for (std::size_t i = 0; i < kExtentClasses; ++i) {
    pool_gauge(kClassNames[i], "leased", usage.classes[i].leased);
    pool_gauge(kClassNames[i], "resident", usage.classes[i].resident);
    pool_gauge(kClassNames[i], "quarantined", usage.classes[i].quarantined);
  }
  metrics_
      .gauge("kvferry_requests_active",
             "Requests that this worker knows: queued, moving or running.")
      .set(static_cast<double>(prefill_ ? prefill_->active() : decode_->active()));
  const std::uint64_t busy_ns = compute_->busy_ns();
  metrics_.counter("kvferry_compute_busy_seconds_total", "CPU seconds spent in compute tasks.")
      .add(static_cast<double>(busy_ns - counted_busy_ns_) * 1e-9);
  counted_busy_ns_ = busy_ns;
  update_transport_info();
  update_process_metrics(metrics_);
  return metrics_.serialize();
}

void Worker::wait_for_signal() {
  signals_.async_wait([this](auto error, int) {
    if (error) return;
    if (std::exchange(stopping_, true)) std::_Exit(1);
    log_info(config_.name, "stopping");
    wait_for_signal();
    engine_.stop();
    io_.stop();
  });
}

void Worker::run() {
  wait_for_signal();
  io_.run();
  engine_.stop();
}

Status run_worker(proto::Role role, const std::string& config_file) {
  KVF_ASSIGN_OR_RETURN(WorkerConfig config, load_worker_config(config_file));
  Worker worker(role, std::move(config));
  KVF_RETURN_IF_ERROR(worker.start());
  worker.run();
  return ok_status();
}

}  // namespace

int run_worker_command(const std::string& role, const std::string& config_file) {
  return report(
      role.c_str(),
      run_worker(role == "prefill" ? proto::ROLE_PREFILL : proto::ROLE_DECODE, config_file));
}

}  // namespace kvferry::cli

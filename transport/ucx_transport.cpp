#include "transport/ucx_transport.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cstring>
#include <utility>

#include "base/hash.h"
#include "base/log.h"
#include "transport/frame_delivery.h"
#include "transport/ucx_channel.h"
#include "transport/ucx_tls.h"

namespace kvferry::transport {
namespace {

constexpr int kRoundsPerTurn = 64;  // of progress, before other handlers of the io_context run
// While requests are in flight the worker is looked at again after this long, doubling as long as
// nothing moves: shared memory does not wake a sender whose queue the receiver has emptied.
constexpr std::uint64_t kFirstLookNs = 50'000;
constexpr std::uint64_t kLastLookNs = 2 * kMillisecond;

bool reaches_others(const UcxContext& context) {
  const std::vector<std::string> names = context.transports();
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return name != "self"; });
}

// Where UCX could use shared memory, that of this machine's other processes lies in workers of its
// own (ucx_channel.h).
Result<UcxContexts> open_contexts(const UcxConfig& config) {
  UcxConfig wanted = config;
  wanted.tls = without_shared_memory(config.tls);
  UcxContexts contexts;
  KVF_ASSIGN_OR_RETURN(contexts.network, UcxContext::create(wanted));
  if (!has_shared_memory(config.tls)) return contexts;
  KVF_ASSIGN_OR_RETURN(contexts.local, UcxContext::create(config));
  if (reaches_others(*contexts.network)) return contexts;
  log_warn("transport",
           "UCX finds no network here (is /sys mounted?): all peers share one queue of shared "
           "memory, and one that is killed while it writes can stop this process's transfers");
  contexts.network = std::move(contexts.local);
  return contexts;
}

}  // namespace

UcxTransport::UcxTransport(boost::asio::io_context& io, Timers& timers, const UcxConfig& config,
                           UcxContexts contexts)
    : io_(io), timers_(timers), config_(config), contexts_(std::move(contexts)) {}

Status UcxTransport::start() {
  KVF_ASSIGN_OR_RETURN(network_, add_worker(contexts_.network));
  address_ = to_bytes({host_, network_->address(), ""});
  wake();
  return ok_status();
}

Result<std::shared_ptr<UcxWorker>> UcxTransport::add_worker(
    const std::shared_ptr<UcxContext>& context) {
  KVF_ASSIGN_OR_RETURN(std::shared_ptr<UcxWorker> worker, UcxWorker::create(io_, context));
  KVF_RETURN_IF_ERROR(worker->set_handler(kUcxNoteId, &UcxTransport::on_note, this));
  KVF_RETURN_IF_ERROR(worker->set_handler(kUcxFrameId, &UcxTransport::on_frame, this));
  workers_.push_back(worker);
  return worker;
}

Result<std::shared_ptr<UcxWorker>> UcxTransport::add_local_worker() {
  return add_worker(contexts_.local);
}

void UcxTransport::remove_worker(const std::shared_ptr<UcxWorker>& worker) {
  worker->destroy();
  std::erase(workers_, worker);
}

UcxTransport::~UcxTransport() {
  shutdown();
  alive_.reset();
  if (fallback_ != 0) timers_.cancel(fallback_);
}

// What UCX has not let go of by then, the end of its worker makes it let go of.
void UcxTransport::shutdown() {
  if (down_) return;
  for (const auto& [key, channel] : channels_) {
    channel->start_close(cancelled("transport shut down"), true);
  }
  const std::uint64_t limit = monotonic_ns() + config_.close_ns;
  while ((!channels_.empty() || !later_.empty()) && monotonic_ns() < limit) {
    (void)progress();
    reap();
  }
  down_ = true;
  if (!channels_.empty()) {
    log_warn("transport", "UCX did not complete all requests in time; its workers are destroyed");
  }
  for (const auto& worker : std::exchange(workers_, {})) worker->destroy();
  for (const auto& [key, channel] : std::exchange(channels_, {})) channel->finish_close();
}

std::string UcxTransport::describe() const {
  std::string text = "ucx " + ucx_version() + " UCX_TLS=" + config_.tls;
  if (!lanes_.empty()) text += " using " + lanes_;
  return text;
}

// ---- channels ----

Result<std::shared_ptr<Channel>> UcxTransport::connect(const std::string& address) {
  if (down_) return unavailable("transport is shut down");
  if (channels_.size() >= config_.max_channels) return resource_exhausted("too many channels");
  KVF_ASSIGN_OR_RETURN(const UcxAddress peer, parse_ucx_address(address));
  auto channel = std::make_shared<UcxChannel>(*this, fresh_id(), true);
  if (shares_memory_with(peer)) KVF_RETURN_IF_ERROR(channel->make_local_worker());
  KVF_RETURN_IF_ERROR(channel->connect(peer.worker));
  channels_[{channel->key(), true}] = channel;
  channel->note(UcxNote::kHello, to_bytes({host_, network_->address(), channel->data_address()}));
  wake();
  return std::shared_ptr<Channel>(channel);
}

bool UcxTransport::shares_memory_with(const UcxAddress& peer) const {
  return contexts_.local != nullptr && host_ != 0 && peer.host == host_;
}

std::shared_ptr<UcxChannel> UcxTransport::find(const UcxPrefix& prefix) const {
  const auto found = channels_.find({prefix.key, prefix.from_connector == 0});
  return found == channels_.end() ? nullptr : found->second;
}

void UcxTransport::hello(const UcxPrefix& prefix, const std::string& body) {
  if (down_ || find(prefix) != nullptr || channels_.size() >= config_.max_channels) return;
  const Result<UcxAddress> peer = parse_ucx_address(body);
  if (!peer.ok()) return log_warn("transport", "HELLO dropped: " + peer.status().to_string());
  auto channel = std::make_shared<UcxChannel>(*this, prefix.key, false);
  const Status connected = channel->connect(peer->worker);
  if (!connected.ok()) return log_warn("transport", "HELLO: " + connected.to_string());
  channels_[{prefix.key, false}] = channel;
  Status local;
  if (shares_memory_with(*peer) && !peer->data.empty()) {
    local = channel->make_local_worker();
    if (local.ok()) local = channel->connect_data(peer->data);
  }
  if (!local.ok()) {
    log_warn("transport", "HELLO: " + local.to_string());
    return channel->start_close(local, true);
  }
  channel->note(UcxNote::kHelloAck, to_bytes({host_, "", channel->data_address()}));
  channel->established();
}

// The frames go where the acceptor says: to a worker made for this channel, or to its network one.
void UcxTransport::hello_ack(const UcxPrefix& prefix, const std::string& body) {
  const std::shared_ptr<UcxChannel> channel = find(prefix);
  if (down_ || channel == nullptr || !channel->connecting()) return;
  const Result<UcxAddress> peer = parse_ucx_address(body);
  Status status = peer.status();
  if (status.ok() && !peer->data.empty()) status = channel->connect_data(peer->data);
  if (!status.ok()) return channel->start_close(status.with_context("HELLO_ACK"), true);
  channel->established();
}

// ---- receiving ----

ucs_status_t UcxTransport::on_note(void* self, const void* header, std::size_t header_bytes,
                                   void* data, std::size_t bytes,
                                   const ucp_am_recv_param_t* param) {
  if (header_bytes != sizeof(UcxPrefix) || (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) {
    return UCS_OK;
  }
  auto& transport = *static_cast<UcxTransport*>(self);
  UcxPrefix prefix;
  std::memcpy(&prefix, header, sizeof prefix);
  // Workers and endpoints must not be created inside UCX's progress.
  const auto note = static_cast<UcxNote>(prefix.note);
  std::string body(static_cast<char*>(data), bytes);
  if (note == UcxNote::kHello && prefix.from_connector == 1) {
    transport.later([&transport, prefix, body] { transport.hello(prefix, body); });
  } else if (note == UcxNote::kHelloAck && prefix.from_connector == 0) {
    transport.later([&transport, prefix, body] { transport.hello_ack(prefix, body); });
  } else if (note == UcxNote::kBye) {
    const std::shared_ptr<UcxChannel> channel = transport.find(prefix);
    if (channel) channel->start_close(unavailable("closed by the peer"), false);
  }
  return UCS_OK;
}

ucs_status_t UcxTransport::on_frame(void* self, const void* header, std::size_t header_bytes,
                                    void* data, std::size_t bytes,
                                    const ucp_am_recv_param_t* param) {
  auto& transport = *static_cast<UcxTransport*>(self);
  if (header_bytes != sizeof(UcxMessageHeader)) return UCS_OK;
  UcxMessageHeader message;
  std::memcpy(&message, header, sizeof message);
  const std::shared_ptr<UcxChannel> channel = transport.find(message.prefix);
  if (channel == nullptr || !channel->open() || transport.handler_ == nullptr) return UCS_OK;
  const bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
  return transport.receive_frame(*channel, message.frame, data, bytes, rendezvous);
}

// To return UCS_OK refuses a rendezvous: its sender then completes without the payload having
// moved.
ucs_status_t UcxTransport::receive_frame(UcxChannel& channel, const FrameHeader& header, void* data,
                                         std::size_t bytes, bool rendezvous) {
  if (!rendezvous) {
    deliver_frame(*handler_, channel, header, {static_cast<const std::byte*>(data), bytes});
    return UCS_OK;
  }
  Status status = check_header(header);
  if (status.ok() && header.payload_bytes != bytes) {
    status = data_loss("payload is not as long as the header says");
  }
  if (!status.ok()) {
    handler_->on_bad_header(channel, status);
    return UCS_OK;
  }
  const Result<std::span<std::byte>> landing = handler_->on_header(channel, header);
  if (!landing.ok()) {
    handler_->on_frame(channel, header, {}, landing.status());
    return UCS_OK;
  }
  channel.receive_rendezvous(header, data, *landing);
  return UCS_INPROGRESS;
}

// ---- progress ----

void UcxTransport::later(std::function<void()> task) {
  later_.push_back(std::move(task));
  wake();
}

void UcxTransport::wake() {
  if (pump_posted_) return;
  pump_posted_ = true;
  boost::asio::post(io_, [this, alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    pump_posted_ = false;
    pump();
  });
}

void UcxTransport::run_later() {
  while (!later_.empty()) {
    const auto task = std::move(later_.front());
    later_.pop_front();
    task();
  }
}

// A bounded number of rounds; false when there is nothing left to do.
bool UcxTransport::progress() {
  for (int round = 0; round < kRoundsPerTurn; ++round) {
    bool moved = false;
    // By index: a callback may add a worker.
    for (std::size_t i = 0; i < workers_.size(); ++i) moved |= workers_[i]->progress();
    run_later();
    if (!moved) return false;
    look_ns_ = kFirstLookNs;
  }
  return true;
}

void UcxTransport::pump() {
  if (down_) return;
  if (progress()) return wake();
  reap();
  if (!later_.empty()) return wake();
  for (const auto& worker : workers_) {
    if (!worker->sleep([this] { pump(); })) return wake();
  }
  if (busy() && fallback_ == 0) fallback();
}

void UcxTransport::fallback() {
  fallback_ = timers_.after(look_ns_, [this] {
    fallback_ = 0;
    look_ns_ = std::min(2 * look_ns_, kLastLookNs);
    pump();
  });
}

bool UcxTransport::busy() const {
  for (const auto& [key, channel] : channels_) {
    if (channel->busy() || !channel->open()) return true;
  }
  return false;
}

// Channels past their handshake's deadline close; those whose closing is done are reported.
void UcxTransport::reap() {
  const std::uint64_t now = timers_.now_ns();
  std::vector<std::shared_ptr<UcxChannel>> closed;
  for (const auto& [key, channel] : channels_) {
    if (channel->connecting() && now - channel->since_ns > config_.connect_ns) {
      channel->start_close(unavailable("no answer to HELLO"), false);
    }
    if (channel->closed_now(now)) closed.push_back(channel);
  }
  for (const auto& channel : closed) {
    channels_.erase({channel->key(), channel->connector()});
    channel->finish_close();
  }
}

Result<std::unique_ptr<Transport>> make_ucx_transport(boost::asio::io_context& io, Timers& timers,
                                                      const UcxConfig& config) {
  UcxConfig chosen = config;
  chosen.tls = chosen_tls(config.tls);
  KVF_ASSIGN_OR_RETURN(UcxContexts contexts, open_contexts(chosen));
  auto transport = std::make_unique<UcxTransport>(io, timers, chosen, std::move(contexts));
  KVF_RETURN_IF_ERROR(transport->start());
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace kvferry::transport

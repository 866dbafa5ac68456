#include "transport/ucx_transport.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cstring>
#include <utility>

#include "base/hash.h"
#include "base/log.h"
#include "transport/frame_delivery.h"
#include "transport/ucx_channel.h"

namespace kvferry::transport {
namespace {

constexpr unsigned kNoteId = 1;
constexpr unsigned kFrameId = 2;
constexpr int kRoundsPerTurn = 64;  // of progress, before other handlers of the io_context run
// While requests are in flight the worker is looked at again after this long, doubling as long as
// nothing moves: shared memory does not wake a sender whose queue the receiver has emptied.
constexpr std::uint64_t kFirstLookNs = 50'000;
constexpr std::uint64_t kLastLookNs = 2 * kMillisecond;

// An address as it is handed out: "KVUX", CRC32C of the rest, the worker's address. UCX trusts the
// addresses it is given, so they are checked here.
constexpr std::string_view kAddressMagic = "KVUX";
constexpr std::size_t kMaxAddressBytes = 16 << 10;

std::string wrap_address(const std::string& worker_address) {
  const std::uint32_t crc = crc32c(std::as_bytes(std::span(worker_address)));
  std::string wrapped(kAddressMagic);
  wrapped.append(reinterpret_cast<const char*>(&crc), sizeof crc);
  return wrapped + worker_address;
}

Result<std::string> unwrap_address(const std::string& wrapped) {
  constexpr std::size_t kPrefix = 8;
  if (wrapped.size() <= kPrefix || wrapped.size() > kMaxAddressBytes ||
      !wrapped.starts_with(kAddressMagic)) {
    return invalid_argument("not the address of a UCX transport");
  }
  std::string address = wrapped.substr(kPrefix);
  std::uint32_t crc = 0;
  std::memcpy(&crc, wrapped.data() + kAddressMagic.size(), sizeof crc);
  if (crc != crc32c(std::as_bytes(std::span(address)))) {
    return data_loss("the address of a UCX transport is damaged");
  }
  return address;
}

}  // namespace

UcxTransport::UcxTransport(boost::asio::io_context& io, Timers& timers, const UcxConfig& config,
                           std::unique_ptr<UcxWorker> worker)
    : io_(io),
      timers_(timers),
      config_(config),
      worker_(std::move(worker)),
      events_(io),
      address_(wrap_address(worker_->address())) {}

Status UcxTransport::start() {
  for (const unsigned id : {kNoteId, kFrameId}) {
    ucp_am_handler_param_t params{};
    params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                        UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    params.id = id;
    params.flags = UCP_AM_FLAG_WHOLE_MSG;
    params.cb = id == kNoteId ? &UcxTransport::on_note : &UcxTransport::on_frame;
    params.arg = this;
    KVF_RETURN_IF_ERROR(
        from_ucx(ucp_worker_set_am_recv_handler(worker(), &params), "setting a handler"));
  }
  boost::system::error_code error;
  events_.assign(worker_->event_fd(), error);
  if (error) return internal_error("watching UCX's events: " + error.message());
  wake();
  return ok_status();
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
  if (events_.is_open()) (void)events_.release();  // cancels the wait; the descriptor is UCX's
  if (channels_.empty()) return;
  log_warn("transport", "UCX did not complete all requests in time; its worker is destroyed");
  worker_->destroy();
  for (const auto& [key, channel] : std::exchange(channels_, {})) channel->finish_close();
}

std::string UcxTransport::describe() const {
  std::string text = "ucx " + ucx_version() + " UCX_TLS=" + worker_->tls();
  if (!lanes_.empty()) text += " using " + lanes_;
  return text;
}

// ---- channels ----

Result<std::shared_ptr<Channel>> UcxTransport::connect(const std::string& address) {
  if (down_) return unavailable("transport is shut down");
  if (channels_.size() >= config_.max_channels) return resource_exhausted("too many channels");
  KVF_ASSIGN_OR_RETURN(const std::string peer, unwrap_address(address));
  auto channel = std::make_shared<UcxChannel>(*this, fresh_id(), true);
  KVF_RETURN_IF_ERROR(channel->connect(peer));
  channels_[{channel->key(), true}] = channel;
  channel->note(UcxNote::kHello, address_);
  wake();
  return std::shared_ptr<Channel>(channel);
}

std::shared_ptr<UcxChannel> UcxTransport::find(const UcxPrefix& prefix) const {
  const auto found = channels_.find({prefix.key, prefix.from_connector == 0});
  return found == channels_.end() ? nullptr : found->second;
}

void UcxTransport::hello(const UcxPrefix& prefix, const std::string& peer_address) {
  if (down_ || find(prefix) != nullptr || channels_.size() >= config_.max_channels) return;
  const Result<std::string> peer = unwrap_address(peer_address);
  if (!peer.ok()) return log_warn("transport", "HELLO dropped: " + peer.status().to_string());
  auto channel = std::make_shared<UcxChannel>(*this, prefix.key, false);
  const Status connected = channel->connect(*peer);
  if (!connected.ok()) return log_warn("transport", "HELLO: " + connected.to_string());
  channels_[{prefix.key, false}] = channel;
  channel->note(UcxNote::kHelloAck, "");
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
  if (prefix.note == static_cast<std::uint32_t>(UcxNote::kHello) && prefix.from_connector == 1) {
    // An endpoint must not be created inside UCX's progress.
    transport.later([&transport, prefix, body = std::string(static_cast<char*>(data), bytes)] {
      transport.hello(prefix, body);
    });
    return UCS_OK;
  }
  const std::shared_ptr<UcxChannel> channel = transport.find(prefix);
  if (channel == nullptr) return UCS_OK;
  if (prefix.note == static_cast<std::uint32_t>(UcxNote::kHelloAck)) channel->established();
  if (prefix.note == static_cast<std::uint32_t>(UcxNote::kBye)) {
    channel->start_close(unavailable("closed by the peer"), false);
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
    const bool moved = ucp_worker_progress(worker()) != 0;
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
  const ucs_status_t armed = ucp_worker_arm(worker());
  if (armed == UCS_ERR_BUSY) return wake();
  wait_for_event();
  if (busy() && fallback_ == 0) fallback();
}

void UcxTransport::wait_for_event() {
  if (waiting_) return;
  waiting_ = true;
  events_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                     [this, alive = std::weak_ptr<bool>(alive_)](boost::system::error_code error) {
                       if (alive.expired()) return;
                       waiting_ = false;
                       if (!error) pump();
                     });
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
    if (channel->closed_now()) closed.push_back(channel);
  }
  for (const auto& channel : closed) {
    channels_.erase({channel->key(), channel->connector()});
    channel->finish_close();
  }
}

Result<std::unique_ptr<Transport>> make_ucx_transport(boost::asio::io_context& io, Timers& timers,
                                                      const UcxConfig& config) {
  KVF_ASSIGN_OR_RETURN(std::unique_ptr<UcxWorker> worker, UcxWorker::create(config));
  auto transport = std::make_unique<UcxTransport>(io, timers, config, std::move(worker));
  KVF_RETURN_IF_ERROR(transport->start());
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace kvferry::transport

#include "transport/nccl_transport.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "transport/nccl_channel.h"

namespace kvferry::transport {
namespace {

// NCCL wakes nobody. While something is under way it is looked at after this long, doubling as long
// as nothing moves.
constexpr std::uint64_t kFirstLookNs = 20'000;
constexpr std::uint64_t kLastLookNs = 2 * kMillisecond;

}  // namespace

NcclTransport::NcclTransport(Transport& inner, Timers& timers, NcclApi& api, NcclConfig config)
    : inner_(inner), timers_(timers), api_(api), config_(std::move(config)) {
  inner_.set_handler(this);
}

NcclTransport::~NcclTransport() {
  shutdown();
  inner_.set_handler(nullptr);
  if (timer_ != 0) timers_.cancel(timer_);
}

// Aborts that are under way go on in the library: nothing of ours is in use by then.
void NcclTransport::shutdown() { inner_.shutdown(); }

Result<std::shared_ptr<Channel>> NcclTransport::connect(const std::string& address) {
  KVF_ASSIGN_OR_RETURN(const std::shared_ptr<Channel> inner, inner_.connect(address));
  auto channel = std::make_shared<NcclChannel>(*this, *inner, true);
  channels_[inner.get()] = channel;
  const Status offered = channel->offer(++epoch_);
  if (!offered.ok()) channel->close();
  return std::shared_ptr<Channel>(channel);
}

NcclChannel& NcclTransport::wrap(Channel& channel) {
  auto& wrapped = channels_[&channel];
  if (wrapped == nullptr) wrapped = std::make_shared<NcclChannel>(*this, channel, false);
  return *wrapped;
}

// ---- what arrives on the transport below ----

Result<std::span<std::byte>> NcclTransport::on_header(Channel& channel, const FrameHeader& header) {
  if (header.type == FrameType::kLink) {
    link_landing_.resize(header.payload_bytes);
    return std::span(link_landing_);
  }
  if (header.type == FrameType::kData) return data_loss("DATA beside its communicator");
  if (handler_ == nullptr) return unavailable("nobody receives");
  return handler_->on_header(wrap(channel), header);
}

void NcclTransport::on_frame(Channel& channel, const FrameHeader& header,
                             std::span<std::byte> payload, const Status& status) {
  NcclChannel& wrapped = wrap(channel);
  if (header.type == FrameType::kLink) {
    if (status.ok()) return wrapped.linked(payload);
    return wrapped.close();  // the ends no longer know the same
  }
  if (handler_ != nullptr) handler_->on_frame(wrapped, header, payload, status);
}

void NcclTransport::on_bad_header(Channel& channel, const Status& status) {
  if (handler_ != nullptr) handler_->on_bad_header(wrap(channel), status);
}

void NcclTransport::on_closed(const std::shared_ptr<Channel>& channel, const Status& why) {
  wrap(*channel);
  const auto found = channels_.find(channel.get());
  const std::shared_ptr<NcclChannel> wrapped = std::move(found->second);
  channels_.erase(found);
  wrapped->inner_closed(why);
}

// ---- progress ----

void NcclTransport::look_soon() {
  look_ns_ = kFirstLookNs;
  if (timer_ != 0) timers_.cancel(timer_);
  timer_ = timers_.after(0, [this] { look(); });
}

void NcclTransport::look() {
  timer_ = 0;
  bool moved = false, busy = false;
  // Callbacks may connect, and so change the map.
  std::vector<std::shared_ptr<NcclChannel>> channels;
  for (const auto& [inner, channel] : channels_) channels.push_back(channel);
  for (const auto& channel : channels) moved |= channel->progress();
  reap_aborted();
  for (const auto& [inner, channel] : channels_) busy |= channel->busy();
  if (timer_ != 0 || (!busy && aborting_.empty())) return;
  look_ns_ = moved ? kFirstLookNs : std::min(2 * look_ns_, kLastLookNs);
  timer_ = timers_.after(look_ns_, [this] { look(); });
}

void NcclTransport::abort(NcclApi::Comm comm) {
  api_.abort(comm);
  aborting_.push_back({comm, timers_.now_ns(), false});
  look_soon();
}

void NcclTransport::reap_aborted() {
  std::erase_if(aborting_, [this](const Aborting& entry) { return api_.aborted(entry.comm); });
  for (Aborting& entry : aborting_) {
    if (entry.stuck || timers_.now_ns() - entry.since_ns <= config_.abort_ns) continue;
    entry.stuck = true;
    log_error("transport",
              "NCCL hangs in the abort of a communicator; this process should be started again");
    if (config_.stuck) config_.stuck();
  }
}

}  // namespace kvferry::transport

#include "transport/transfer_hub.h"

#include <algorithm>

#include "base/log.h"
#include "transport/bodies.h"
#include "transport/hub_context.h"
#include "transport/receive_side.h"
#include "transport/send_side.h"

namespace kvferry::transport {
namespace {

// Bodies of control frames that may be landing at one time, of all channels: 4 MiB at the most.
constexpr std::size_t kMaxControlLanding = 256;

}  // namespace

Status validate(const TransferConfig& c) {
  if (c.frame_bytes == 0 || c.frame_bytes > kMaxPayloadBytes) {
    return invalid_argument("frame_bytes must be in [1, " + std::to_string(kMaxPayloadBytes) + "]");
  }
  if (c.staging_slots == 0) return invalid_argument("staging_slots must be at least 1");
  if (c.credits_per_transfer == 0) {
    return invalid_argument("credits_per_transfer must be at least 1");
  }
  if (c.gather_slots == 0) return invalid_argument("gather_slots must be at least 1");
  if (c.tick_ns == 0 || c.beat_ns == 0)
    return invalid_argument("tick_ns and beat_ns must not be 0");
  if (c.lease_ns <= c.beat_ns || c.lease_extend_ns <= c.beat_ns) {
    return invalid_argument("lease_ns and lease_extend_ns must be longer than beat_ns");
  }
  if (c.retransmit_ns >= c.lease_ns) {
    return invalid_argument("retransmit_ns must be shorter than lease_ns");
  }
  return ok_status();
}

TransferHub::TransferHub(Transport& transport, Timers& timers, ExtentPool& pool,
                         std::uint64_t epoch, const ModelIdentity& model, Metrics& metrics,
                         const TransferConfig& config)
    : transport_(transport),
      context_(new HubContext{timers, pool, config, epoch, model, TransferMetrics(metrics),
                              [this](const std::string& address) { return connect(address); },
                              [this] { wake(); }}),
      send_(std::make_unique<SendSide>(*context_)),
      receive_(std::make_unique<ReceiveSide>(*context_)) {
  transport_.set_handler(this);
}

TransferHub::~TransferHub() {
  if (tick_timer_ != 0) context_->timers.cancel(tick_timer_);
  send_->abandon();
  receive_->abandon();
  transport_.shutdown();
  transport_.set_handler(nullptr);
}

KvSender& TransferHub::sender() { return *send_; }
KvReceiver& TransferHub::receiver() { return *receive_; }
bool TransferHub::idle() const { return send_->idle() && receive_->idle() && control_.empty(); }

// ---- channels ----

Result<std::shared_ptr<Channel>> TransferHub::connect(const std::string& address) {
  const auto known = channels_.find(address);
  if (known != channels_.end() && known->second->open()) return known->second;
  KVF_ASSIGN_OR_RETURN(std::shared_ptr<Channel> channel, transport_.connect(address));
  channels_[address] = channel;
  return channel;
}

void TransferHub::on_closed(const std::shared_ptr<Channel>& channel, const Status& why) {
  log_info("transport", "channel to " + channel->peer() + " closed: " + why.to_string());
  epochs_.erase(channel.get());
  std::erase_if(channels_, [&](const auto& entry) { return entry.second == channel; });
  context_->metrics.channels.set(static_cast<double>(epochs_.size()));
  send_->on_closed(*channel, why);
  receive_->on_closed(*channel, why);
}

// A channel speaks for one incarnation of the peer, that of its first frame.
bool TransferHub::same_epoch(Channel& channel, const FrameHeader& header) {
  const auto [entry, fresh] = epochs_.try_emplace(&channel, header.sender_epoch);
  if (fresh) context_->metrics.channels.set(static_cast<double>(epochs_.size()));
  return entry->second == header.sender_epoch;
}

// ---- frames ----

Result<std::span<std::byte>> TransferHub::on_header(Channel& channel, const FrameHeader& header) {
  if (!same_epoch(channel, header)) {
    context_->metrics.refused(RefusalCause::kEpoch);
    return failed_precondition("frame of another incarnation of the peer");
  }
  if (header.type == FrameType::kData) return receive_->on_data_header(channel, header);
  if (control_.size() >= kMaxControlLanding) {
    context_->metrics.refused(RefusalCause::kCredits);
    return resource_exhausted("too many control frames are landing");
  }
  std::vector<std::byte> body(header.payload_bytes);
  const std::span<std::byte> memory(body);
  control_.emplace(memory.data(), std::move(body));
  return memory;
}

void TransferHub::on_frame(Channel& channel, const FrameHeader& header,
                           std::span<std::byte> payload, const Status& status) {
  const bool refused = header.payload_bytes != 0 && payload.empty();
  if (!refused && header.payload_bytes == 0 && !same_epoch(channel, header)) {
    return context_->metrics.refused(RefusalCause::kEpoch);
  }
  context_->metrics.frame(Direction::kReceived, header);
  if (refused) return;  // counted and answered when the header came
  std::vector<std::byte> body;
  if (header.type != FrameType::kData && !payload.empty()) {
    const auto landed = control_.find(payload.data());
    if (landed == control_.end()) return;
    body = std::move(landed->second);
    control_.erase(landed);
  }
  dispatch(channel, header, payload, status);
}

void TransferHub::dispatch(Channel& channel, const FrameHeader& header,
                           std::span<std::byte> payload, const Status& status) {
  receive_->heard(channel, header);
  if (header.type == FrameType::kData) return receive_->on_data(channel, header, payload, status);
  if (!status.ok()) context_->metrics.refused(RefusalCause::kPayloadChecksum);
  on_control(channel, header, payload, status);
}

// A damaged body counts as a lost frame: whoever sent it sends it again. REFUSE and RELEASE say in
// the header what matters.
void TransferHub::on_control(Channel& channel, const FrameHeader& header,
                             std::span<std::byte> payload, const Status& status) {
  switch (header.type) {
    case FrameType::kWant:
      return status.ok() ? receive_->on_want(channel, header, payload) : void();
    case FrameType::kCommit:
      return status.ok() ? receive_->on_commit(channel, header, payload) : void();
    case FrameType::kGrant:
    case FrameType::kRefuse:
    case FrameType::kAck:
    case FrameType::kNack:
    case FrameType::kCommitAck:
      return send_->on_answer(channel, header, payload, status);
    case FrameType::kRelease:
      receive_->on_release(channel, header, status.ok() ? decode_reason(payload) : "");
      return send_->on_answer(channel, header, payload, status);
    case FrameType::kBeat:
      return status.ok() ? on_beat(channel, header, payload) : void();
    case FrameType::kProbe: {
      FrameHeader echo = answer_header(header, FrameType::kProbeAck);
      echo.sequence = header.sequence;
      context_->send(channel, echo);
      return;
    }
    case FrameType::kProbeAck:
    case FrameType::kData:
    case FrameType::kLink:
      return;
  }
}

void TransferHub::on_bad_header(Channel& channel, const Status& status) {
  context_->metrics.refused(RefusalCause::kBadHeader);
  log_warn("transport", "frame from " + channel.peer() + " dropped: " + status.to_string());
}

void TransferHub::on_beat(Channel& channel, const FrameHeader& header,
                          std::span<const std::byte> payload) {
  const auto ids = decode_beat(payload);
  if (!ids.ok()) return context_->metrics.refused(RefusalCause::kBadBody);
  if (header.code == static_cast<std::uint32_t>(BeatRole::kSender)) {
    receive_->on_beat(channel, header, *ids);
  } else {
    send_->on_beat(channel, header, *ids);
  }
}

// ---- time ----

void TransferHub::wake() {
  if (tick_timer_ != 0) return;
  next_beat_ns_ = context_->now_ns() + context_->config.beat_ns;
  tick_timer_ = context_->timers.after(context_->config.tick_ns, [this] { tick(); });
}

void TransferHub::tick() {
  tick_timer_ = 0;
  send_->tick();
  receive_->tick();
  if (context_->now_ns() >= next_beat_ns_) beat();
  if (idle()) return;
  tick_timer_ = context_->timers.after(context_->config.tick_ns, [this] { tick(); });
}

void TransferHub::beat() {
  next_beat_ns_ = context_->now_ns() + context_->config.beat_ns;
  const auto name_all = [this](const auto& side, BeatRole role) {
    std::map<Channel*, std::vector<std::uint64_t>> by_channel;
    side.held(by_channel);
    for (const auto& [channel, ids] : by_channel) {
      for (std::size_t at = 0; at < ids.size(); at += kMaxBeatTransfers) {
        const std::size_t count = std::min(kMaxBeatTransfers, ids.size() - at);
        FrameHeader header;
        header.type = FrameType::kBeat;
        header.code = static_cast<std::uint32_t>(role);
        context_->send(*channel, header, encode_beat(std::span(ids).subspan(at, count)));
      }
    }
  };
  name_all(*send_, BeatRole::kSender);
  name_all(*receive_, BeatRole::kReceiver);
}

}  // namespace kvferry::transport

#include "transport/receive_side.h"

#include <algorithm>

#include "base/clock.h"
#include "codec/segment.h"

namespace kvferry::transport {

// ---- the interface ----

Status ReceiveSide::expect(const TransferIdentity& identity, std::uint64_t deadline_ns,
                           ReceiveCallbacks callbacks) {
  KVF_RETURN_IF_ERROR(validate(identity));
  if (identity.model_fingerprint != context_.model.model_fingerprint ||
      identity.numerics_class != context_.model.numerics_class) {
    return failed_precondition("the transfer's model or numerics class is not this process's");
  }
  const std::uint64_t now = context_.now_ns();
  if (deadline_ns <= now) return deadline_exceeded("the transfer's deadline has passed");
  const std::uint64_t id = identity.transfer_id;
  if (const Status* over = tombstone(id)) {
    return over->ok() ? failed_precondition("transfer id was used before")
                      : over->with_context("transfer is over");
  }
  Transfer& transfer = transfers_[id];
  if (transfer.expected) return failed_precondition("transfer is expected already");
  transfer.expected = true;
  transfer.identity = identity;
  transfer.shape = TransferShape(identity);
  transfer.header = identity_header(identity, FrameType::kAck);
  transfer.deadline_ns = deadline_ns;
  transfer.callbacks = std::move(callbacks);
  transfer.resident.assign(transfer.shape.segments(), false);
  transfer.missing = transfer.shape.segments();
  context_.metrics.active(Role::kReceiver, transfers_.size());
  context_.wake();
  if (transfer.channel == nullptr) return ok_status();
  --held_;
  const Status fits = match(transfer);
  if (!fits.ok()) {
    transfer.callbacks = {};
    end(id, fits, Tell::kRefuse);
    return fits;
  }
  queue(id, transfer);
  return ok_status();
}

void ReceiveSide::cancel(std::uint64_t transfer_id, const Status& why) {
  const auto found = transfers_.find(transfer_id);
  if (found == transfers_.end()) return;
  found->second.callbacks = {};
  end(transfer_id, why.ok() ? cancelled("the receiver gave the transfer up") : why, Tell::kRelease);
}

void ReceiveSide::abandon() {
  for (auto& [memory, landing] : landings_) orphan(landing);
  transfers_.clear();
  waiting_.clear();
}

// ---- lookups ----

ReceiveSide::Transfer* ReceiveSide::find(Channel& channel, const FrameHeader& header) {
  const auto found = transfers_.find(header.transfer_id);
  if (found == transfers_.end() || found->second.channel != &channel) return nullptr;
  return &found->second;
}

const Status* ReceiveSide::tombstone(std::uint64_t transfer_id) const {
  const auto found = tombstones_.find(transfer_id);
  if (found == tombstones_.end() || found->second.until_ns <= context_.now_ns()) return nullptr;
  return &found->second.outcome;
}

void ReceiveSide::heard(Channel& channel, const FrameHeader& header) {
  Transfer* transfer = find(channel, header);
  if (transfer == nullptr) return;
  transfer->stats.wire_bytes += sizeof(FrameHeader) + header.payload_bytes;
  transfer->lease_until_ns =
      std::max(transfer->lease_until_ns, context_.now_ns() + context_.config.lease_ns);
}

// A frame of a transfer that is over, or never was: the peer learns how it ended.
void ReceiveSide::answer_unknown(Channel& channel, const FrameHeader& header) {
  const Status* over = tombstone(header.transfer_id);
  if (over == nullptr) {
    context_.metrics.refused(RefusalCause::kUnknownTransfer);
    context_.send_reason(channel, answer_header(header, FrameType::kRelease),
                         not_found("no such transfer on this channel"));
    return;
  }
  if (!over->ok()) {
    context_.send_reason(channel, answer_header(header, FrameType::kRelease), *over);
    return;
  }
  if (header.type == FrameType::kCommit) {
    context_.send(channel, answer_header(header, FrameType::kCommitAck));
  } else if (header.type == FrameType::kData) {
    context_.metrics.refused(RefusalCause::kDuplicate);
    FrameHeader ack = answer_header(header, FrameType::kAck);
    ack.sequence = header.sequence;
    ack.attempt = header.attempt;
    context_.send(channel, ack);
  }
}

// ---- WANT and GRANT ----

// Whether what the sender wants is what was expected; the Status names the first difference.
Status ReceiveSide::match(const Transfer& t) const {
  const FrameHeader& want = t.want_header;
  const codec::Codec& codec = *t.identity.codec;
  if (want.request_id != t.header.request_id) return invalid_argument("request id differs");
  if (want.model_fingerprint != t.header.model_fingerprint) {
    return unsupported("model fingerprint differs");
  }
  if (want.numerics_class != t.header.numerics_class) return unsupported("numerics class differs");
  if (want.codec_id != t.header.codec_id || t.want.spec != codec.spec()) {
    return unsupported("codec differs: sender has '" + t.want.spec.substr(0, 200) +
                       "', receiver expects '" + codec.spec() + "'");
  }
  if (!(t.want.geometry == t.identity.geometry) ||
      t.want.tile_tokens != t.identity.codec->tile_tokens() ||
      want.layout_fingerprint != t.header.layout_fingerprint) {
    return unsupported("layout differs");
  }
  if (t.want.tokens != t.identity.tokens) {
    return invalid_argument("tokens differ: sender has " + std::to_string(t.want.tokens) +
                            ", receiver expects " + std::to_string(t.identity.tokens));
  }
  return ok_status();
}

void ReceiveSide::on_want(Channel& channel, const FrameHeader& header,
                          std::span<const std::byte> payload) {
  const std::uint64_t id = header.transfer_id;
  if (tombstone(id) != nullptr) return answer_unknown(channel, header);
  Result<WantBody> body = decode_want(payload);
  if (!body.ok()) return context_.metrics.refused(RefusalCause::kBadBody);
  const auto found = transfers_.find(id);
  if (found == transfers_.end()) return hold(channel, header, std::move(*body));
  Transfer& transfer = found->second;
  if (transfer.channel == &channel) return answer_want(transfer);
  if (transfer.channel != nullptr) {
    context_.metrics.refused(RefusalCause::kState);
    context_.send_reason(channel, answer_header(header, FrameType::kRefuse),
                         failed_precondition("transfer is bound to another channel"));
    return;
  }
  transfer.channel = &channel;
  transfer.want_header = header;
  transfer.want = std::move(*body);
  heard(channel, header);
  const Status fits = match(transfer);
  if (!fits.ok()) {
    context_.metrics.refused(RefusalCause::kIdentity);
    return end(id, fits, Tell::kRefuse);
  }
  queue(id, transfer);
}

void ReceiveSide::hold(Channel& channel, const FrameHeader& header, WantBody body) {
  Status why;
  if (header.model_fingerprint != context_.model.model_fingerprint) {
    why = unsupported("model fingerprint differs");
  } else if (header.numerics_class != context_.model.numerics_class) {
    why = unsupported("numerics class differs");
  } else if (held_ >= context_.config.max_held_wants) {
    why = resource_exhausted("too many transfers wanted before they are expected");
  }
  if (!why.ok()) {
    context_.metrics.refused(why.code() == Code::kUnsupported ? RefusalCause::kIdentity
                                                              : RefusalCause::kState);
    context_.send_reason(channel, answer_header(header, FrameType::kRefuse), why);
    return bury(header.transfer_id, why);
  }
  Transfer& transfer = transfers_[header.transfer_id];
  transfer.channel = &channel;
  transfer.want_header = header;
  transfer.want = std::move(body);
  transfer.hold_until_ns = context_.now_ns() + context_.config.lease_ns;
  ++held_;
  heard(channel, header);
  context_.metrics.active(Role::kReceiver, transfers_.size());
  context_.wake();
  answer_want(transfer);
}

// GRANT with the credits it has; 0 says that the WANT arrived and waits.
void ReceiveSide::answer_want(Transfer& transfer) {
  FrameHeader grant = answer_header(transfer.want_header, FrameType::kGrant);
  grant.credits = transfer.credits;
  transfer.stats.wire_bytes +=
      context_.send(*transfer.channel, grant, encode_grant({transfer.slot_bytes}));
}

void ReceiveSide::queue(std::uint64_t transfer_id, Transfer& transfer) {
  waiting_.push_back(transfer_id);
  grant_waiting();
  if (transfer.credits == 0) answer_want(transfer);
}

void ReceiveSide::grant_waiting() {
  while (!waiting_.empty()) {
    const auto found = transfers_.find(waiting_.front());
    if (found != transfers_.end() && found->second.credits == 0 && !grant(found->second)) return;
    waiting_.pop_front();
  }
}

// Takes landing slots, as many as there are up to the transfer's share. False: none now.
bool ReceiveSide::grant(Transfer& transfer) {
  const TransferConfig& config = context_.config;
  const std::uint32_t used = promised_ + orphans_;
  if (used >= config.staging_slots) return false;
  const std::uint64_t wanted = std::min<std::uint64_t>(
      {config.credits_per_transfer, config.staging_slots - used, transfer.shape.segments()});
  const std::size_t slot = std::max<std::size_t>(
      std::min<std::size_t>(config.frame_bytes, transfer.shape.largest_layer()),
      transfer.shape.largest_segment());
  while (transfer.free_slots.size() < wanted) {
    Result<Extent> extent = context_.pool.allocate(slot, ExtentClass::kStaging);
    if (!extent.ok()) break;
    transfer.free_slots.push_back(std::move(*extent));
  }
  if (transfer.free_slots.empty()) return false;
  transfer.slot_bytes = static_cast<std::uint32_t>(slot);
  transfer.credits = static_cast<std::uint32_t>(transfer.free_slots.size());
  promised_ += transfer.credits;
  context_.metrics.staging_bytes.add(static_cast<double>(slot * transfer.credits));
  note_usage();
  answer_want(transfer);
  return true;
}

void ReceiveSide::note_usage() { context_.metrics.credits.set(promised_); }

// ---- DATA ----

Result<std::span<std::byte>> ReceiveSide::on_data_header(Channel& channel,
                                                         const FrameHeader& header) {
  Transfer* transfer = find(channel, header);
  if (transfer == nullptr) {
    answer_unknown(channel, header);
    return failed_precondition("no such transfer");
  }
  if (const auto cause = check_data(*transfer, header)) {
    refuse_data(*transfer, header, *cause);
    return failed_precondition(std::string(refusal_name(*cause)));
  }
  const std::uint64_t now = context_.now_ns();
  if (transfer->stats.first_data_ns == 0) transfer->stats.first_data_ns = now;
  Extent slot = std::move(transfer->free_slots.back());
  transfer->free_slots.pop_back();
  transfer->landing.push_back(header.sequence);
  const std::span<std::byte> memory(slot.data(), header.payload_bytes);
  landings_.emplace(memory.data(), Landing{std::move(slot), header.transfer_id, header.sequence,
                                           &channel, now, false});
  return memory;
}

std::optional<RefusalCause> ReceiveSide::check_data(const Transfer& t, const FrameHeader& h) const {
  if (t.credits == 0) return RefusalCause::kState;
  if (!same_identity(t.header, h)) return RefusalCause::kIdentity;
  if (!t.shape.contains(h.layer, h.first_tile, h.tile_count) ||
      h.first_token != t.shape.first_token(h.first_tile) ||
      h.token_count != t.shape.tokens_of(h.first_tile, h.tile_count)) {
    return RefusalCause::kBounds;
  }
  const std::size_t bytes = t.shape.segment_bytes(h.layer, h.first_tile, h.tile_count);
  const bool fits = t.identity.codec->traits().wraps ? h.payload_bytes <= bytes  // see split
                                                     : h.payload_bytes == bytes;
  if (h.payload_bytes > t.slot_bytes || !fits) return RefusalCause::kSize;
  if (all_resident(t, h) || std::count(t.landing.begin(), t.landing.end(), h.sequence) != 0) {
    return RefusalCause::kDuplicate;
  }
  if (t.free_slots.empty()) return RefusalCause::kCredits;
  return std::nullopt;
}

bool ReceiveSide::all_resident(const Transfer& t, const FrameHeader& h) const {
  for (std::uint32_t tile = h.first_tile; tile < h.first_tile + h.tile_count; ++tile) {
    if (!t.resident[t.shape.index(h.layer, tile)]) return false;
  }
  return true;
}

void ReceiveSide::acknowledge(Transfer& transfer, const FrameHeader& header) {
  FrameHeader ack = transfer.header;
  ack.type = FrameType::kAck;
  ack.sequence = header.sequence;
  ack.attempt = header.attempt;
  transfer.stats.wire_bytes += context_.send(*transfer.channel, ack);
}

// A duplicate of what is resident is acknowledged, of what is landing ignored: its twin will be
// answered. Everything else is sent again.
void ReceiveSide::refuse_data(Transfer& transfer, const FrameHeader& header, RefusalCause cause) {
  context_.metrics.refused(cause);
  ++transfer.stats.frames_refused;
  if (cause == RefusalCause::kDuplicate) {
    if (all_resident(transfer, header)) acknowledge(transfer, header);
    return;
  }
  FrameHeader nack = transfer.header;
  nack.type = FrameType::kNack;
  nack.sequence = header.sequence;
  nack.attempt = header.attempt;
  nack.code = static_cast<std::uint32_t>(cause == RefusalCause::kCredits ? Code::kResourceExhausted
                                                                         : Code::kDataLoss);
  transfer.stats.wire_bytes += context_.send(*transfer.channel, nack);
}

void ReceiveSide::on_data(Channel& channel, const FrameHeader& header, std::span<std::byte> payload,
                          const Status& status) {
  if (payload.empty()) return;  // refused, and answered, when its header came
  const auto found = landings_.find(payload.data());
  if (found == landings_.end()) return;
  Landing landing = std::move(found->second);
  landings_.erase(found);
  if (landing.orphan) {
    --orphans_;
    landing.slot.release();
    return grant_waiting();
  }
  Transfer& transfer = transfers_.at(landing.transfer_id);
  std::erase(transfer.landing, landing.sequence);
  RefusalCause cause = RefusalCause::kPayloadChecksum;
  Status accepted = status;
  if (accepted.ok()) accepted = accept_segments(transfer, header, payload, cause);
  transfer.free_slots.push_back(std::move(landing.slot));
  if (accepted.ok()) {
    acknowledge(transfer, header);
    return finish_if_whole(landing.transfer_id);
  }
  if (cause == RefusalCause::kLanding) {
    context_.metrics.refused(cause);
    return end(landing.transfer_id, accepted, Tell::kRelease);
  }
  if (channel.open()) refuse_data(transfer, header, cause);
}

// The wire forms of a frame's segments, which say themselves how long they are where the codec
// wraps. kDataLoss unless they are the payload, no more and no less.
Result<std::vector<std::span<const std::byte>>> ReceiveSide::split(
    const Transfer& t, const FrameHeader& h, std::span<const std::byte> payload) const {
  std::vector<std::span<const std::byte>> wires;
  for (std::uint32_t i = 0; i < h.tile_count; ++i) {
    const std::size_t most = t.shape.segment_bytes(h.layer, h.first_tile + i);
    std::size_t bytes = most;
    if (t.identity.codec->traits().wraps) {
      KVF_ASSIGN_OR_RETURN(bytes, codec::wire_bytes(payload));
      if (bytes > most) return data_loss("a wrapped segment is longer than the segment");
    }
    wires.push_back(payload.first(bytes));
    payload = payload.subspan(bytes);
  }
  if (!payload.empty()) return data_loss("bytes behind the last segment of a frame");
  return wires;
}

// A frame is used whole or not at all: its segments count as resident once the last of them is
// unwrapped where it will live, and valid. The digest is of the bytes as they lie there.
Status ReceiveSide::accept_segments(Transfer& t, const FrameHeader& h,
                                    std::span<const std::byte> payload, RefusalCause& cause) {
  cause = RefusalCause::kSegment;
  KVF_ASSIGN_OR_RETURN(const auto wires, split(t, h, payload));
  const std::uint64_t begin_ns = monotonic_ns();
  std::vector<std::span<std::byte>> homes(h.tile_count);
  for (std::uint32_t i = 0; i < h.tile_count; ++i) {
    const std::uint32_t tile = h.first_tile + i;
    if (t.resident[t.shape.index(h.layer, tile)]) continue;
    homes[i] = t.callbacks.land(h.layer, tile);
    if (homes[i].size() != t.shape.segment_bytes(h.layer, tile)) {
      cause = RefusalCause::kLanding;
      return resource_exhausted("no memory to land layer " + std::to_string(h.layer) + " tile " +
                                std::to_string(tile));
    }
    KVF_RETURN_IF_ERROR(t.identity.codec->unwrap(t.identity.geometry, h.layer, tile,
                                                 t.shape.tokens_of(tile), wires[i], homes[i]));
  }
  if (t.identity.codec->traits().wraps) {
    context_.metrics.unwrap_seconds.add(static_cast<double>(monotonic_ns() - begin_ns) * 1e-9);
  }
  for (std::uint32_t i = 0; i < h.tile_count; ++i) {
    if (homes[i].empty()) continue;
    t.digest.add(h.layer, h.first_tile + i, homes[i]);
    t.resident[t.shape.index(h.layer, h.first_tile + i)] = true;
    --t.missing;
    t.stats.payload_bytes += wires[i].size();
  }
  t.stats.last_data_ns = context_.now_ns();
  context_.metrics.moved(Direction::kReceived, t.identity.codec->spec(), payload.size(),
                         t.shape.raw_bytes(h.token_count));
  return ok_status();
}

// ---- the end ----

void ReceiveSide::on_commit(Channel& channel, const FrameHeader& header,
                            std::span<const std::byte> payload) {
  Transfer* transfer = find(channel, header);
  if (transfer == nullptr) return answer_unknown(channel, header);
  if (transfer->credits == 0) return context_.metrics.refused(RefusalCause::kState);
  if (!same_identity(transfer->header, header)) {
    return context_.metrics.refused(RefusalCause::kIdentity);
  }
  if (transfer->commit.has_value()) return;  // sent again; the answer is on its way
  Result<CommitBody> body = decode_commit(payload);
  if (!body.ok()) return context_.metrics.refused(RefusalCause::kBadBody);
  transfer->commit = std::move(*body);
  finish_if_whole(header.transfer_id);
}

void ReceiveSide::finish_if_whole(std::uint64_t transfer_id) {
  Transfer& t = transfers_.at(transfer_id);
  if (t.missing != 0 || !t.commit.has_value()) return;
  if (t.commit->digest != t.digest.value() || t.commit->payload_bytes != t.stats.payload_bytes) {
    return end(transfer_id, data_loss("the commit's digest is not that of what landed"),
               Tell::kRelease);
  }
  FrameHeader ack = t.header;
  ack.type = FrameType::kCommitAck;
  t.stats.wire_bytes += context_.send(*t.channel, ack);
  t.stats.prefill = t.commit->timings;
  context_.metrics.data_seconds.observe(
      static_cast<double>(t.stats.last_data_ns - t.stats.first_data_ns) * 1e-9);
  end(transfer_id, ok_status(), Tell::kNothing);
}

void ReceiveSide::on_release(Channel& channel, const FrameHeader& header,
                             const std::string& reason) {
  if (find(channel, header) == nullptr) return;
  end(header.transfer_id, status_from_wire(header.code, reason), Tell::kNothing);
}

void ReceiveSide::on_closed(Channel& channel, const Status& why) {
  std::vector<std::uint64_t> lost;
  for (const auto& [id, transfer] : transfers_) {
    if (transfer.channel == &channel) lost.push_back(id);
  }
  const Status status = unavailable("channel closed: " + why.to_string());
  for (const std::uint64_t id : lost) {
    if (transfers_.contains(id)) end(id, status, Tell::kNothing);
  }
}

// The only exit: gives the slots back, remembers the outcome, tells the peer, then the caller.
void ReceiveSide::end(std::uint64_t transfer_id, const Status& outcome, Tell tell) {
  const auto found = transfers_.find(transfer_id);
  Transfer transfer = std::move(found->second);
  transfers_.erase(found);
  if (transfer.channel != nullptr && !transfer.expected) --held_;
  release_slots(transfer, transfer_id);
  bury(transfer_id, outcome);
  if (transfer.channel != nullptr && transfer.channel->open() && tell != Tell::kNothing) {
    const auto type = tell == Tell::kRefuse ? FrameType::kRefuse : FrameType::kRelease;
    context_.send_reason(*transfer.channel, answer_header(transfer.want_header, type), outcome);
  }
  context_.metrics.active(Role::kReceiver, transfers_.size());
  context_.metrics.finished(Role::kReceiver, outcome.code());
  grant_waiting();
  if (outcome.ok()) {
    transfer.callbacks.complete(std::move(transfer.commit->first_tokens), transfer.stats);
  } else if (transfer.callbacks.failed) {
    transfer.callbacks.failed(outcome);
  }
}

void ReceiveSide::release_slots(Transfer& transfer, std::uint64_t transfer_id) {
  if (transfer.credits == 0) return;
  promised_ -= transfer.credits;
  context_.metrics.staging_bytes.add(-static_cast<double>(transfer.slot_bytes) * transfer.credits);
  if (!transfer.landing.empty()) {
    for (auto& [memory, landing] : landings_) {
      if (landing.transfer_id == transfer_id) orphan(landing);
    }
  }
  transfer.free_slots.clear();
  note_usage();
}

// A receive into the slot is posted and cannot be taken back: the slot is quarantined until it has
// completed, which a channel that closes makes it do.
void ReceiveSide::orphan(Landing& landing) {
  if (landing.orphan) return;
  landing.orphan = true;
  landing.slot.quarantine();
  ++orphans_;
}

void ReceiveSide::bury(std::uint64_t transfer_id, const Status& outcome) {
  const std::uint64_t now = context_.now_ns();
  while (!graves_.empty()) {
    const auto oldest = tombstones_.find(graves_.front());
    if (graves_.size() < context_.config.max_tombstones && oldest->second.until_ns > now) break;
    tombstones_.erase(oldest);
    graves_.pop_front();
  }
  if (tombstones_.emplace(transfer_id, Tombstone{outcome, now + context_.config.lease_ns}).second) {
    graves_.push_back(transfer_id);
  }
}

}  // namespace kvferry::transport

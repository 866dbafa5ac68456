#include "transport/send_side.h"

#include <algorithm>
#include <cstring>

namespace kvferry::transport {

// ---- the interface ----

Status SendSide::open(const TransferIdentity& identity, const std::string& receiver_address,
                      std::uint64_t deadline_ns, SendCallbacks callbacks) {
  KVF_RETURN_IF_ERROR(validate(identity));
  if (identity.model_fingerprint != context_.model.model_fingerprint ||
      identity.numerics_class != context_.model.numerics_class) {
    return failed_precondition("the transfer's model or numerics class is not this process's");
  }
  if (identity.codec->spec().size() > kMaxSpecBytes) {
    return invalid_argument("codec spec is longer than a WANT carries");
  }
  const std::uint64_t now = context_.now_ns();
  if (deadline_ns <= now) return deadline_exceeded("the transfer's deadline has passed");
  if (transfers_.contains(identity.transfer_id)) {
    return failed_precondition("transfer is open already");
  }
  KVF_ASSIGN_OR_RETURN(std::shared_ptr<Channel> channel, context_.connect(receiver_address));
  Transfer& transfer = transfers_[identity.transfer_id];
  transfer.identity = identity;
  transfer.shape = TransferShape(identity);
  transfer.header = identity_header(identity, FrameType::kWant);
  transfer.channel = std::move(channel);
  transfer.callbacks = std::move(callbacks);
  transfer.opened_ns = now;
  transfer.deadline_ns = deadline_ns;
  transfer.lease_until_ns = now + context_.config.lease_ns;
  transfer.pushed.assign(transfer.shape.segments(), false);
  transfer.to_push = transfer.shape.segments();
  context_.metrics.active(Role::kSender, transfers_.size());
  context_.wake();
  send_want(transfer);
  return ok_status();
}

void SendSide::push(std::uint64_t transfer_id, std::uint32_t layer, std::uint32_t first_tile,
                    std::vector<OutgoingSegment> segments) {
  Transfer* t = find_open(transfer_id);
  if (t == nullptr) return;
  const Status fits = check_push(*t, layer, first_tile, segments);
  if (!fits.ok()) return end(*t, fits, true);
  for (std::uint32_t i = 0; i < segments.size(); ++i) {
    t->digest.add(layer, first_tile + i, segments[i].segment);
    t->pushed[t->shape.index(layer, first_tile + i)] = true;
    --t->to_push;
    t->payload_bytes += segments[i].wire.size();
    t->queue.push_back({layer, first_tile + i, segments[i].wire});
  }
  pump(*t);
}

Status SendSide::check_push(const Transfer& t, std::uint32_t layer, std::uint32_t first_tile,
                            const std::vector<OutgoingSegment>& segments) const {
  if (t.commit.has_value()) return failed_precondition("segments pushed after commit");
  if (segments.size() > t.shape.tiles() ||
      !t.shape.contains(layer, first_tile, static_cast<std::uint32_t>(segments.size()))) {
    return invalid_argument("segments pushed outside the transfer");
  }
  for (std::uint32_t i = 0; i < segments.size(); ++i) {
    const std::uint32_t tile = first_tile + i;
    const std::size_t bytes = t.shape.segment_bytes(layer, tile);
    const std::size_t wire = segments[i].wire.size();
    if (segments[i].segment.size() != bytes || wire == 0 || wire > bytes ||
        (wire < bytes && !t.identity.codec->traits().wraps)) {
      return invalid_argument(
          "segment of layer " + std::to_string(layer) + " tile " + std::to_string(tile) + " has " +
          std::to_string(segments[i].segment.size()) + " bytes, " + std::to_string(wire) +
          " to send; its codec says " + std::to_string(bytes));
    }
    if (t.pushed[t.shape.index(layer, tile)]) return invalid_argument("segment pushed twice");
  }
  return ok_status();
}

void SendSide::commit(std::uint64_t transfer_id, FirstTokens first_tokens,
                      const TransferTimings& timings) {
  Transfer* t = find_open(transfer_id);
  if (t == nullptr) return;
  if (t->commit.has_value()) return end(*t, failed_precondition("committed twice"), true);
  if (t->to_push != 0) {
    return end(*t, failed_precondition("committed before every segment was pushed"), true);
  }
  if (first_tokens.choices.empty() || first_tokens.choices.size() > kMaxChoices ||
      first_tokens.top.size() > kMaxTopTokens) {
    return end(*t, invalid_argument("commit without first tokens, or with too many"), true);
  }
  CommitBody body;
  body.digest = t->digest.value();
  body.payload_bytes = t->payload_bytes;
  body.timings = timings;
  body.first_tokens = std::move(first_tokens);
  t->commit = std::move(body);
  pump(*t);
}

void SendSide::cancel(std::uint64_t transfer_id, const Status& why) {
  Transfer* t = find_open(transfer_id);
  if (t == nullptr) return;
  end(*t, why.ok() ? cancelled("the sender gave the transfer up") : why, true);
}

void SendSide::abandon() {
  alive_.reset();
  transfers_.clear();
}

// ---- lookups ----

SendSide::Transfer* SendSide::find_open(std::uint64_t transfer_id) {
  const auto found = transfers_.find(transfer_id);
  if (found == transfers_.end() || found->second.state == State::kOver) return nullptr;
  return &found->second;
}

SendSide::Transfer* SendSide::find(Channel& channel, const FrameHeader& header) {
  Transfer* t = find_open(header.transfer_id);
  return t != nullptr && t->channel.get() == &channel ? t : nullptr;
}

// ---- frames ----

void SendSide::send_want(Transfer& t) {
  FrameHeader want = t.header;
  want.type = FrameType::kWant;
  const WantBody body{t.identity.tokens, t.identity.codec->tile_tokens(), t.identity.geometry,
                      t.identity.codec->spec()};
  t.quiet_since_ns = context_.now_ns();
  context_.send(*t.channel, want, encode_want(body));
}

void SendSide::send_commit(Transfer& t) {
  FrameHeader header = t.header;
  header.type = FrameType::kCommit;
  t.commit->frames = t.next_sequence;
  t.commit_sent = true;
  t.quiet_since_ns = context_.now_ns();
  context_.send(*t.channel, header, encode_commit(*t.commit));
}

void SendSide::on_answer(Channel& channel, const FrameHeader& header,
                         std::span<const std::byte> payload, const Status& status) {
  Transfer* t = find(channel, header);
  if (t == nullptr) {
    // Late answers to a transfer that is over are normal, but a grant would hold memory for it.
    if (header.type == FrameType::kGrant && !transfers_.contains(header.transfer_id)) {
      context_.metrics.refused(RefusalCause::kUnknownTransfer);
      context_.send_reason(channel, answer_header(header, FrameType::kRelease),
                           cancelled("the sender gave the transfer up"));
    }
    return;
  }
  // RELEASE in answer to a beat knows the transfer's id only, and can do no more than end it.
  if (header.type != FrameType::kRelease && !same_identity(t->header, header)) {
    return context_.metrics.refused(RefusalCause::kIdentity);
  }
  const std::uint64_t now = context_.now_ns();
  t->lease_until_ns = std::max(t->lease_until_ns, now + context_.config.lease_ns);
  t->quiet_since_ns = now;
  switch (header.type) {
    case FrameType::kGrant:
      return status.ok() ? on_grant(*t, header, payload) : void();
    case FrameType::kAck:
      return on_ack(*t, header);
    case FrameType::kNack:
      return on_nack(*t, header);
    case FrameType::kCommitAck:
      return t->commit_sent ? end(*t, ok_status(), true) : void();
    default:  // kRefuse, kRelease: the code is in the header, so a damaged text changes nothing
      return end(*t, status_from_wire(header.code, status.ok() ? decode_reason(payload) : ""),
                 false);
  }
}

void SendSide::on_grant(Transfer& t, const FrameHeader& header,
                        std::span<const std::byte> payload) {
  if (t.state == State::kGranted) return;
  const Result<GrantBody> body = decode_grant(payload);
  if (!body.ok()) return context_.metrics.refused(RefusalCause::kBadBody);
  if (header.credits == 0) {
    t.state = State::kWaiting;
    return;
  }
  if (body->max_frame_bytes < t.shape.largest_segment()) {
    return end(t, unsupported("the receiver's slots are shorter than a segment"), true);
  }
  t.state = State::kGranted;
  t.credits = header.credits;
  t.frame_bytes = std::min(
      body->max_frame_bytes,
      std::max(context_.config.frame_bytes, static_cast<std::uint32_t>(t.shape.largest_segment())));
  pump(t);
  if (t.callbacks.granted) {
    const auto granted = t.callbacks.granted;  // may end the transfer
    granted();
  }
}

void SendSide::drop_credit(Transfer& t, std::uint32_t sequence, Frame& frame) {
  if (frame.in_flight) {
    frame.in_flight = false;
    --t.in_flight;
  } else {
    std::erase(t.again, sequence);
  }
}

void SendSide::on_ack(Transfer& t, const FrameHeader& header) {
  const auto found = t.frames.find(header.sequence);
  if (found == t.frames.end()) return;  // acknowledged before
  Frame& frame = found->second;
  drop_credit(t, header.sequence, frame);
  context_.metrics.moved(Direction::kSent, t.identity.codec->spec(), frame.bytes,
                         t.shape.raw_bytes(t.shape.tokens_of(
                             frame.first_tile, static_cast<std::uint32_t>(frame.segments.size()))));
  t.frames.erase(found);
  pump(t);
}

void SendSide::on_nack(Transfer& t, const FrameHeader& header) {
  const auto found = t.frames.find(header.sequence);
  if (found == t.frames.end()) return;
  Frame& frame = found->second;
  if (header.attempt != frame.attempt || !frame.in_flight) return;  // of an attempt given up before
  if (frame.attempt >= context_.config.max_resends) {
    return end(t,
               data_loss("frame " + std::to_string(header.sequence) + " was refused " +
                         std::to_string(frame.attempt + 1) + " times"),
               true);
  }
  drop_credit(t, header.sequence, frame);
  ++frame.attempt;
  t.again.push_back(header.sequence);
  context_.metrics.resent(FrameType::kData);
  pump(t);
}

// ---- sending ----

void SendSide::pump(Transfer& t) {
  if (t.state != State::kGranted) return;
  while (t.in_flight < t.credits && send_next(t)) {
  }
  if (t.commit.has_value() && !t.commit_sent && t.queue.empty()) send_commit(t);
}

bool SendSide::send_next(Transfer& t) {
  if (!t.again.empty()) {
    const std::uint32_t sequence = t.again.front();
    Frame& frame = t.frames.at(sequence);
    if (!send_frame(t, sequence, frame)) return false;
    t.again.pop_front();
    frame.in_flight = true;
    ++t.in_flight;
    return true;
  }
  if (t.queue.empty()) return false;
  Frame frame = next_frame(t);
  if (!send_frame(t, t.next_sequence, frame)) return false;
  t.queue.erase(t.queue.begin(),
                t.queue.begin() + static_cast<std::ptrdiff_t>(frame.segments.size()));
  frame.in_flight = true;
  ++t.in_flight;
  t.frames.emplace(t.next_sequence++, std::move(frame));
  return true;
}

// The longest run of tiles of one layer at the head of the queue that fits a frame.
SendSide::Frame SendSide::next_frame(const Transfer& t) const {
  Frame frame;
  frame.layer = t.queue.front().layer;
  frame.first_tile = t.queue.front().tile;
  for (const Segment& segment : t.queue) {
    const bool next =
        segment.layer == frame.layer && segment.tile == frame.first_tile + frame.segments.size();
    if (!next || frame.bytes + segment.bytes.size() > t.frame_bytes) break;
    frame.segments.push_back(segment.bytes);
    frame.bytes += segment.bytes.size();
  }
  return frame;
}

bool SendSide::send_frame(Transfer& t, std::uint32_t sequence, Frame& frame) {
  std::span<const std::byte> payload(frame.segments.front().data(), frame.bytes);
  bool contiguous = true;
  for (std::size_t i = 1; i < frame.segments.size(); ++i) {
    const auto& before = frame.segments[i - 1];
    contiguous = contiguous && before.data() + before.size() == frame.segments[i].data();
  }
  std::shared_ptr<Extent> gathered;
  if (!contiguous) {
    if (gathered_ >= context_.config.gather_slots) return false;
    Result<Extent> extent = context_.pool.allocate(frame.bytes, ExtentClass::kStaging);
    if (!extent.ok()) return false;  // the next completed send or tick tries again
    gathered = std::make_shared<Extent>(std::move(*extent));
    std::byte* to = gathered->data();
    for (const auto& segment : frame.segments) {
      std::memcpy(to, segment.data(), segment.size());
      to += segment.size();
    }
    payload = {gathered->data(), frame.bytes};
    ++gathered_;
    context_.metrics.staging_bytes.add(static_cast<double>(frame.bytes));
  }
  FrameHeader header = t.header;
  header.type = FrameType::kData;
  header.layer = frame.layer;
  header.first_tile = frame.first_tile;
  header.tile_count = static_cast<std::uint32_t>(frame.segments.size());
  header.first_token = t.shape.first_token(frame.first_tile);
  header.token_count = t.shape.tokens_of(frame.first_tile, header.tile_count);
  header.sequence = sequence;
  header.attempt = frame.attempt;
  ++frame.sends_in_flight;
  ++t.sends_in_flight;
  t.quiet_since_ns = context_.now_ns();
  const std::weak_ptr<bool> alive = alive_;
  auto done = [this, alive, gathered, id = t.identity.transfer_id, sequence](const Status&) {
    if (alive.expired()) return;
    if (gathered != nullptr) {
      --gathered_;
      context_.metrics.staging_bytes.add(-static_cast<double>(gathered->size()));
      gathered->release();
    }
    send_done(id, sequence);
  };
  context_.send_payload(*t.channel, header, payload, std::move(done));
  return true;
}

// The transport has let go of one payload. An error is the channel's, which on_closed reports.
void SendSide::send_done(std::uint64_t transfer_id, std::uint32_t sequence) {
  Transfer& t = transfers_.at(transfer_id);
  --t.sends_in_flight;
  if (t.state == State::kOver) {
    if (t.sends_in_flight == 0) finish(transfer_id);
    return;
  }
  t.quiet_since_ns = context_.now_ns();
  const auto frame = t.frames.find(sequence);
  if (frame != t.frames.end()) --frame->second.sends_in_flight;
  pump(t);
}

// ---- time ----

void SendSide::retransmit(Transfer& t) {
  t.quiet_since_ns = context_.now_ns();
  if (t.state != State::kGranted) {
    context_.metrics.resent(FrameType::kWant);
    return send_want(t);
  }
  for (auto& [sequence, frame] : t.frames) {
    if (!frame.in_flight || frame.sends_in_flight != 0) continue;
    if (frame.attempt >= context_.config.max_resends) continue;  // the lease or deadline decides
    ++frame.attempt;
    context_.metrics.resent(FrameType::kData);
    if (!send_frame(t, sequence, frame)) --frame.attempt;
  }
  if (t.commit_sent) {
    context_.metrics.resent(FrameType::kCommit);
    send_commit(t);
  }
}

void SendSide::tick() {
  const std::uint64_t now = context_.now_ns();
  for (auto& [id, t] : transfers_) {
    if (t.state == State::kOver) {
      if (now - t.over_since_ns > context_.config.drain_ns) t.channel->close();
    } else if (now >= t.deadline_ns) {
      end(t, deadline_exceeded("the transfer did not complete in time"), true);
    } else if (now >= t.lease_until_ns) {
      context_.metrics.lease_expired(Role::kSender);
      end(t, unavailable("lease expired: nothing heard from the receiver"), true);
    } else if (time_check(t, now)) {
      retransmit(t);
    } else {
      pump(t);
    }
  }
}

// Whether an answer is overdue. A receiver that said "wait" is reminded at the pace of the beats.
bool SendSide::time_check(Transfer& t, std::uint64_t now) {
  const std::uint64_t quiet = now - t.quiet_since_ns;
  if (t.state == State::kWaiting) {
    return quiet >= std::max(context_.config.beat_ns, context_.config.retransmit_ns);
  }
  const bool waiting = t.state == State::kWanting || t.in_flight != 0 || t.commit_sent;
  return waiting && quiet >= context_.config.retransmit_ns;
}

void SendSide::on_beat(Channel& channel, const FrameHeader& header,
                       std::span<const std::uint64_t> ids) {
  const std::uint64_t until = context_.now_ns() + context_.config.lease_extend_ns;
  for (const std::uint64_t id : ids) {
    FrameHeader named = header;
    named.transfer_id = id;
    if (Transfer* t = find(channel, named)) {
      t->lease_until_ns = std::max(t->lease_until_ns, until);
    } else if (!transfers_.contains(id)) {
      context_.send_reason(channel, answer_header(named, FrameType::kRelease),
                           not_found("the sender holds no such transfer"));
    }
  }
}

// Only transfers that the receiver answered: a beat that overtakes its WANT would end it.
void SendSide::held(std::map<Channel*, std::vector<std::uint64_t>>& by_channel) const {
  for (const auto& [id, t] : transfers_) {
    if (t.state == State::kWaiting || t.state == State::kGranted) {
      by_channel[t.channel.get()].push_back(id);
    }
  }
}

// ---- the end ----

// The transfer is over, and the peer is told unless it knows; the caller is told once no send uses
// its memory, and never inside a call of its own.
void SendSide::end(Transfer& t, const Status& outcome, bool tell) {
  t.state = State::kOver;
  t.outcome = outcome;
  t.over_since_ns = context_.now_ns();
  t.queue.clear();
  t.frames.clear();
  t.again.clear();
  if (tell && t.channel->open()) {
    FrameHeader release = t.header;
    release.type = FrameType::kRelease;
    context_.send_reason(*t.channel, release, outcome);
  }
  const std::weak_ptr<bool> alive = alive_;
  context_.timers.after(0, [this, alive, id = t.identity.transfer_id] {
    if (!alive.expired()) finish(id);
  });
}

void SendSide::finish(std::uint64_t transfer_id) {
  const auto found = transfers_.find(transfer_id);
  if (found == transfers_.end() || found->second.state != State::kOver ||
      found->second.sends_in_flight != 0) {
    return;
  }
  const Transfer t = std::move(found->second);
  transfers_.erase(found);
  context_.metrics.active(Role::kSender, transfers_.size());
  context_.metrics.finished(Role::kSender, t.outcome.code());
  if (t.outcome.ok()) {
    context_.metrics.sender_seconds.observe(static_cast<double>(context_.now_ns() - t.opened_ns) *
                                            1e-9);
    if (t.callbacks.acknowledged) t.callbacks.acknowledged();
  } else if (t.callbacks.failed) {
    t.callbacks.failed(t.outcome);
  }
}

void SendSide::on_closed(Channel& channel, const Status& why) {
  for (auto& [id, t] : transfers_) {
    if (t.channel.get() != &channel || t.state == State::kOver) continue;
    end(t, unavailable("channel closed: " + why.to_string()), false);
  }
}

}  // namespace kvferry::transport

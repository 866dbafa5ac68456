#include "transport/nccl_channel.h"

#include <utility>

#include "base/log.h"
#include "transport/nccl_transport.h"

namespace kvferry::transport {
namespace {

// More announcements than credits allow anybody: a peer that sends more is broken.
constexpr std::size_t kMaxAsked = 4096;

}  // namespace

// ---- the communicator ----

Status NcclChannel::offer(std::uint32_t epoch) {
  KVF_ASSIGN_OR_RETURN(const NcclApi::Id id, transport_.api().unique_id());
  start_comm(id, 0, epoch);
  KVF_RETURN_IF_ERROR(why_);
  tell(LinkKind::kOffer, 0, nullptr, &id);
  return ok_status();
}

void NcclChannel::start_comm(const NcclApi::Id& id, int rank, std::uint32_t epoch) {
  const Result<NcclApi::Comm> comm = transport_.api().init(id, rank);
  if (!comm.ok()) return fail(comm.status().with_context("making a communicator"));
  comm_ = *comm;
  comm_since_ns_ = transport_.now_ns();
  epoch_ = epoch;
  transport_.look_soon();
}

bool NcclChannel::wait_for_comm() {
  if (!comm_ || comm_ready_) return false;
  const Result<bool> ready = transport_.api().ready(*comm_);
  if (!ready.ok()) {
    fail(ready.status().with_context("making a communicator"));
  } else if (*ready) {
    comm_ready_ = true;
    log_info("transport", "communicator " + std::to_string(epoch_) + " is there, " + peer());
  } else if (transport_.now_ns() - comm_since_ns_ > transport_.config().init_ns) {
    fail(unavailable("the peer did not join the communicator in time"));
  } else {
    return false;
  }
  return true;
}

// ---- what the ends tell each other ----

void NcclChannel::tell(LinkKind kind, std::uint64_t index, const FrameHeader* header,
                       const NcclApi::Id* id) {
  if (inner_ == nullptr) return;
  LinkBody body;
  body.kind = kind;
  body.epoch = epoch_;
  body.index = index;
  if (header != nullptr) body.header = *header;
  if (id != nullptr) body.id = *id;
  const auto payload = std::make_shared<std::vector<std::byte>>(encode_link(body));
  FrameHeader link;
  link.type = FrameType::kLink;
  seal(link, *payload);
  inner_->send(link, *payload, [payload](const Status&) {});
}

void NcclChannel::linked(std::span<const std::byte> payload) {
  const Result<LinkBody> body = decode_link(payload);
  if (!body.ok()) return fail(body.status());
  if (body->kind == LinkKind::kOffer) {
    if (connector_ || comm_) return fail(data_loss("an OFFER where there is a communicator"));
    return start_comm(body->id, 1, body->epoch);
  }
  if (body->epoch != epoch_) return;  // of a communicator that is gone
  if (body->kind == LinkKind::kAnnounce) {
    announced(body->index, body->header);
  } else {
    answered(*body);
  }
  transport_.look_soon();
}

void NcclChannel::announced(std::uint64_t index, const FrameHeader& header) {
  if (connector_ || index < next_answer_ || asked_.size() >= kMaxAsked ||
      !asked_.emplace(index, header).second) {
    fail(data_loss("an ANNOUNCE out of turn"));
  }
}

void NcclChannel::answered(const LinkBody& body) {
  const std::uint64_t at = body.index - first_;
  if (!connector_ || body.index < first_ || at >= announced_ || outgoing_[at].answer) {
    return fail(data_loss("an answer to no announcement"));
  }
  outgoing_[at].answer = body.kind;
}

// ---- sending ----

void NcclChannel::send(const FrameHeader& header, std::span<const std::byte> payload,
                       std::function<void(Status)> done) {
  if (open() && header.type != FrameType::kData) {
    return inner_->send(header, payload, std::move(done));
  }
  if (open() && !connector_) fail(invalid_argument("DATA from the side that did not connect"));
  if (open()) {
    Outgoing frame;
    frame.header = header;
    frame.payload = payload;
    frame.done = std::move(done);
    outgoing_.push_back(std::move(frame));
  } else {
    completed_.emplace_back(std::move(done), why_.ok() ? unavailable("channel is closed") : why_);
  }
  transport_.look_soon();
}

bool NcclChannel::announce() {
  if (!comm_ready_) return false;
  const std::size_t before = announced_;
  for (; announced_ < outgoing_.size(); ++announced_) {
    tell(LinkKind::kAnnounce, first_ + announced_, &outgoing_[announced_].header);
  }
  return announced_ != before;
}

// In order of the announcements, as the receiver posts its half.
bool NcclChannel::post_sends() {
  const std::size_t before = posted_;
  for (; open() && posted_ < announced_ && outgoing_[posted_].answer; ++posted_) {
    Outgoing& frame = outgoing_[posted_];
    if (*frame.answer == LinkKind::kSkip) continue;
    const Result<NcclApi::Operation> operation = transport_.api().send(*comm_, frame.payload);
    if (!operation.ok()) {
      fail(operation.status().with_context("sending"));
      break;
    }
    frame.operation = *operation;
    frame.since_ns = transport_.now_ns();
  }
  return posted_ != before;
}

bool NcclChannel::finish_sends() {
  bool moved = false;
  while (open() && posted_ > 0) {
    Outgoing& frame = outgoing_.front();
    if (frame.operation) {
      if (!ended(*frame.operation, frame.since_ns)) break;
      transport_.api().forget(*frame.operation);
    }
    completed_.emplace_back(std::move(frame.done), ok_status());
    outgoing_.pop_front();
    ++first_;
    --announced_;
    --posted_;
    moved = true;
  }
  return moved;
}

bool NcclChannel::ended(NcclApi::Operation operation, std::uint64_t since_ns) {
  const Result<bool> finished = transport_.api().finished(*comm_, operation);
  if (!finished.ok()) {
    fail(finished.status());
    return false;
  }
  if (*finished) return true;
  if (transport_.now_ns() - since_ns > transport_.config().operation_ns) {
    fail(unavailable("the peer did not take part in a transfer in time"));
  }
  return false;
}

// ---- receiving ----

bool NcclChannel::ask_for_announced() {
  bool moved = false;
  while (open() && comm_ready_ && !asked_.empty() && asked_.begin()->first == next_answer_) {
    const FrameHeader header = asked_.begin()->second;
    asked_.erase(asked_.begin());
    ask_for(header);
    ++next_answer_;
    moved = true;
  }
  return moved;
}

void NcclChannel::ask_for(const FrameHeader& header) {
  FrameHandler* const handler = transport_.handler();
  if (handler == nullptr) return tell(LinkKind::kSkip, next_answer_);
  Status status = check_header(header);
  if (status.ok() && header.type != FrameType::kData) status = data_loss("announced is no DATA");
  if (!status.ok()) {
    tell(LinkKind::kSkip, next_answer_);
    return handler->on_bad_header(*this, status);
  }
  const Result<std::span<std::byte>> landing = handler->on_header(*this, header);
  if (!landing.ok()) {
    tell(LinkKind::kSkip, next_answer_);
    return handler->on_frame(*this, header, {}, landing.status());
  }
  const Result<NcclApi::Operation> operation =
      transport_.api().receive(*comm_, header.payload_bytes);
  if (!operation.ok()) {
    const Status why = operation.status().with_context("receiving");
    handler->on_frame(*this, header, *landing, why);
    return fail(why);
  }
  incoming_.push_back({header, *landing, *operation, transport_.now_ns()});
  tell(LinkKind::kReady, next_answer_);
}

bool NcclChannel::finish_receives() {
  bool moved = false;
  while (open() && !incoming_.empty() &&
         ended(incoming_.front().operation, incoming_.front().since_ns)) {
    const Incoming frame = incoming_.front();
    incoming_.pop_front();
    transport_.api().take(frame.operation, frame.landing);
    moved = true;
    if (FrameHandler* const handler = transport_.handler()) {
      handler->on_frame(*this, frame.header, frame.landing,
                        check_payload(frame.header, frame.landing));
    }
  }
  return moved;
}

// ---- progress and end ----

bool NcclChannel::progress() {
  bool moved = wait_for_comm();
  if (open()) {
    moved |= announce();
    moved |= ask_for_announced();
    moved |= post_sends();
    moved |= finish_sends();
    moved |= finish_receives();
  }
  if (!why_.ok()) give_up_frames();
  return complete() || moved;
}

bool NcclChannel::complete() {
  const auto completed = std::exchange(completed_, {});
  for (const auto& [done, status] : completed) {
    if (done) done(status);
  }
  return !completed.empty();
}

bool NcclChannel::busy() const {
  return (comm_ && !comm_ready_) || !outgoing_.empty() || !incoming_.empty() || !asked_.empty() ||
         !completed_.empty();
}

void NcclChannel::fail(const Status& why) {
  if (!why_.ok()) return;
  why_ = why;
  if (comm_) transport_.abort(*comm_);
  comm_.reset();
  comm_ready_ = false;
  if (inner_ != nullptr) inner_->close();
  transport_.look_soon();
}

void NcclChannel::give_up_frames() {
  for (Outgoing& frame : outgoing_) completed_.emplace_back(std::move(frame.done), why_);
  outgoing_.clear();
  announced_ = posted_ = 0;
  asked_.clear();
  const std::deque<Incoming> incoming = std::exchange(incoming_, {});
  for (const Incoming& frame : incoming) {
    if (FrameHandler* const handler = transport_.handler()) {
      handler->on_frame(*this, frame.header, frame.landing, why_);
    }
  }
}

void NcclChannel::inner_closed(const Status& why) {
  inner_ = nullptr;
  fail(why);
  give_up_frames();
  (void)complete();
  if (FrameHandler* const handler = transport_.handler()) {
    handler->on_closed(shared_from_this(), why_);
  }
}

}  // namespace kvferry::transport

// Prefill's side of the transfer protocol: gathers segments into frames, keeps as many in flight as
// there are credits, and sends again what was refused or lost. Internal to transport/; used through
// TransferHub.
//
// Memory: a frame whose segments lie one behind the other is sent from where they lie; others are
// gathered into an extent of class kStaging that lives until the transport has taken the frame.
//
// Thread contract: the reactor's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "transport/bodies.h"
#include "transport/hub_context.h"
#include "transport/kv_transfer.h"
#include "transport/transfer_shape.h"

namespace kvferry::transport {

class SendSide : public KvSender {
 public:
  explicit SendSide(HubContext& context) : context_(context) {}

  Status open(const TransferIdentity& identity, const std::string& receiver_address,
              std::uint64_t deadline_ns, SendCallbacks callbacks) override;
  void push(std::uint64_t transfer_id, std::uint32_t layer, std::uint32_t first_tile,
            std::vector<OutgoingSegment> segments) override;
  void commit(std::uint64_t transfer_id, FirstTokens first_tokens,
              const TransferTimings& timings) override;
  void cancel(std::uint64_t transfer_id, const Status& why) override;
  std::size_t active() const override { return transfers_.size(); }

  // Frames of the types that a sender gets.
  void on_answer(Channel& channel, const FrameHeader& header, std::span<const std::byte> payload,
                 const Status& status);
  void on_beat(Channel& channel, const FrameHeader& header, std::span<const std::uint64_t> ids);
  void on_closed(Channel& channel, const Status& why);

  void tick();
  bool idle() const { return transfers_.empty(); }
  void held(std::map<Channel*, std::vector<std::uint64_t>>& by_channel) const;
  // Drops every transfer without a callback; for the hub's destructor.
  void abandon();

 private:
  enum class State { kWanting, kWaiting, kGranted, kOver };
  struct Segment {
    std::uint32_t layer = 0;
    std::uint32_t tile = 0;
    std::span<const std::byte> bytes;
  };
  struct Frame {  // sent and not acknowledged
    std::uint32_t layer = 0;
    std::uint32_t first_tile = 0;
    std::vector<std::span<const std::byte>> segments;
    std::size_t bytes = 0;
    std::uint32_t attempt = 0;
    std::uint32_t sends_in_flight = 0;
    bool in_flight = false;  // holds a credit; otherwise waits in `again`
  };
  struct Transfer {
    TransferIdentity identity;
    TransferShape shape;
    FrameHeader header;  // identity fields
    std::shared_ptr<Channel> channel;
    SendCallbacks callbacks;
    State state = State::kWanting;
    std::uint64_t opened_ns = 0;
    std::uint64_t deadline_ns = 0;
    std::uint64_t lease_until_ns = 0;
    std::uint64_t quiet_since_ns = 0;  // last frame heard, sent or taken by the transport
    std::uint32_t credits = 0;
    std::uint32_t frame_bytes = 0;  // longest payload to send
    std::vector<bool> pushed;       // by TransferShape::index
    std::uint64_t to_push = 0;
    std::deque<Segment> queue;
    std::map<std::uint32_t, Frame> frames;  // by sequence
    std::deque<std::uint32_t> again;        // sequences to send again, credit not yet taken
    std::uint32_t next_sequence = 0;
    std::uint32_t in_flight = 0;        // frames that hold a credit
    std::uint32_t sends_in_flight = 0;  // sends whose memory the transport still uses
    SegmentDigest digest;
    std::uint64_t payload_bytes = 0;
    std::optional<CommitBody> commit;
    bool commit_sent = false;
    Status outcome;  // when over
    std::uint64_t over_since_ns = 0;
  };

  Transfer* find(Channel& channel, const FrameHeader& header);
  Transfer* find_open(std::uint64_t transfer_id);
  void send_want(Transfer& transfer);
  void send_commit(Transfer& transfer);
  void on_grant(Transfer& transfer, const FrameHeader& header, std::span<const std::byte> payload);
  void on_ack(Transfer& transfer, const FrameHeader& header);
  void on_nack(Transfer& transfer, const FrameHeader& header);
  void drop_credit(Transfer& transfer, std::uint32_t sequence, Frame& frame);
  Status check_push(const Transfer& transfer, std::uint32_t layer, std::uint32_t first_tile,
                    const std::vector<OutgoingSegment>& segments) const;
  void pump(Transfer& transfer);
  bool send_next(Transfer& transfer);
  Frame next_frame(const Transfer& transfer) const;
  bool send_frame(Transfer& transfer, std::uint32_t sequence, Frame& frame);
  void send_done(std::uint64_t transfer_id, std::uint32_t sequence);
  void retransmit(Transfer& transfer);
  bool time_check(Transfer& transfer, std::uint64_t now);
  void end(Transfer& transfer, const Status& outcome, bool tell);
  void finish(std::uint64_t transfer_id);

  HubContext& context_;
  std::unordered_map<std::uint64_t, Transfer> transfers_;
  std::uint32_t gathered_ = 0;  // gather slots in use
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace kvferry::transport

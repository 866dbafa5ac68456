// Decode's side of the transfer protocol: who may send, where frames land, what is resident.
// Internal to transport/; used through TransferHub.
//
// Memory: DATA payloads land in extents of class kStaging, taken from the pool at GRANT and given
// back when the transfer ends, so that credits bound them; an extent that a frame is still landing
// in is kept until that frame's on_frame, whatever happens to the transfer, and counts as
// quarantined once the transfer is over.
//
// Thread contract: the reactor's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
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

class ReceiveSide : public KvReceiver {
 public:
  explicit ReceiveSide(HubContext& context) : context_(context) {}

  Status expect(const TransferIdentity& identity, std::uint64_t deadline_ns,
                ReceiveCallbacks callbacks) override;
  void cancel(std::uint64_t transfer_id, const Status& why) override;
  std::size_t active() const override { return transfers_.size(); }

  // Any frame of a transfer, before it is handled: counts its bytes and renews the lease.
  void heard(Channel& channel, const FrameHeader& header);
  // Frames of the types that a receiver gets. on_data_header gives the landing slot.
  Result<std::span<std::byte>> on_data_header(Channel& channel, const FrameHeader& header);
  void on_data(Channel& channel, const FrameHeader& header, std::span<std::byte> payload,
               const Status& status);
  void on_want(Channel& channel, const FrameHeader& header, std::span<const std::byte> payload);
  void on_commit(Channel& channel, const FrameHeader& header, std::span<const std::byte> payload);
  void on_release(Channel& channel, const FrameHeader& header, const std::string& reason);
  void on_beat(Channel& channel, const FrameHeader& header, std::span<const std::uint64_t> ids);
  void on_closed(Channel& channel, const Status& why);

  void tick();
  bool idle() const { return transfers_.empty() && landings_.empty(); }
  // Transfers to name in beats, by channel.
  void held(std::map<Channel*, std::vector<std::uint64_t>>& by_channel) const;
  // Drops every transfer without a callback, but not what is landing; for the hub's destructor.
  void abandon();

 private:
  struct Transfer {
    // From expect().
    bool expected = false;
    TransferIdentity identity;
    TransferShape shape;
    FrameHeader header;  // identity fields
    std::uint64_t deadline_ns = 0;
    ReceiveCallbacks callbacks;
    // From WANT.
    Channel* channel = nullptr;
    FrameHeader want_header;
    WantBody want;
    std::uint64_t lease_until_ns = 0;
    std::uint64_t hold_until_ns = 0;
    // From the grant on.
    std::uint32_t credits = 0;
    std::uint32_t slot_bytes = 0;
    std::vector<Extent> free_slots;
    std::vector<std::uint32_t> landing;  // sequence numbers
    std::vector<bool> resident;          // by TransferShape::index
    std::uint64_t missing = 0;
    SegmentDigest digest;
    std::optional<CommitBody> commit;
    TransferStats stats;
  };
  struct Landing {
    Extent slot;
    std::uint64_t transfer_id = 0;
    std::uint32_t sequence = 0;
    Channel* channel = nullptr;
    std::uint64_t since_ns = 0;
    bool orphan = false;  // its transfer is over, the slot quarantined
  };
  struct Tombstone {
    Status outcome;
    std::uint64_t until_ns = 0;
  };
  enum class Tell { kNothing, kRefuse, kRelease };

  Transfer* find(Channel& channel, const FrameHeader& header);
  const Status* tombstone(std::uint64_t transfer_id) const;
  void answer_unknown(Channel& channel, const FrameHeader& header);
  Status match(const Transfer& transfer) const;
  void answer_want(Transfer& transfer);
  void queue(std::uint64_t transfer_id, Transfer& transfer);
  void hold(Channel& channel, const FrameHeader& header, WantBody body);
  void grant_waiting();
  bool grant(Transfer& transfer);
  std::optional<RefusalCause> check_data(const Transfer& transfer, const FrameHeader& header) const;
  bool all_resident(const Transfer& transfer, const FrameHeader& header) const;
  void acknowledge(Transfer& transfer, const FrameHeader& header);
  void refuse_data(Transfer& transfer, const FrameHeader& header, RefusalCause cause);
  Result<std::vector<std::span<const std::byte>>> split(const Transfer& transfer,
                                                        const FrameHeader& header,
                                                        std::span<const std::byte> payload) const;
  Status accept_segments(Transfer& transfer, const FrameHeader& header,
                         std::span<const std::byte> payload, RefusalCause& cause);
  void finish_if_whole(std::uint64_t transfer_id);
  void end(std::uint64_t transfer_id, const Status& outcome, Tell tell);
  void release_slots(Transfer& transfer, std::uint64_t transfer_id);
  void orphan(Landing& landing);
  void bury(std::uint64_t transfer_id, const Status& outcome);
  void note_usage();
  void expire_transfers(std::uint64_t now);

  HubContext& context_;
  std::unordered_map<std::uint64_t, Transfer> transfers_;
  std::deque<std::uint64_t> waiting_;  // matched, waiting for landing slots
  std::unordered_map<const std::byte*, Landing> landings_;
  std::unordered_map<std::uint64_t, Tombstone> tombstones_;
  std::deque<std::uint64_t> graves_;  // tombstones, oldest first
  std::size_t held_ = 0;              // wanted and not expected
  std::uint32_t promised_ = 0;        // credits of live transfers
  std::uint32_t orphans_ = 0;         // landings of dead ones
};

}  // namespace kvferry::transport

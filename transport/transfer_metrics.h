// Metrics of the transfer protocol, one set a process. `codec` is the normalised spec, `role` is
// "sender" or "receiver", `direction` is "sent" or "received".
//
//   name                                      type       labels            unit, meaning
//   kvferry_transfer_frames_total             counter    direction, type   frames with a good
//   header kvferry_transfer_wire_bytes_total         counter    direction         of these, headers
//   included kvferry_transfer_frames_refused_total     counter    cause             frames received
//   and not used; causes
//                                                                          are the names of
//                                                                          RefusalCause
//   kvferry_transfer_frames_resent_total      counter    type              sent once more
//   kvferry_transfer_payload_bytes_total      counter    direction, codec  DATA payloads, each
//   frame once:
//                                                                          acknowledged, or
//                                                                          verified and landed
//   kvferry_transfer_raw_bytes_total          counter    direction, codec  what the same KV takes
//   in bf16 kvferry_transfer_finished_total           counter    role, result      transfers ended;
//   result is "ok" or
//                                                                          the name of the Code
//   kvferry_transfer_leases_expired_total     counter    role              ended because nothing
//   was heard kvferry_transfer_active                   gauge      role              transfers open
//   now kvferry_transfer_credits                  gauge                        landing slots
//   promised to senders now kvferry_transfer_staging_bytes            gauge pool bytes of landing
//   and gather slots kvferry_transfer_channels                 gauge channels with traffic that are
//   open kvferry_transfer_data_seconds             histogram                    first to last DATA
//   frame, at the receiver kvferry_transfer_sender_seconds           histogram open() to
//   acknowledged, at the sender
//
// Thread contract: the reactor's thread; the metrics themselves may be read from any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/metrics.h"
#include "base/status.h"
#include "transport/frame.h"

namespace kvferry::transport {

enum class RefusalCause : std::uint8_t {
  kBadHeader,        // dropped: nothing in it can be trusted
  kPayloadChecksum,  // payload differs from its checksum, or did not arrive
  kBadBody,          // a control frame's payload is malformed
  kEpoch,            // another incarnation of the peer than the channel's
  kUnknownTransfer,  // no such transfer on this channel
  kIdentity,         // request, codec, model, layout or numerics class differ
  kBounds,           // layer or tiles outside the transfer
  kSize,             // payload is not as long as its segments
  kDuplicate,        // resident or landing already
  kCredits,          // more frames in flight than granted
  kSegment,          // the codec's validation refused a segment
  kLanding,          // no memory to copy to
  kState,            // not a frame for this state of the transfer
};
inline constexpr std::size_t kRefusalCauses = 13;
std::string_view refusal_name(RefusalCause cause);  // "payload_checksum"

enum class Role : std::uint8_t { kSender, kReceiver };
enum class Direction : std::uint8_t { kSent, kReceived };

class TransferMetrics {
 public:
  explicit TransferMetrics(Metrics& metrics);

  void frame(Direction direction, const FrameHeader& header);
  void refused(RefusalCause cause);
  void resent(FrameType type);
  void moved(Direction direction, const std::string& codec, std::uint64_t payload_bytes,
             std::uint64_t raw_bytes);
  void finished(Role role, Code result);
  void lease_expired(Role role);
  void active(Role role, std::size_t count);

  Gauge& credits;
  Gauge& staging_bytes;
  Gauge& channels;
  Histogram& data_seconds;
  Histogram& sender_seconds;
  Counter& unwrap_seconds;

 private:
  Metrics& metrics_;
  Counter* frames_[2][kLastFrameType + 1] = {};
  Counter* wire_bytes_[2] = {};
  Counter* refused_[kRefusalCauses] = {};
  Gauge* active_[2] = {};
};

}  // namespace kvferry::transport

// Metrics of the transfer protocol, one set a process. `codec` is the normalised spec, `role` is
// "sender" or "receiver", `direction` is "sent" or "received".
// docs/metrics.md has their names, labels and meanings; a test compares the two.
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

// Limits and times of the transfer protocol. All times in nanoseconds.
//
// Thread contract: values.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/clock.h"
#include "base/status.h"

namespace kvferry::transport {

// What this process computes with; a peer that differs is refused.
struct ModelIdentity {
  std::uint64_t model_fingerprint = 0;
  std::uint64_t numerics_class = 0;
};

struct TransferConfig {
  // Leases: a transfer of which nothing was heard for lease_ns is over, on either side. Every
  // beat_ns each side names, in one frame a channel, the transfers it still holds; being named
  // extends a lease to at least now + lease_extend_ns.
  std::uint64_t lease_ns = 30 * kSecond;
  std::uint64_t lease_extend_ns = 20 * kSecond;
  std::uint64_t beat_ns = 5 * kSecond;
  // A frame is sent again when nothing at all came for its transfer for this long.
  std::uint64_t retransmit_ns = 3 * kSecond;
  // DATA frames: how often one is sent again. The transfer fails at the next refusal.
  std::uint32_t max_resends = 2;
  // An ended transfer whose sends do not complete for this long has its channel closed by force.
  std::uint64_t drain_ns = 5 * kSecond;
  std::uint64_t tick_ns = 50 * kMillisecond;  // granularity of all of these; no tick when idle

  std::uint32_t frame_bytes = 1u << 20;    // a DATA payload gathers segments up to this
  std::uint32_t staging_slots = 32;        // landing slots of all transfers together
  std::uint32_t credits_per_transfer = 8;  // landing slots one transfer gets at most
  std::uint32_t gather_slots = 16;         // frames gathered and not yet taken by the transport
  std::size_t max_held_wants = 256;        // WANTs that came before expect()
  std::size_t max_tombstones = 4096;       // ended transfers remembered, each for lease_ns

  // Pool bytes that landing and gathering take at the most, when no segment is longer than
  // frame_bytes: keep them out of what is promised to requests.
  std::size_t staging_bytes() const {
    return (std::size_t{staging_slots} + gather_slots) * frame_bytes;
  }
};

// kInvalidArgument names the field.
Status validate(const TransferConfig& config);

}  // namespace kvferry::transport

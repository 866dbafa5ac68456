// The transfer protocol over channels: WANT -> GRANT -> DATA (each ACK or NACK) -> COMMIT ->
// COMMIT_ACK -> RELEASE (docs/wire-format.md). KvSender is prefill's side, KvReceiver decode's; one
// of each a process, both fed by TransferHub, the process's only FrameHandler.
//
// Thread contract: reactor's thread only, callbacks too. Time comes from base/clock.h timers.
// Fail closed: no byte reaches `land` unless header, payload checksum, identity (request, transfer,
// epoch, layer, tiles, codec, model, layout, numerics class) agree, and a transfer completes only
// when every (layer, tile) is resident and the commit's digest is that of what landed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "codec/codec.h"
#include "transport/channel.h"

namespace kvferry::transport {

// What both sides must agree on before a byte flows.
struct TransferIdentity {
  std::uint64_t request_id = 0;
  std::uint64_t transfer_id = 0;
  std::uint64_t model_fingerprint = 0;
  std::uint64_t numerics_class = 0;
  std::uint32_t tokens = 0;  // of the prompt; tiles = ceil(tokens / the codec's tile_tokens)
  std::shared_ptr<const codec::Codec> codec;
  codec::KvGeometry geometry;
};

// Hash of the geometry (removed biases with it), the tile size and the codec's segment sizes (first
// tile, later tile, one token).
std::uint64_t layout_fingerprint(const codec::KvGeometry& geometry, const codec::Codec& codec);

struct FirstToken {
  std::int32_t id = 0;
  float logprob = 0;
};

// What prefill chose from the prompt's last logits, which are the same for all choices.
struct FirstTokens {
  std::vector<FirstToken> choices;  // the first token of each
  std::vector<FirstToken> top;      // the most probable tokens, where the request asks for them
};

struct TransferTimings {         // of one transfer, measured where it is named
  std::uint64_t prefill_ns = 0;  // P: compute of the prompt, encode included
  std::uint64_t encode_ns = 0;   // P: CPU time in the codec, over all threads
  std::uint64_t queue_ns = 0;    // P: from the order to the first chunk
};

struct TransferStats {              // of one transfer, as D saw it
  std::uint64_t payload_bytes = 0;  // verified DATA payloads, as they came
  std::uint64_t wire_bytes = 0;     // all frames of the transfer, both ways, headers included
  std::uint64_t first_data_ns = 0;  // monotonic time of the first and the last DATA frame
  std::uint64_t last_data_ns = 0;
  std::uint64_t frames_refused = 0;
  TransferTimings prefill;  // from the commit
};

// ---- decode's side ----

struct ReceiveCallbacks {
  // Where segment (layer, tile) shall live; size is codec->segment_bytes(geometry, layer, tile,
  // tokens of that tile). Called for each segment of a frame whose payload is as it was sent, which
  // is then unwrapped there and validated, an open last tile's too; called again if the frame is
  // refused after all and sent again. What lies there counts only once the transfer is complete.
  // Empty span: refuse (memory is gone); the transfer then fails on both sides. Must not call back
  // into the receiver.
  std::function<std::span<std::byte>(std::uint32_t layer, std::uint32_t tile)> land;
  // All resident and committed. Called once; then the transfer is over for the receiver.
  std::function<void(FirstTokens, const TransferStats&)> complete;
  // Over without completion: refused frames exhausted, released by the sender, channel lost,
  // deadline or lease passed, never wanted in time. Called at most once, never after complete.
  // `land`ed memory is not touched after it.
  std::function<void(Status)> failed;
};

class KvReceiver {
 public:
  virtual ~KvReceiver() = default;
  // Announces a transfer for which memory is reserved; a WANT that came before waits for this. If
  // it returns OK, one of complete or failed follows, at the latest one tick after deadline_ns
  // (Timers::now_ns). An error (another identity than the held WANT's or the process's own, id in
  // use, deadline passed) means that no callback follows; a held WANT has then been refused.
  virtual Status expect(const TransferIdentity& identity, std::uint64_t deadline_ns,
                        ReceiveCallbacks callbacks) = 0;
  // Gives the transfer up: the sender gets RELEASE with `why`; no callback follows. Unknown ids are
  // ignored.
  virtual void cancel(std::uint64_t transfer_id, const Status& why) = 0;
  virtual std::size_t active() const = 0;  // transfers expected or held
};

// ---- prefill's side ----

struct SendCallbacks {
  std::function<void()> granted;
  std::function<void()> acknowledged;  // COMMIT_ACK came: pages may be freed. Over.
  // Refused, released by the receiver, channel lost, deadline passed, resent too often, cancelled.
  // Over. Neither this nor `acknowledged` is called before every send of the transfer's payload has
  // completed, so the memory is the caller's again, and neither is called inside a call of
  // KvSender.
  std::function<void(Status)> failed;
};

// A segment to send, and its wire form (Codec::wrap): the segment itself for most codecs.
struct OutgoingSegment {
  explicit OutgoingSegment(std::span<const std::byte> plain) : segment(plain), wire(plain) {}
  OutgoingSegment(std::span<const std::byte> plain, std::span<const std::byte> wrapped)
      : segment(plain), wire(wrapped) {}

  std::span<const std::byte> segment;  // for the digest; read while it is pushed
  std::span<const std::byte> wire;
};

class KvSender {
 public:
  virtual ~KvSender() = default;
  // If it returns OK, one of acknowledged or failed follows: at the latest at deadline_ns plus
  // TransferConfig::drain_ns plus a tick. An error means that no callback follows.
  virtual Status open(const TransferIdentity& identity, const std::string& receiver_address,
                      std::uint64_t deadline_ns, SendCallbacks callbacks) = 0;
  // Queues closed segments (one contiguous range a tile, in tile order, or the open last tile's
  // dense segment) of one layer. Their wire forms stay untouched until acknowledged or failed.
  // Frames are gathered up to the frame size and sent as credits allow. May be called before
  // `granted`. A wrong size, a segment pushed twice or after commit fails the transfer; unknown ids
  // (the transfer may just have ended) are ignored, here and below.
  virtual void push(std::uint64_t transfer_id, std::uint32_t layer, std::uint32_t first_tile,
                    std::vector<OutgoingSegment> segments) = 0;
  // All segments have been pushed.
  virtual void commit(std::uint64_t transfer_id, FirstTokens first_tokens,
                      const TransferTimings& timings) = 0;
  // Gives the transfer up and tells the receiver why. `failed` follows when no send is in flight.
  virtual void cancel(std::uint64_t transfer_id, const Status& why) = 0;
  virtual std::size_t active() const = 0;
};

}  // namespace kvferry::transport

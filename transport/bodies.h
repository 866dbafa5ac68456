// Payloads of the control frames, little-endian, without padding (docs/wire-format.md). Decoding
// checks every length against the bytes that are there and against the limits below, before it
// allocates; trailing bytes are an error.
//
// Thread contract: values and pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "codec/geometry.h"
#include "transport/kv_transfer.h"

namespace kvferry::transport {

inline constexpr std::size_t kMaxSpecBytes = 4096;      // of a codec spec in WANT
inline constexpr std::size_t kMaxChoices = 1024;        // first tokens in COMMIT
inline constexpr std::size_t kMaxTopTokens = 64;        // most probable tokens in COMMIT
inline constexpr std::size_t kMaxBeatTransfers = 1024;  // ids in one BEAT; more take more frames
inline constexpr std::size_t kMaxReasonBytes = 1024;    // text of REFUSE and RELEASE, cut to this

struct WantBody {
  std::uint32_t tokens = 0;
  std::uint32_t tile_tokens = 0;
  codec::KvGeometry geometry;
  std::string spec;
};

struct GrantBody {
  std::uint32_t max_frame_bytes = 0;  // longest DATA payload that a landing slot holds
};

struct CommitBody {
  std::uint32_t frames = 0;         // distinct DATA frames of the transfer
  std::uint64_t digest = 0;         // SegmentDigest over all (layer, tile)
  std::uint64_t payload_bytes = 0;  // of these frames, each counted once
  TransferTimings timings;
  FirstTokens first_tokens;
};

std::vector<std::byte> encode_want(const WantBody& body);
std::vector<std::byte> encode_grant(const GrantBody& body);
std::vector<std::byte> encode_commit(const CommitBody& body);
std::vector<std::byte> encode_beat(std::span<const std::uint64_t> transfer_ids);
std::vector<std::byte> encode_reason(const std::string& reason);

// kDataLoss: lengths do not fit, or a limit is passed.
Result<WantBody> decode_want(std::span<const std::byte> payload);
Result<GrantBody> decode_grant(std::span<const std::byte> payload);
Result<CommitBody> decode_commit(std::span<const std::byte> payload);
Result<std::vector<std::uint64_t>> decode_beat(std::span<const std::byte> payload);
// Text for a log line: cut to kMaxReasonBytes, bytes that are not printable ASCII become '?'.
std::string decode_reason(std::span<const std::byte> payload);

// Digest of a transfer: the sum over its segments, modulo 2^64, of a 64-bit mix of (layer, tile,
// bytes, CRC32C). Independent of the order of arrival and of where a segment lies; every segment
// must be added exactly once.
class SegmentDigest {
 public:
  void add(std::uint32_t layer, std::uint32_t tile, std::span<const std::byte> segment);
  std::uint64_t value() const { return sum_; }

 private:
  std::uint64_t sum_ = 0;
};

}  // namespace kvferry::transport

// The frame: a fixed 128-byte little-endian header, then the payload. docs/wire-format.md is the
// specification; the static_asserts pin it. The header's checksum is verified before anything in it
// is trusted or allocated for; the payload's is verified where it landed, before use.
//
// Thread contract: values and pure functions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

#include "base/status.h"

namespace kvferry::transport {

enum class FrameType : std::uint16_t {
  kWant = 1,    // P -> D: may I send this transfer? payload: WantBody
  kGrant = 2,   // D -> P: yes; credits = frames that may be in flight (0: wait). payload: GrantBody
  kRefuse = 3,  // D -> P: no; code says why, payload is the reason as text
  kData = 4,    // P -> D: segments of one layer, tiles [first_tile, first_tile + tile_count)
  kAck = 5,     // D -> P: frame `sequence` is verified and resident; returns one credit
  kNack = 6,    // D -> P: frame `sequence` was refused (code); returns its credit; send again
  kCommit = 7,  // P -> D: all was sent. payload: CommitBody
  kCommitAck = 8,  // D -> P: digest and coverage agree; P may free its pages
  kRelease = 9,  // either way: the transfer is over (code ok: finished; else why); free everything
  kProbe = 10,   // connection check and calibration; echoed as kProbeAck
  kProbeAck = 11,
  kBeat = 12,  // either way: the sender still holds these transfers. payload: BeatBody
  kLink = 13,  // between transports, for what they are built on; handlers above never see one
};
inline constexpr std::uint16_t kLastFrameType = 13;

inline constexpr std::uint32_t kFrameMagic = 0x3146564B;  // "KVF1"
inline constexpr std::uint16_t kFrameVersion = 2;
inline constexpr std::uint32_t kMaxPayloadBytes = 4u << 20;          // of a DATA frame
inline constexpr std::uint32_t kMaxControlPayloadBytes = 16u << 10;  // of any other

struct FrameHeader {
  std::uint32_t magic = kFrameMagic;
  std::uint16_t version = kFrameVersion;
  FrameType type = FrameType::kProbe;
  std::uint32_t header_crc = 0;    // CRC32C of the header with this field zero
  std::uint32_t payload_crc = 0;   // CRC32C of the payload
  std::uint64_t sender_epoch = 0;  // of the sending process; fences restarted workers
  std::uint64_t request_id = 0;
  std::uint64_t transfer_id = 0;  // distinct for every attempt of a request
  std::uint64_t codec_id = 0;
  std::uint64_t model_fingerprint = 0;
  std::uint64_t layout_fingerprint = 0;  // KV geometry, tile size, segment sizes
  std::uint64_t numerics_class = 0;
  std::uint32_t layer = 0;  // this and the next four: kData only, zero elsewhere
  std::uint32_t first_tile = 0;
  std::uint32_t tile_count = 0;
  std::uint32_t first_token = 0;  // = first_tile * the codec's tile_tokens
  std::uint32_t token_count = 0;  // tokens covered; the last tile may be open (short)
  std::uint32_t payload_bytes = 0;
  std::uint32_t sequence = 0;  // of the frame within its transfer, from 0; names it in ack and nack
  std::uint32_t credits = 0;   // kGrant: frames that may be in flight
  std::uint32_t code = 0;      // kRefuse, kNack, kRelease: a kvferry::Code; kBeat: a BeatRole
  std::uint32_t attempt = 0;   // kData: how often it was sent before; echoed in ack and nack
  std::uint64_t reserved[2] = {0, 0};  // zero
};

static_assert(std::endian::native == std::endian::little, "the header is the struct as it lies");
static_assert(sizeof(FrameHeader) == 128 && alignof(FrameHeader) == 8);
static_assert(std::is_trivially_copyable_v<FrameHeader>);
static_assert(std::has_unique_object_representations_v<FrameHeader>, "no padding");

// Snake-case name of a type: "commit_ack". "unknown" for anything else.
std::string_view frame_type_name(FrameType type);

// Sets payload_bytes and both checksums.
void seal(FrameHeader& header, std::span<const std::byte> payload);

// Magic, version, header checksum, known type, reserved zero, lengths within limits and consistent.
// kDataLoss where bits may have flipped, kUnsupported for another version.
Status check_header(const FrameHeader& header);

// The payload's length and checksum against a checked header. kDataLoss.
Status check_payload(const FrameHeader& header, std::span<const std::byte> payload);

}  // namespace kvferry::transport

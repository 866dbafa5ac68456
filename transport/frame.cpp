#include "transport/frame.h"

#include <array>
#include <cstring>
#include <string>

#include "base/hash.h"

namespace kvferry::transport {
namespace {

std::uint32_t header_checksum(FrameHeader header) {
  header.header_crc = 0;
  return crc32c(std::as_bytes(std::span(&header, 1)));
}

// What a DATA frame says of its tiles must be consistent in itself; whether it fits the transfer is
// the receiver's question.
Status check_data_fields(const FrameHeader& h) {
  if (h.payload_bytes == 0 || h.tile_count == 0 || h.token_count == 0) {
    return data_loss("DATA frame without content");
  }
  return ok_status();
}

}  // namespace

std::string_view frame_type_name(FrameType type) {
  static constexpr std::array<std::string_view, kLastFrameType + 1> kNames = {
      "unknown", "want",       "grant",   "refuse", "data",      "ack",  "nack",
      "commit",  "commit_ack", "release", "probe",  "probe_ack", "beat", "link"};
  const auto index = static_cast<std::uint16_t>(type);
  return index <= kLastFrameType ? kNames[index] : kNames[0];
}

void seal(FrameHeader& header, std::span<const std::byte> payload) {
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  header.payload_crc = crc32c(payload);
  header.header_crc = header_checksum(header);
}

Status check_header(const FrameHeader& h) {
  if (h.magic != kFrameMagic) return data_loss("frame magic differs");
  if (h.header_crc != header_checksum(h)) return data_loss("header checksum differs");
  if (h.version != kFrameVersion) {
    return unsupported("frame version " + std::to_string(h.version) + ", this build speaks " +
                       std::to_string(kFrameVersion));
  }
  const auto type = static_cast<std::uint16_t>(h.type);
  if (type == 0 || type > kLastFrameType) {
    return unsupported("unknown frame type " + std::to_string(type));
  }
  if (h.reserved[0] != 0 || h.reserved[1] != 0) return data_loss("reserved bytes are not zero");
  const bool data = h.type == FrameType::kData;
  if (h.payload_bytes > (data ? kMaxPayloadBytes : kMaxControlPayloadBytes)) {
    return data_loss("payload of " + std::to_string(h.payload_bytes) + " bytes is over the limit");
  }
  if (data) return check_data_fields(h);
  if (h.layer != 0 || h.first_tile != 0 || h.tile_count != 0 || h.first_token != 0 ||
      h.token_count != 0) {
    return data_loss("tile fields in a frame that carries none");
  }
  return ok_status();
}

Status check_payload(const FrameHeader& header, std::span<const std::byte> payload) {
  if (payload.size() != header.payload_bytes) {
    return data_loss("payload of " + std::to_string(payload.size()) +
                     " bytes where the header says " + std::to_string(header.payload_bytes));
  }
  if (crc32c(payload) != header.payload_crc) return data_loss("payload checksum differs");
  return ok_status();
}

}  // namespace kvferry::transport

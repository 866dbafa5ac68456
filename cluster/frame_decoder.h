// Cuts a byte stream into control messages: a 4-byte little-endian length, then that many bytes of
// an Envelope of version 1. Pure logic, so that it can be fed anything.
//
// Memory follows the bytes that came, not the length that was announced.
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/status.h"
#include "control.pb.h"

namespace kvferry::cluster {

inline constexpr std::uint32_t kControlVersion = 1;
inline constexpr std::size_t kLengthBytes = 4;

class FrameDecoder {
 public:
  // Consumes all of data and calls `message` for each complete one; stops early, with OK, once
  // `message` returns false. kDataLoss for a length of 0 or beyond kMaxMessageBytes, for bytes that
  // are no Envelope and for another version; the decoder must not be fed after that.
  Status feed(std::span<const char> data,
              const std::function<bool(const proto::Envelope&)>& message);

 private:
  std::string pending_;  // an incomplete frame, length included
};

// The frame of a message, its version set. kInvalidArgument beyond kMaxMessageBytes.
Result<std::string> encode_frame(const proto::Envelope& message);

}  // namespace kvferry::cluster

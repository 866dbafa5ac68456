#include "cluster/frame_decoder.h"

#include <algorithm>

#include "cluster/control.h"

namespace kvferry::cluster {
namespace {

std::uint32_t read_length(const char* bytes) {
  std::uint32_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  return length;
}

}  // namespace

Status FrameDecoder::feed(std::span<const char> data,
                          const std::function<bool(const proto::Envelope&)>& message) {
  while (!data.empty()) {
    std::size_t missing = kLengthBytes;
    if (pending_.size() >= kLengthBytes) missing += read_length(pending_.data());
    missing -= pending_.size();
    const std::size_t taken = std::min(missing, data.size());
    pending_.append(data.data(), taken);
    data = data.subspan(taken);
    if (taken < missing) return {};

    const std::uint32_t length = read_length(pending_.data());
    if (pending_.size() == kLengthBytes) {
      if (length == 0 || length > kMaxMessageBytes) {
        return data_loss("a message of " + std::to_string(length) + " bytes; allowed are 1 to " +
                         std::to_string(kMaxMessageBytes));
      }
      continue;
    }
    proto::Envelope envelope;
    if (!envelope.ParseFromArray(pending_.data() + kLengthBytes, static_cast<int>(length))) {
      return data_loss("bytes that are no control message");
    }
    if (envelope.version() != kControlVersion) {
      return data_loss("control protocol version " + std::to_string(envelope.version()) +
                       "; this is version " + std::to_string(kControlVersion));
    }
    pending_.clear();
    if (!message(envelope)) return {};
  }
  return {};
}

Result<std::string> encode_frame(const proto::Envelope& message) {
  proto::Envelope envelope = message;
  envelope.set_version(kControlVersion);
  const std::size_t length = envelope.ByteSizeLong();
  if (length > kMaxMessageBytes) {
    return invalid_argument("a control message of " + std::to_string(length) + " bytes; at most " +
                            std::to_string(kMaxMessageBytes) + " are allowed");
  }
  std::string frame(kLengthBytes, '\0');
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    frame[i] = static_cast<char>((length >> (8 * i)) & 0xff);
  }
  if (!envelope.AppendToString(&frame)) return internal_error("protobuf could not serialize");
  return frame;
}

}  // namespace kvferry::cluster

#include "transport/frame_delivery.h"

#include <cstring>

namespace kvferry::transport {

void deliver_frame(FrameHandler& handler, Channel& channel, const FrameHeader& header,
                   std::span<const std::byte> payload) {
  Status status = check_header(header);
  if (status.ok() && header.payload_bytes != payload.size()) {
    status = data_loss("payload is not as long as the header says");
  }
  if (!status.ok()) return handler.on_bad_header(channel, status);
  if (payload.empty()) return handler.on_frame(channel, header, {}, check_payload(header, {}));
  const Result<std::span<std::byte>> landing = handler.on_header(channel, header);
  if (!landing.ok()) return handler.on_frame(channel, header, {}, landing.status());
  std::memcpy(landing->data(), payload.data(), payload.size());
  handler.on_frame(channel, header, *landing, check_payload(header, *landing));
}

}  // namespace kvferry::transport

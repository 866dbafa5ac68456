#include "transport/hub_context.h"

#include "transport/bodies.h"

namespace kvferry::transport {

std::uint64_t HubContext::send(Channel& channel, FrameHeader header, std::vector<std::byte> body) {
  auto kept = std::make_shared<std::vector<std::byte>>(std::move(body));
  const std::span<const std::byte> payload(*kept);
  return send_payload(channel, header, payload, [kept](const Status&) {});
}

std::uint64_t HubContext::send_reason(Channel& channel, FrameHeader header, const Status& why) {
  header.code = static_cast<std::uint32_t>(why.code());
  return send(channel, header, encode_reason(why.message()));
}

std::uint64_t HubContext::send_payload(Channel& channel, FrameHeader header,
                                       std::span<const std::byte> payload,
                                       std::function<void(Status)> done) {
  header.sender_epoch = epoch;
  seal(header, payload);
  metrics.frame(Direction::kSent, header);
  channel.send(header, payload, std::move(done));
  return sizeof(FrameHeader) + payload.size();
}

}  // namespace kvferry::transport

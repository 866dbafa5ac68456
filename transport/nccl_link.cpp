#include "transport/nccl_link.h"

#include <cstring>

#include "transport/byte_io.h"

namespace kvferry::transport {
namespace {

// What follows kind, epoch and index.
std::size_t extra_bytes(LinkKind kind) {
  switch (kind) {
    case LinkKind::kOffer:
      return sizeof(NcclApi::Id);
    case LinkKind::kAnnounce:
      return sizeof(FrameHeader);
    case LinkKind::kReady:
    case LinkKind::kSkip:
      return 0;
  }
  return SIZE_MAX;
}

}  // namespace

std::vector<std::byte> encode_link(const LinkBody& body) {
  ByteWriter out;
  out.put(static_cast<std::uint32_t>(body.kind));
  out.put(body.epoch);
  out.put(body.index);
  const auto append = [&](const auto& value) {
    out.put_text({reinterpret_cast<const char*>(&value), sizeof(value)});
  };
  if (body.kind == LinkKind::kOffer) append(body.id);
  if (body.kind == LinkKind::kAnnounce) append(body.header);
  return out.take();
}

Result<LinkBody> decode_link(std::span<const std::byte> payload) {
  ByteReader in(payload);
  LinkBody body;
  body.kind = static_cast<LinkKind>(in.get<std::uint32_t>());
  body.epoch = in.get<std::uint32_t>();
  body.index = in.get<std::uint64_t>();
  if (!in.ok() || in.left() != extra_bytes(body.kind)) return data_loss("LINK body is malformed");
  const std::span<const std::byte> extra = payload.last(in.left());
  if (body.kind == LinkKind::kOffer) std::memcpy(&body.id, extra.data(), sizeof(body.id));
  if (body.kind == LinkKind::kAnnounce) {
    std::memcpy(&body.header, extra.data(), sizeof(body.header));
  }
  return body;
}

}  // namespace kvferry::transport

// What the two ends of an NCCL channel tell each other, as LINK frames of the channel below
// (docs/wire-format.md, "Over NCCL"). Decoding checks lengths before it allocates.
//
// Thread contract: values and pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "transport/frame.h"
#include "transport/nccl_api.h"

namespace kvferry::transport {

enum class LinkKind : std::uint32_t {
  kOffer = 1,     // the connector: the communicator's unique id; the acceptor is rank 1 of it
  kAnnounce = 2,  // the sender: a DATA frame's header; its payload comes once it is asked for
  kReady = 3,     // the receiver: waits for the payload of announcement `index`
  kSkip = 4,      // the receiver: does not want it
};

struct LinkBody {
  LinkKind kind = LinkKind::kOffer;
  std::uint32_t epoch = 0;  // of the communicator, in its connector's count
  std::uint64_t index = 0;  // of the announcement within the channel, from 0
  NcclApi::Id id{};         // kOffer
  FrameHeader header;       // kAnnounce; not checked here
};

std::vector<std::byte> encode_link(const LinkBody& body);
Result<LinkBody> decode_link(std::span<const std::byte> payload);

}  // namespace kvferry::transport

// What every transport does with a frame whose payload arrived whole, next to its header: verify,
// ask where it shall land, copy, verify where it landed.
//
// Thread contract: the reactor's thread.
#pragma once

#include <cstddef>
#include <span>

#include "transport/channel.h"

namespace kvferry::transport {

// `header` may be any 128 bytes. Exactly one of on_frame and on_bad_header is called.
void deliver_frame(FrameHandler& handler, Channel& channel, const FrameHeader& header,
                   std::span<const std::byte> payload);

}  // namespace kvferry::transport

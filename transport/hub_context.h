// What both sides of the transfer protocol share inside a TransferHub. Internal to transport/.
//
// Thread contract: the reactor's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/extent_pool.h"
#include "transport/channel.h"
#include "transport/transfer_config.h"
#include "transport/transfer_metrics.h"

namespace kvferry::transport {

// Which of its roles a process speaks in when it names transfers in a BEAT.
enum class BeatRole : std::uint32_t { kSender = 0, kReceiver = 1 };

struct HubContext {
  Timers& timers;
  ExtentPool& pool;
  const TransferConfig config;
  const std::uint64_t epoch;
  const ModelIdentity model;
  TransferMetrics metrics;
  std::function<Result<std::shared_ptr<Channel>>(const std::string& address)> connect;
  std::function<void()> wake;  // there is something to time: start the tick

  std::uint64_t now_ns() const { return timers.now_ns(); }

  // Stamps the epoch, seals and sends a frame whose body it keeps alive. Returns its bytes on the
  // wire.
  std::uint64_t send(Channel& channel, FrameHeader header, std::vector<std::byte> body = {});
  std::uint64_t send_reason(Channel& channel, FrameHeader header, const Status& why);

  // The same for a payload owned by the caller.
  std::uint64_t send_payload(Channel& channel, FrameHeader header,
                             std::span<const std::byte> payload, std::function<void(Status)> done);
};

}  // namespace kvferry::transport

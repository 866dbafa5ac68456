// The process's one FrameHandler: owns the sending and the receiving side of the transfer protocol,
// keeps one channel a peer, sends beats and drives every deadline.
//
// Order of life: pool, timers and transport first, then the hub; destroy in the reverse order. The
// destructor shuts the transport down, calls no transfer callback, and when it returns no memory of
// a transfer is in use.
//
// Thread contract: the reactor's thread, the destructor too (or any thread once the io_context is
// no longer run).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/extent_pool.h"
#include "base/metrics.h"
#include "base/status.h"
#include "transport/channel.h"
#include "transport/kv_transfer.h"
#include "transport/transfer_config.h"

namespace kvferry::transport {

struct HubContext;
class ReceiveSide;
class SendSide;

class TransferHub : public FrameHandler {
 public:
  // `epoch`: of this process, distinct for every start (fresh_id()). The config must be valid().
  TransferHub(Transport& transport, Timers& timers, ExtentPool& pool, std::uint64_t epoch,
              const ModelIdentity& model, Metrics& metrics, const TransferConfig& config = {});
  ~TransferHub() override;
  TransferHub(const TransferHub&) = delete;
  TransferHub& operator=(const TransferHub&) = delete;

  KvSender& sender();
  KvReceiver& receiver();

  // Nothing is open, landing or waiting: the state to reach before a clean exit.
  bool idle() const;

  // FrameHandler.
  Result<std::span<std::byte>> on_header(Channel& channel, const FrameHeader& header) override;
  void on_frame(Channel& channel, const FrameHeader& header, std::span<std::byte> payload,
                const Status& status) override;
  void on_bad_header(Channel& channel, const Status& status) override;
  void on_closed(const std::shared_ptr<Channel>& channel, const Status& why) override;

 private:
  Result<std::shared_ptr<Channel>> connect(const std::string& address);
  bool same_epoch(Channel& channel, const FrameHeader& header);
  void dispatch(Channel& channel, const FrameHeader& header, std::span<std::byte> payload,
                const Status& status);
  void on_control(Channel& channel, const FrameHeader& header, std::span<std::byte> payload,
                  const Status& status);
  void on_beat(Channel& channel, const FrameHeader& header, std::span<const std::byte> payload);
  void wake();
  void tick();
  void beat();

  Transport& transport_;
  std::unique_ptr<HubContext> context_;
  std::unique_ptr<SendSide> send_;
  std::unique_ptr<ReceiveSide> receive_;
  std::unordered_map<Channel*, std::uint64_t> epochs_;        // of the peer, by its first frame
  std::map<std::string, std::shared_ptr<Channel>> channels_;  // that this side connected
  std::unordered_map<const std::byte*, std::vector<std::byte>> control_;  // bodies landing
  Timers::Id tick_timer_ = 0;
  std::uint64_t next_beat_ns_ = 0;
};

}  // namespace kvferry::transport

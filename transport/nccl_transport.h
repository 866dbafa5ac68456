// DATA payloads over NCCL, everything else over another transport that it is built on.
//
// NCCL moves bytes between two GPUs once both sides have said how many, and its kernels spin on the
// GPU until they have. So nothing is posted on a guess: a DATA frame's header goes over the channel
// below as an announcement, the receiver asks where the payload shall land, posts its half and
// says so, and only then the sender posts its own. Announcements are answered in order, which makes
// the order of the two sides' operations one.
//
// A channel has a communicator of its own, which the connector offers when it connects (rank 0, it
// sends; DATA flows from connector to acceptor alone). Frames wait until it is there. What goes
// wrong with it (no communicator within init_ns, an operation that does not end within
// operation_ns, an error of NCCL, the end of the channel below) ends the channel: the communicator
// is aborted on both sides, and whoever connects again gets another one, under a higher epoch.
//
// Ownership: inner transport, timers and api outlive it. Thread contract: as Transport.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "transport/channel.h"
#include "transport/nccl_api.h"

namespace kvferry::transport {

struct NcclConfig {
  std::uint64_t init_ns = 30 * kSecond;
  std::uint64_t operation_ns = 30 * kSecond;  // from posting to its end
  // After that an abort counts as stuck; the process is then past saving, and its liveness check
  // should end it.
  std::uint64_t abort_ns = 10 * kSecond;
  std::function<void()> stuck;  // called once for each; may be empty
};

class NcclChannel;

class NcclTransport : public Transport, private FrameHandler {
 public:
  NcclTransport(Transport& inner, Timers& timers, NcclApi& api, NcclConfig config);
  ~NcclTransport() override;

  void set_handler(FrameHandler* handler) override { handler_ = handler; }
  void shutdown() override;
  const std::string& address() const override { return inner_.address(); }
  Result<std::shared_ptr<Channel>> connect(const std::string& address) override;
  std::string name() const override { return "nccl"; }
  std::string describe() const override { return "nccl beside " + inner_.describe(); }

  // For channels.
  NcclApi& api() { return api_; }
  const NcclConfig& config() const { return config_; }
  FrameHandler* handler() const { return handler_; }
  std::uint64_t now_ns() const { return timers_.now_ns(); }
  void abort(NcclApi::Comm comm);
  void look_soon();  // there is something to do or to wait for

 private:
  Result<std::span<std::byte>> on_header(Channel& channel, const FrameHeader& header) override;
  void on_frame(Channel& channel, const FrameHeader& header, std::span<std::byte> payload,
                const Status& status) override;
  void on_bad_header(Channel& channel, const Status& status) override;
  void on_closed(const std::shared_ptr<Channel>& channel, const Status& why) override;
  NcclChannel& wrap(Channel& channel);
  void look();
  void reap_aborted();

  Transport& inner_;
  Timers& timers_;
  NcclApi& api_;
  const NcclConfig config_;
  FrameHandler* handler_ = nullptr;
  std::uint32_t epoch_ = 0;  // of the last communicator offered
  std::unordered_map<Channel*, std::shared_ptr<NcclChannel>> channels_;
  struct Aborting {
    NcclApi::Comm comm;
    std::uint64_t since_ns;
    bool stuck;
  };
  std::vector<Aborting> aborting_;
  std::vector<std::byte> link_landing_;  // of a LINK frame on its way in
  Timers::Id timer_ = 0;
  std::uint64_t look_ns_ = 0;
};

}  // namespace kvferry::transport

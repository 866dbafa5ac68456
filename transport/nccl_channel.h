// One channel of the NCCL transport: a channel of the transport below, and a communicator. Internal
// to transport/.
//
// Thread contract: the reactor's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "transport/channel.h"
#include "transport/nccl_api.h"
#include "transport/nccl_link.h"

namespace kvferry::transport {

class NcclTransport;

class NcclChannel : public Channel, public std::enable_shared_from_this<NcclChannel> {
 public:
  NcclChannel(NcclTransport& transport, Channel& inner, bool connector)
      : transport_(transport), inner_(&inner), connector_(connector) {}

  // Channel.
  void send(const FrameHeader& header, std::span<const std::byte> payload,
            std::function<void(Status)> done) override;
  void close() override { fail(cancelled("closed by this side")); }
  bool open() const override { return why_.ok() && inner_ != nullptr && inner_->open(); }
  std::string peer() const override { return "nccl beside " + inner_peer_; }

  // The transport's business.
  Status offer(std::uint32_t epoch);  // the connector's, at once
  void linked(std::span<const std::byte> payload);
  bool progress();  // true when something moved
  bool busy() const;
  void inner_closed(const Status& why);  // completes everything and reports on_closed

 private:
  struct Outgoing {
    FrameHeader header;
    std::span<const std::byte> payload;
    std::function<void(Status)> done;
    std::optional<LinkKind> answer;  // kReady or kSkip, once there is one
    std::optional<NcclApi::Operation> operation;
    std::uint64_t since_ns = 0;  // of the operation
  };
  struct Incoming {
    FrameHeader header;
    std::span<std::byte> landing;
    NcclApi::Operation operation;
    std::uint64_t since_ns;
  };

  void start_comm(const NcclApi::Id& id, int rank, std::uint32_t epoch);
  void tell(LinkKind kind, std::uint64_t index, const FrameHeader* header = nullptr,
            const NcclApi::Id* id = nullptr);
  void announced(std::uint64_t index, const FrameHeader& header);
  void answered(const LinkBody& body);
  bool wait_for_comm();
  bool announce();
  bool ask_for_announced();
  void ask_for(const FrameHeader& header);
  bool post_sends();
  bool finish_sends();
  bool finish_receives();
  bool complete();
  // Whether the operation has ended. An error, or one that takes too long, fails the channel.
  bool ended(NcclApi::Operation operation, std::uint64_t since_ns);
  // Ends the channel, never calling back inside this call. The first reason stands.
  void fail(const Status& why);
  void give_up_frames();

  NcclTransport& transport_;
  Channel* inner_;  // null once it closed
  const bool connector_;
  const std::string inner_peer_ = inner_->peer();
  Status why_;  // not OK: the channel is ending
  std::optional<NcclApi::Comm> comm_;
  bool comm_ready_ = false;
  std::uint64_t comm_since_ns_ = 0;
  std::uint32_t epoch_ = 0;

  std::deque<Outgoing> outgoing_;               // in order of their indices
  std::uint64_t first_ = 0;                     // index of outgoing_.front()
  std::size_t announced_ = 0;                   // of outgoing_, from its front
  std::size_t posted_ = 0;                      // likewise: posted, or skipped
  std::map<std::uint64_t, FrameHeader> asked_;  // announcements that are not answered yet
  std::uint64_t next_answer_ = 0;
  std::deque<Incoming> incoming_;  // in the order in which they were posted
  std::vector<std::pair<std::function<void(Status)>, Status>> completed_;
};

}  // namespace kvferry::transport

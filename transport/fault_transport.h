// A transport around another one that does to its frames what a policy says: for tests of
// everything above. Works over any transport, in both directions (every frame that is sent through
// it).
//
// Ownership: inner transport, io_context and policy outlive it. Thread contract: as Transport; the
// policy is called on the same thread.
#pragma once

#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "transport/channel.h"

namespace boost::asio {
class io_context;
}

namespace kvferry::transport {

struct WireFrame {
  FrameHeader header;
  std::vector<std::byte> payload;
};

class FaultPolicy {
 public:
  // Puts a frame on the wire, once a call. Frames of a channel that closed are dropped.
  using Forward = std::function<void(const WireFrame&)>;
  virtual ~FaultPolicy() = default;
  // Called for every frame instead of sending it. Not to forward it drops it, to forward it twice
  // duplicates it, to keep `forward` and call it later delays or reorders it; the frame may be
  // changed, and the channel closed.
  virtual void on_send(Channel& channel, WireFrame frame, Forward forward) = 0;
};

class FaultChannel;

class FaultTransport : public Transport, private FrameHandler {
 public:
  FaultTransport(Transport& inner, boost::asio::io_context& io, FaultPolicy& policy);
  ~FaultTransport() override;

  void set_handler(FrameHandler* handler) override { handler_ = handler; }
  void shutdown() override { inner_.shutdown(); }
  const std::string& address() const override { return inner_.address(); }
  Result<std::shared_ptr<Channel>> connect(const std::string& address) override;
  std::string name() const override { return inner_.name(); }
  std::string describe() const override { return inner_.describe() + " with faults"; }

 private:
  Result<std::span<std::byte>> on_header(Channel& channel, const FrameHeader& header) override;
  void on_frame(Channel& channel, const FrameHeader& header, std::span<std::byte> payload,
                const Status& status) override;
  void on_bad_header(Channel& channel, const Status& status) override;
  void on_closed(const std::shared_ptr<Channel>& channel, const Status& why) override;
  FaultChannel& wrap(Channel& channel);

  Transport& inner_;
  boost::asio::io_context& io_;
  FaultPolicy& policy_;
  FrameHandler* handler_ = nullptr;
  std::unordered_map<Channel*, std::shared_ptr<FaultChannel>> channels_;
};

}  // namespace kvferry::transport

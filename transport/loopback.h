// An in-process transport: joins Transports whose io_contexts may run on different threads. A frame
// is copied when it is sent and delivered by posting to the receiver's io_context; order is kept.
// Serves tests and single-process commands with the same checks as a wire: headers and payloads are
// verified on arrival.
//
// Ownership: the network outlives its transports, and the io_contexts outlive both (they may be
// stopped). Thread contract: LoopbackNetwork from any thread; a transport and its channels on the
// thread of its io_context.
#pragma once

#include <memory>
#include <string>

#include "transport/channel.h"

namespace boost::asio {
class io_context;
}

namespace kvferry::transport {

class LoopbackNetwork {
 public:
  LoopbackNetwork();
  ~LoopbackNetwork();
  LoopbackNetwork(const LoopbackNetwork&) = delete;
  LoopbackNetwork& operator=(const LoopbackNetwork&) = delete;

  // A transport whose address is "loopback:N", N distinct in this network.
  std::unique_ptr<Transport> attach(boost::asio::io_context& io);

  struct State;  // internal

 private:
  std::shared_ptr<State> state_;
};

}  // namespace kvferry::transport

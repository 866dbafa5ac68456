// Channels move frames between two processes (UCX) or inside one (loopback). One Transport a
// process, many channels. Delivery is reliable per frame or reported as an error, but frames may
// arrive in any order (UCX: a rendezvous completes after an eager message sent later).
//
// Thread contract: everything here is called, and calls back, on the reactor's thread (the thread
// that runs the io_context given to the transport). Callbacks may call send and close.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"
#include "transport/frame.h"

namespace kvferry::transport {

class Channel {
 public:
  virtual ~Channel() = default;

  // Sends a sealed frame. The payload must stay as it is until `done` is called, exactly once and
  // never inside this call: with OK when the memory may be reused (not: when the peer has it), else
  // with the error. A failed send means the channel is closing. `done` may be empty.
  virtual void send(const FrameHeader& header, std::span<const std::byte> payload,
                    std::function<void(Status)> done) = 0;

  // Starts to close, never calling back inside this call; outstanding sends complete (with an error
  // where the memory was not sent), then on_closed is called once. Closing again does nothing.
  virtual void close() = 0;
  virtual bool open() const = 0;
  virtual std::string peer() const = 0;  // for logs
};

// Receives what arrives on all channels of a transport.
class FrameHandler {
 public:
  virtual ~FrameHandler() = default;

  // A frame's header arrived and passed check_header. Returns where its payload
  // (header.payload_bytes) shall land, or an error: the payload is then discarded and on_frame is
  // called with that error. Not called for frames without payload. The memory must stay until
  // on_frame.
  virtual Result<std::span<std::byte>> on_header(Channel& channel, const FrameHeader& header) = 0;

  // The frame is there; status is check_payload's, or why it could not land. payload is the memory
  // that on_header gave, whatever the status, and empty when on_header refused.
  virtual void on_frame(Channel& channel, const FrameHeader& header, std::span<std::byte> payload,
                        const Status& status) = 0;

  // A frame whose header cannot be trusted was dropped. For metrics.
  virtual void on_bad_header(Channel& channel, const Status& status) = 0;

  // No callback for this channel comes after this one, and no landing memory of it is in use.
  virtual void on_closed(const std::shared_ptr<Channel>& channel, const Status& why) = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual void set_handler(FrameHandler* handler) = 0;  // before the first connect; not owned
  // Closes every channel by force. When it returns, every `done` and on_closed has been called and
  // no landing memory is in use; nothing calls back any more and connect fails. Callable once more.
  virtual void shutdown() = 0;
  // Opaque bytes by which a peer connects to this process (UCX: the worker's address).
  virtual const std::string& address() const = 0;
  virtual Result<std::shared_ptr<Channel>> connect(const std::string& address) = 0;
  virtual std::string name() const = 0;      // "ucx", "loopback"
  virtual std::string describe() const = 0;  // "ucx 1.13.1 tcp,self": for logs and the info metric
};

}  // namespace kvferry::transport

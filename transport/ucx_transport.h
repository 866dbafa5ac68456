// Frames over UCX active messages: shared memory, TCP, or what else the UCX at hand can do.
//
// A frame is one active message: the frame's header (behind 16 bytes that name the channel) is the
// message's header, the payload its data. DATA payloads go by rendezvous, so that they land in the
// memory which the handler names and nowhere else; everything else is eager. Endpoints are in peer
// error mode, and shared memory has its error handling switched on (UCX leaves it off).
//
// Progress: the worker's event fd waits in the io_context, and a timer of 2 ms helps while requests
// are in flight, as wake-ups get lost on some transports. An idle process sleeps.
//
// Thread contract: the thread of the io_context for everything but ucx_version, ucx_self_test and
// ucx_usable_transports, which any thread may call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "transport/channel.h"

namespace boost::asio {
class io_context;
}

namespace kvferry::transport {

struct UcxConfig {
  // UCX_TLS: "tcp,self", "posix,cma,self", "all"... Empty: what the environment says, and UCX's
  // choice where it says nothing.
  std::string tls;
  // Probes of idle endpoints: a killed peer on shared memory is noticed after one or two.
  std::uint64_t keepalive_ns = kSecond;
  std::uint64_t connect_ns = 5 * kSecond;  // deadline of a connection's handshake
  std::uint64_t close_ns = 2 * kSecond;    // shutdown waits so long for peers and requests
  std::size_t max_channels = 4096;
  // Registered with UCX once, at start. Empty: none. Must outlive the transport.
  std::span<std::byte> arena;
};

// The io_context and timers must outlive it. kUnavailable when no transport of `tls` works here;
// the message says what to try.
Result<std::unique_ptr<Transport>> make_ucx_transport(boost::asio::io_context& io, Timers& timers,
                                                      const UcxConfig& config);

// Moves 1 MiB between two workers of this process over these transports and checks it. The message
// of a failure says what to try (UCX_TLS=tcp,self). Takes well under a second, 10 s at most.
Status ucx_self_test(const std::string& tls);

// "tcp", "posix", ... that UCX can open on this machine with the current environment.
std::vector<std::string> ucx_usable_transports();

std::string ucx_version();  // "1.13.1", of the library that is loaded

}  // namespace kvferry::transport

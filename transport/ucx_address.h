// What one UCX transport tells another about where to reach it. Internal to transport/.
//
//   "KVUX", CRC32C of the rest, host (u64), length of worker (u32), worker, data
//
// all little-endian. UCX trusts the addresses that it is given, so they are checked here.
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace kvferry::transport {

struct UcxAddress {
  std::uint64_t host = 0;  // this_host() of the sender
  std::string worker;      // of the worker that takes handshakes; empty in a HELLO_ACK
  std::string data;        // of the worker made for this channel; empty: `worker` takes the frames
};

std::string to_bytes(const UcxAddress& address);

// kInvalidArgument for other bytes, kDataLoss for damaged ones.
Result<UcxAddress> parse_ucx_address(const std::string& bytes);

// Equal in all processes that can use UCX's shared memory with each other: of one kernel since its
// start, and of one IPC, mount, network and process namespace (UCX wakes its peer through a socket
// of the network namespace, and finds its memory through the others). 0 where the kernel does not
// say.
std::uint64_t this_host();

}  // namespace kvferry::transport

// Two processes, P and D, in one thread on virtual time, joined by a loopback with faults: what the
// tests of the transfer protocol run on.
#pragma once

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/extent_pool.h"
#include "base/metrics.h"
#include "tests/transport/fake_codec.h"
#include "transport/fault_transport.h"
#include "transport/loopback.h"
#include "transport/transfer_hub.h"
#include "transport/transfer_metrics.h"

namespace kvferry::transport::testing {

// Counts frames in the order they are sent and lets a function do with each what it wants.
class ScriptedPolicy : public FaultPolicy {
 public:
  using Script =
      std::function<void(std::size_t index, Channel& channel, WireFrame, const Forward& forward)>;
  void on_send(Channel& channel, WireFrame frame, Forward forward) override;

  Script script;                // empty: forward everything
  std::vector<WireFrame> sent;  // as the hubs sent them
  std::uint32_t granted = 0;    // credits of the last GRANT
  std::uint32_t in_flight = 0;  // DATA sent and not answered
  std::uint32_t max_in_flight = 0;
  std::vector<std::pair<WireFrame, Forward>> kept;  // for scripts that delay

 private:
  void count(const FrameHeader& header);
};

// One transfer as a test drives it: what P pushes, where D lands it, and how each side ended.
struct TestTransfer {
  TransferIdentity identity;
  std::vector<std::vector<std::byte>> segments;  // by layer * tiles + tile
  std::vector<std::vector<std::byte>> wires;     // their wire forms
  std::vector<std::vector<std::byte>> landed;
  std::vector<int> land_calls;
  bool refuse_landing = false;

  int granted = 0, acknowledged = 0, failed = 0;  // P
  int completed = 0, receive_failed = 0;          // D
  Status send_status, receive_status;
  std::vector<FirstToken> first_tokens;
  TransferStats stats;

  std::uint32_t tiles() const { return (identity.tokens + 63) / 64; }
  bool ended() const { return acknowledged + failed == 1 && completed + receive_failed == 1; }
  bool landed_is_sent() const { return landed == segments; }
};

struct Process {
  Process(LoopbackNetwork& network, boost::asio::io_context& io, Timers& timers,
          FaultPolicy& policy, std::uint64_t epoch, const ModelIdentity& model,
          const TransferConfig& config, std::size_t pool_bytes);
  double refused(RefusalCause cause);

  std::unique_ptr<ExtentPool> pool;
  Metrics metrics;
  std::unique_ptr<Transport> wire;
  FaultTransport transport;
  TransferHub hub;
};

class World {
 public:
  static constexpr std::uint64_t kFar = 600 * kSecond;  // a deadline that does not matter
  static constexpr ModelIdentity kModel = {0x1111, 0x2222};

  explicit World(const TransferConfig& config = {}, std::size_t pool_bytes = 1 << 20);

  // A transfer of `tokens` tokens in `layers` layers with its segments encoded.
  TestTransfer make(std::uint64_t id, std::uint32_t tokens, std::uint32_t layers = 2,
                    std::shared_ptr<const codec::Codec> codec = std::make_shared<FakeCodec>());
  Status expect(TestTransfer& transfer, std::uint64_t deadline_in_ns = kFar);
  Status open(TestTransfer& transfer, std::uint64_t deadline_in_ns = kFar);
  void push_layer(TestTransfer& transfer, std::uint32_t layer);
  void push_all(TestTransfer& transfer);
  void commit(TestTransfer& transfer);
  // All of it: expect, open, push, commit, and then until both sides have ended.
  void run(TestTransfer& transfer);

  void poll();                     // runs what is ready, without time passing
  void advance(std::uint64_t ns);  // in ticks, running what becomes ready
  bool advance_until_ended(TestTransfer& transfer, std::uint64_t limit_ns);

  // The pool's equation holds, and nothing is leased, held or remembered as open on either side.
  void expect_clean();

  ManualTimers timers;
  boost::asio::io_context io;
  ScriptedPolicy policy;
  LoopbackNetwork network;
  TransferConfig config;
  std::unique_ptr<Process> p, d;
};

}  // namespace kvferry::transport::testing

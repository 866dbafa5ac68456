// P and D on threads of their own, in real time, over the loopback, with the engine's calls posted
// from outside: what the thread sanitizer looks at.
#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <future>
#include <thread>

#include "base/hash.h"
#include "base/log.h"
#include "tests/transport/fake_codec.h"
#include "transport/loopback.h"
#include "transport/transfer_hub.h"

namespace kvferry::transport::testing {
namespace {

constexpr std::uint32_t kLayers = 3;
constexpr ModelIdentity kModel = {5, 6};

class Side {
 public:
  Side(LoopbackNetwork& network, std::uint64_t epoch)
      : timers(make_asio_timers(io)),
        pool(std::move(ExtentPool::create(8 << 20)).value()),
        transport(network.attach(io)),
        hub(std::make_unique<TransferHub>(*transport, *timers, *pool, epoch, kModel, metrics)),
        address(transport->address()),
        guard_(io.get_executor()),
        thread_([this] { io.run(); }) {}
  ~Side() {
    if (thread_.joinable()) stop();
  }
  // Ends the thread, then the hub.
  void stop() {
    guard_.reset();
    io.stop();
    thread_.join();
    hub.reset();
  }
  // Runs it on the side's thread and waits.
  template <class F>
  auto call(F f) {
    std::packaged_task<decltype(f())()> task(std::move(f));
    auto result = task.get_future();
    boost::asio::post(io, [&task] { task(); });
    return result.get();
  }

  boost::asio::io_context io;
  std::unique_ptr<Timers> timers;
  std::unique_ptr<ExtentPool> pool;
  Metrics metrics;
  std::unique_ptr<Transport> transport;
  std::unique_ptr<TransferHub> hub;
  const std::string address;

 private:
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> guard_;
  std::thread thread_;
};

struct Transfer {
  TransferIdentity identity;
  std::vector<std::vector<std::byte>> segments, landed;
  std::uint32_t tiles() const { return (identity.tokens + 63) / 64; }
  std::promise<bool> sent, received;  // true: acknowledged, complete
};

std::unique_ptr<Transfer> make(std::uint64_t id, const std::shared_ptr<const codec::Codec>& codec) {
  auto t = std::make_unique<Transfer>();
  t->identity = {id,
                 id,
                 kModel.model_fingerprint,
                 kModel.numerics_class,
                 static_cast<std::uint32_t>(1 + counter_random(7, id) % 400),
                 codec,
                 {kLayers, 2, 4, 64}};
  t->landed.resize(kLayers * t->tiles());
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    for (std::uint32_t tile = 0; tile < t->tiles(); ++tile) {
      const std::uint32_t count = std::min(64u, t->identity.tokens - tile * 64);
      std::vector<std::byte> bytes(codec->segment_bytes(t->identity.geometry, layer, tile, count));
      EXPECT_TRUE(codec->encode(t->identity.geometry, layer, tile, count, {}, bytes).ok());
      t->segments.push_back(std::move(bytes));
    }
  }
  return t;
}

void start(Side& p, Side& d, Transfer& t) {
  boost::asio::post(d.io, [&d, &t] {
    ReceiveCallbacks callbacks;
    callbacks.land = [&t](std::uint32_t layer, std::uint32_t tile) {
      auto& memory = t.landed[layer * t.tiles() + tile];
      memory.resize(t.segments[layer * t.tiles() + tile].size());
      return std::span<std::byte>(memory);
    };
    callbacks.complete = [&t](const auto&, const auto&) { t.received.set_value(true); };
    callbacks.failed = [&t](const Status&) { t.received.set_value(false); };
    const Status status = d.hub->receiver().expect(t.identity, d.timers->now_ns() + 60 * kSecond,
                                                   std::move(callbacks));
    if (!status.ok()) t.received.set_value(false);
  });
  boost::asio::post(p.io, [&p, &d, &t] {
    SendCallbacks callbacks;
    callbacks.acknowledged = [&t] { t.sent.set_value(true); };
    callbacks.failed = [&t](const Status&) { t.sent.set_value(false); };
    ASSERT_TRUE(p.hub->sender()
                    .open(t.identity, d.address, p.timers->now_ns() + 60 * kSecond, callbacks)
                    .ok());
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
      std::vector<OutgoingSegment> segments(t.segments.begin() + layer * t.tiles(),
                                            t.segments.begin() + (layer + 1) * t.tiles());
      p.hub->sender().push(t.identity.transfer_id, layer, 0, std::move(segments));
    }
    p.hub->sender().commit(t.identity.transfer_id, {{{1, 0}}, {}}, {});
  });
}

TEST(TransferThreads, ManyTransfersWithCancellations) {
  set_log_level(LogLevel::kError);
  LoopbackNetwork network;
  Side p(network, 1), d(network, 2);
  const auto codec = std::make_shared<FakeCodec>("fake", 40);
  std::vector<std::unique_ptr<Transfer>> transfers;
  for (std::uint64_t id = 1; id <= 150; ++id) transfers.push_back(make(id, codec));
  for (auto& t : transfers) {
    start(p, d, *t);
    const std::uint64_t id = t->identity.transfer_id;
    if (id % 5 == 0) {  // at whatever point it has reached
      boost::asio::post(p.io, [&p, id] { p.hub->sender().cancel(id, cancelled("test")); });
    }
  }
  int complete = 0;
  for (auto& t : transfers) {
    const bool sent = t->sent.get_future().get();
    const bool received = t->received.get_future().get();
    EXPECT_TRUE(received || !sent);
    if (received) {
      EXPECT_EQ(t->landed, t->segments);
    }
    complete += received;
    EXPECT_TRUE(t->identity.transfer_id % 5 == 0 || (sent && received));
  }
  EXPECT_GE(complete, 120);
  const auto idle = [](Side& side) { return side.call([&side] { return side.hub->idle(); }); };
  while (!idle(p) || !idle(d)) std::this_thread::yield();
  for (Side* side : {&p, &d}) {
    EXPECT_TRUE(side->pool->check().ok());
    EXPECT_EQ(side->pool->usage().free, side->pool->usage().pool);
    side->stop();
  }
}

}  // namespace
}  // namespace kvferry::transport::testing

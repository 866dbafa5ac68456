#include "tests/transport/transfer_world.h"

#include <algorithm>

#include "base/hash.h"
#include "base/log.h"

namespace kvferry::transport::testing {

void ScriptedPolicy::on_send(Channel& channel, WireFrame frame, Forward forward) {
  const std::size_t index = sent.size();
  count(frame.header);
  sent.push_back(frame);
  if (!script) return forward(frame);
  script(index, channel, std::move(frame), forward);
}

void ScriptedPolicy::count(const FrameHeader& header) {
  if (header.type == FrameType::kGrant && header.credits != 0) granted = header.credits;
  if (header.type == FrameType::kData && header.attempt == 0) ++in_flight;
  if (header.type == FrameType::kAck && in_flight != 0) --in_flight;
  max_in_flight = std::max(max_in_flight, in_flight);
}

Process::Process(LoopbackNetwork& network, boost::asio::io_context& io, Timers& timers,
                 FaultPolicy& policy, std::uint64_t epoch, const ModelIdentity& model,
                 const TransferConfig& config, std::size_t pool_bytes)
    : pool(std::move(ExtentPool::create(pool_bytes)).value()),
      wire(network.attach(io)),
      transport(*wire, io, policy),
      hub(transport, timers, *pool, epoch, model, metrics, config) {}

double Process::refused(RefusalCause cause) {
  return metrics
      .counter("kvferry_transfer_frames_refused_total", "Frames received and not used, by cause",
               {{"cause", std::string(refusal_name(cause))}})
      .value();
}

World::World(const TransferConfig& c, std::size_t pool_bytes) : config(c) {
  set_log_level(LogLevel::kError);
  timers.advance(kSecond);  // so that 0 is no valid time
  p = std::make_unique<Process>(network, io, timers, policy, 0xAAAA, kModel, config, pool_bytes);
  d = std::make_unique<Process>(network, io, timers, policy, 0xBBBB, kModel, config, pool_bytes);
}

TestTransfer World::make(std::uint64_t id, std::uint32_t tokens, std::uint32_t layers,
                         std::shared_ptr<const codec::Codec> codec) {
  TestTransfer t;
  t.identity.request_id = id + 1000;
  t.identity.transfer_id = id;
  t.identity.model_fingerprint = kModel.model_fingerprint;
  t.identity.numerics_class = kModel.numerics_class;
  t.identity.tokens = tokens;
  t.identity.codec = std::move(codec);
  t.identity.geometry = {layers, 2, 4, 64};
  t.landed.resize(layers * t.tiles());
  t.land_calls.resize(layers * t.tiles());
  for (std::uint32_t layer = 0; layer < layers; ++layer) {
    for (std::uint32_t tile = 0; tile < t.tiles(); ++tile) {
      const std::uint32_t count = std::min(64u, tokens - tile * 64);
      const codec::KvGeometry& geometry = t.identity.geometry;
      std::vector<std::byte> segment(t.identity.codec->segment_bytes(geometry, layer, tile, count));
      // For codecs that look at it: bf16 values between 1 and 2, others in every tile.
      std::vector<std::uint16_t> values(std::size_t{2} * 64 * geometry.head_dim);
      for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] =
            static_cast<std::uint16_t>(0x3f80 | (counter_random(layer * 1000 + tile, i) & 0x7f));
      }
      auto* memory = reinterpret_cast<std::byte*>(values.data());
      EXPECT_TRUE(
          t.identity.codec->encode(geometry, layer, tile, count, {memory, memory}, segment).ok());
      std::vector<std::byte> wire(segment.size());
      wire.resize(t.identity.codec->wrap(geometry, segment, wire));
      t.segments.push_back(std::move(segment));
      t.wires.push_back(std::move(wire));
    }
  }
  return t;
}

Status World::expect(TestTransfer& t, std::uint64_t deadline_in_ns) {
  ReceiveCallbacks callbacks;
  callbacks.land = [&t](std::uint32_t layer, std::uint32_t tile) -> std::span<std::byte> {
    if (t.refuse_landing) return {};
    const std::size_t index = layer * t.tiles() + tile;
    ++t.land_calls[index];
    t.landed[index].resize(t.segments[index].size());
    return t.landed[index];
  };
  callbacks.complete = [&t](FirstTokens first, const TransferStats& stats) {
    ++t.completed;
    t.first_tokens = std::move(first.choices);
    t.stats = stats;
  };
  callbacks.failed = [&t](const Status& why) {
    ++t.receive_failed;
    t.receive_status = why;
  };
  return d->hub.receiver().expect(t.identity, timers.now_ns() + deadline_in_ns,
                                  std::move(callbacks));
}

Status World::open(TestTransfer& t, std::uint64_t deadline_in_ns) {
  SendCallbacks callbacks;
  callbacks.granted = [&t] { ++t.granted; };
  callbacks.acknowledged = [&t] { ++t.acknowledged; };
  callbacks.failed = [&t](const Status& why) {
    ++t.failed;
    t.send_status = why;
  };
  return p->hub.sender().open(t.identity, d->transport.address(), timers.now_ns() + deadline_in_ns,
                              std::move(callbacks));
}

void World::push_layer(TestTransfer& t, std::uint32_t layer) {
  std::vector<OutgoingSegment> segments;
  for (std::uint32_t tile = 0; tile < t.tiles(); ++tile) {
    const std::size_t index = layer * t.tiles() + tile;
    segments.emplace_back(t.segments[index], t.wires[index]);
  }
  p->hub.sender().push(t.identity.transfer_id, layer, 0, std::move(segments));
}

void World::push_all(TestTransfer& t) {
  for (std::uint32_t layer = 0; layer < t.identity.geometry.layers; ++layer) push_layer(t, layer);
}

void World::commit(TestTransfer& t) {
  p->hub.sender().commit(t.identity.transfer_id, {{{42, -0.5f}}, {}}, {1, 2, 3});
}

void World::run(TestTransfer& t) {
  ASSERT_TRUE(expect(t).ok());
  ASSERT_TRUE(open(t).ok());
  push_all(t);
  commit(t);
  ASSERT_TRUE(advance_until_ended(t, 120 * kSecond));
}

void World::poll() {
  do {
    io.restart();
    timers.advance(0);
  } while (io.poll() != 0);
}

void World::advance(std::uint64_t ns) {
  poll();
  while (ns != 0) {
    const std::uint64_t step = std::min(ns, config.tick_ns);
    timers.advance(step);
    poll();
    ns -= step;
  }
}

bool World::advance_until_ended(TestTransfer& t, std::uint64_t limit_ns) {
  const std::uint64_t limit = timers.now_ns() + limit_ns;
  poll();
  while (!t.ended() && timers.now_ns() < limit) advance(config.tick_ns);
  return t.ended();
}

void World::expect_clean() {
  advance(2 * config.tick_ns);
  for (Process* process : {p.get(), d.get()}) {
    EXPECT_TRUE(process->pool->check().ok()) << process->pool->check().to_string();
    const PoolUsage usage = process->pool->usage();
    EXPECT_EQ(usage.free, usage.pool);
    EXPECT_TRUE(process->hub.idle());
    EXPECT_EQ(process->hub.sender().active(), 0u);
    EXPECT_EQ(process->hub.receiver().active(), 0u);
    EXPECT_EQ(
        process->metrics.gauge("kvferry_transfer_credits", "Landing slots promised to senders")
            .value(),
        0);
    EXPECT_EQ(process->metrics
                  .gauge("kvferry_transfer_staging_bytes", "Pool bytes of landing and gather slots")
                  .value(),
              0);
  }
}

}  // namespace kvferry::transport::testing

// The NCCL transport over a loopback and a model of NCCL: handshake, order, sizes, and what happens
// when any of it goes wrong, on virtual time.
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <deque>

#include "tests/transport/fake_nccl.h"
#include "transport/loopback.h"
#include "transport/nccl_link.h"
#include "transport/nccl_transport.h"

namespace kvferry::transport::testing {
namespace {

std::vector<std::byte> bytes_of(std::size_t count, std::uint8_t first) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(first + i * 7);
  return bytes;
}

FrameHeader data_header(std::span<const std::byte> payload, std::uint32_t sequence) {
  FrameHeader header;
  header.type = FrameType::kData;
  header.sequence = sequence;
  header.tile_count = 1;
  header.token_count = 64;
  seal(header, payload);
  return header;
}

// Keeps what arrives.
class Recorder : public FrameHandler {
 public:
  struct Arrived {
    FrameHeader header;
    std::vector<std::byte> payload;
    Status status;
  };

  Result<std::span<std::byte>> on_header(Channel&, const FrameHeader& header) override {
    if (refuse.contains(header.sequence)) return resource_exhausted("no room for it");
    landings.push_back(std::vector<std::byte>(header.payload_bytes));
    return std::span(landings.back());
  }
  void on_frame(Channel& channel, const FrameHeader& header, std::span<std::byte> payload,
                const Status& status) override {
    last = &channel;
    frames.push_back({header, {payload.begin(), payload.end()}, status});
  }
  void on_bad_header(Channel&, const Status&) override { ++bad_headers; }
  void on_closed(const std::shared_ptr<Channel>&, const Status& why) override {
    closed.push_back(why);
  }

  std::set<std::uint32_t> refuse;  // sequences
  std::deque<std::vector<std::byte>> landings;
  std::vector<Arrived> frames;
  std::vector<Status> closed;
  int bad_headers = 0;
  Channel* last = nullptr;
};

struct Side {
  Side(LoopbackNetwork& network, boost::asio::io_context& io, Timers& timers,
       FakeNcclFabric& fabric, const NcclConfig& config)
      : inner(network.attach(io)), nccl(fabric), transport(*inner, timers, nccl, config) {
    transport.set_handler(&recorder);
  }
  std::unique_ptr<Transport> inner;
  FakeNccl nccl;
  Recorder recorder;
  NcclTransport transport;
};

class Nccl : public ::testing::Test {
 protected:
  Nccl() {
    config_.stuck = [this] { ++stuck_; };
    p_ = std::make_unique<Side>(network_, io_, timers_, fabric_, config_);
    d_ = std::make_unique<Side>(network_, io_, timers_, fabric_, config_);
  }
  void connect() {
    const auto channel = p_->transport.connect(d_->transport.address());
    ASSERT_TRUE(channel.ok()) << channel.status().to_string();
    channel_ = *channel;
  }
  void run(std::uint64_t ns = 100 * kMillisecond) {
    for (int i = 0; i < 100; ++i) {
      io_.restart();
      io_.poll();
      timers_.advance(ns / 100);
    }
    io_.restart();
    io_.poll();
  }
  // Sends a DATA frame; its outcome goes to done_[sequence].
  void send(std::uint32_t sequence, std::size_t bytes = 1000) {
    sent_.push_back(bytes_of(bytes, static_cast<std::uint8_t>(sequence)));
    channel_->send(data_header(sent_.back(), sequence), sent_.back(),
                   [this, sequence](const Status& status) { done_[sequence].push_back(status); });
  }
  void expect_all_arrived(std::uint32_t count) {
    ASSERT_EQ(d_->recorder.frames.size(), count);
    for (std::uint32_t i = 0; i < count; ++i) {
      const auto& frame = d_->recorder.frames[i];
      EXPECT_TRUE(frame.status.ok()) << frame.status.to_string();
      EXPECT_EQ(frame.header.sequence, i);
      EXPECT_TRUE(frame.payload == sent_[i]);
      ASSERT_EQ(done_[i].size(), 1u);
      EXPECT_TRUE(done_[i][0].ok());
    }
  }
  // Every frame that was sent has one outcome, the channel is closed on both sides, and NCCL holds
  // nothing.
  void expect_ended(std::size_t frames, const std::string& why) {
    for (std::uint32_t i = 0; i < frames; ++i) EXPECT_EQ(done_[i].size(), 1u) << "frame " << i;
    ASSERT_EQ(p_->recorder.closed.size(), 1u);
    ASSERT_EQ(d_->recorder.closed.size(), 1u);
    const std::string said =
        p_->recorder.closed[0].to_string() + " " + d_->recorder.closed[0].to_string();
    EXPECT_NE(said.find(why), std::string::npos) << said;
    EXPECT_FALSE(channel_->open());
    EXPECT_EQ(p_->nccl.operations(), 0u);
    EXPECT_EQ(d_->nccl.operations(), 0u);
  }

  boost::asio::io_context io_;
  ManualTimers timers_;
  LoopbackNetwork network_;
  FakeNcclFabric fabric_;
  NcclConfig config_;
  int stuck_ = 0;
  std::unique_ptr<Side> p_, d_;
  std::shared_ptr<Channel> channel_;
  std::deque<std::vector<std::byte>> sent_;
  std::map<std::uint32_t, std::vector<Status>> done_;
};

TEST_F(Nccl, PayloadsArriveInOrderAndFramesBeforeTheCommunicatorWait) {
  connect();
  for (std::uint32_t i = 0; i < 20; ++i) send(i, 1 + 777 * i);
  EXPECT_TRUE(done_.empty()) << "nothing calls back inside send";
  run();
  expect_all_arrived(20);
  EXPECT_GT(fabric_.most_posted, 1u) << "one at a time";
}

TEST_F(Nccl, OtherFramesGoBesideIt) {
  connect();
  fabric_.hold = true;  // no communicator yet
  FrameHeader header;
  header.type = FrameType::kWant;
  const std::vector<std::byte> body = bytes_of(40, 3);
  seal(header, body);
  int done = 0;
  channel_->send(header, body, [&](const Status& status) { done += status.ok(); });
  run();
  ASSERT_EQ(d_->recorder.frames.size(), 1u);
  EXPECT_EQ(d_->recorder.frames[0].header.type, FrameType::kWant);
  EXPECT_TRUE(d_->recorder.frames[0].payload == body);
  EXPECT_EQ(done, 1);
  // And back, on the channel that the acceptor sees.
  d_->recorder.last->send(header, body, {});
  run();
  EXPECT_EQ(p_->recorder.frames.size(), 1u);
}

TEST_F(Nccl, WhatTheReceiverRefusesIsNotSent) {
  connect();
  d_->recorder.refuse = {1, 2, 4};
  for (std::uint32_t i = 0; i < 6; ++i) send(i);
  run();
  ASSERT_EQ(d_->recorder.frames.size(), 6u);
  std::size_t arrived = 0;
  for (const auto& frame : d_->recorder.frames) {
    const bool refused = d_->recorder.refuse.contains(frame.header.sequence);
    EXPECT_EQ(frame.status.ok(), !refused) << frame.header.sequence;
    EXPECT_EQ(frame.payload.empty(), refused);
    EXPECT_TRUE(refused || frame.payload == sent_[frame.header.sequence]);
    arrived += !refused;
  }
  EXPECT_EQ(arrived, 3u);
  EXPECT_EQ(fabric_.pairs.begin()->second.sent.size(), 3u);
  for (std::uint32_t i = 0; i < 6; ++i) EXPECT_EQ(done_[i].size(), 1u);
}

TEST_F(Nccl, ADamagedPayloadIsNoticedWhereItLanded) {
  connect();
  const std::vector<std::byte> payload = bytes_of(500, 1);
  FrameHeader header = data_header(payload, 0);
  std::vector<std::byte> other = payload;
  other[77] ^= std::byte{4};
  channel_->send(header, other, {});
  run();
  ASSERT_EQ(d_->recorder.frames.size(), 1u);
  EXPECT_EQ(d_->recorder.frames[0].status.code(), Code::kDataLoss);
  EXPECT_TRUE(channel_->open());
}

TEST_F(Nccl, ADamagedHeaderIsDropped) {
  connect();
  const std::vector<std::byte> payload = bytes_of(500, 1);
  FrameHeader header = data_header(payload, 0);
  header.layer = 9;  // after it was sealed
  channel_->send(header, payload, {});
  run();
  EXPECT_EQ(d_->recorder.bad_headers, 1);
  EXPECT_TRUE(d_->recorder.frames.empty());
}

TEST_F(Nccl, NoCommunicatorInTimeEndsTheChannel) {
  connect();
  fabric_.hold = true;
  send(0);
  run(config_.init_ns - kSecond);
  EXPECT_TRUE(channel_->open());
  run(2 * kSecond);
  expect_ended(1, "did not join the communicator in time");
  EXPECT_EQ(p_->nccl.aborts, 1u);
}

TEST_F(Nccl, AnOperationThatDoesNotEndEndsTheChannel) {
  connect();
  run();
  fabric_.hold = true;
  send(0);
  send(1);
  run(config_.operation_ns - kSecond);
  EXPECT_TRUE(channel_->open());
  run(2 * kSecond);
  expect_ended(2, "did not take part in a transfer in time");
  // What had a place to land is given up with the error.
  ASSERT_EQ(d_->recorder.frames.size(), 2u);
  EXPECT_FALSE(d_->recorder.frames[0].status.ok());
}

TEST_F(Nccl, ErrorsOfTheLibraryEndTheChannel) {
  const Status broken = internal_error("unhandled cuda error");
  for (Status FakeNccl::*where : {&FakeNccl::fail_send, &FakeNccl::fail_finished,
                                  &FakeNccl::fail_receive, &FakeNccl::fail_ready}) {
    for (Side* side : {p_.get(), d_.get()}) {
      if ((where == &FakeNccl::fail_send && side == d_.get()) ||
          (where == &FakeNccl::fail_receive && side == p_.get())) {
        continue;  // that side never does it
      }
      SCOPED_TRACE(side == p_.get() ? "P" : "D");
      done_.clear();
      p_->recorder.closed.clear();
      d_->recorder.closed.clear();
      side->nccl.*where = broken;
      connect();
      send(0);
      run();
      expect_ended(1, "unhandled cuda error");
      side->nccl.*where = ok_status();
    }
  }
}

TEST_F(Nccl, AnInitThatFailsAtOnceGivesAChannelThatCloses) {
  p_->nccl.fail_init = internal_error("no device");
  connect();
  send(0);
  EXPECT_TRUE(done_.empty());
  run();
  ASSERT_EQ(done_[0].size(), 1u);
  EXPECT_NE(done_[0][0].to_string().find("no device"), std::string::npos);
  ASSERT_EQ(p_->recorder.closed.size(), 1u);
}

TEST_F(Nccl, TheNextChannelHasACommunicatorOfAHigherEpoch) {
  connect();
  send(0);
  run();
  channel_->close();
  run();
  expect_ended(1, "closed by this side");
  d_->recorder.frames.clear();
  sent_.clear();
  done_.clear();
  connect();
  send(0);
  run();
  expect_all_arrived(1);
  EXPECT_EQ(fabric_.pairs.size(), 2u);
  EXPECT_EQ(p_->nccl.aborts + d_->nccl.aborts, 2u) << "those of the first communicator";
}

TEST_F(Nccl, WhatAnOldCommunicatorLeftIsIgnored) {
  connect();
  run();
  LinkBody old;
  old.kind = LinkKind::kReady;
  old.epoch = 99;
  const std::vector<std::byte> payload = encode_link(old);
  FrameHeader link;
  link.type = FrameType::kLink;
  seal(link, payload);
  d_->recorder.last = nullptr;
  send(0);
  run();
  ASSERT_NE(d_->recorder.last, nullptr);
  d_->recorder.last->send(link, payload, {});
  send(1);
  run();
  expect_all_arrived(2);
}

TEST_F(Nccl, AnAnswerToNothingEndsTheChannel) {
  connect();
  send(0);
  run();
  LinkBody wrong;
  wrong.kind = LinkKind::kReady;
  wrong.epoch = 1;
  wrong.index = 7;
  const std::vector<std::byte> payload = encode_link(wrong);
  FrameHeader link;
  link.type = FrameType::kLink;
  seal(link, payload);
  d_->recorder.last->send(link, payload, {});
  run();
  expect_ended(1, "an answer to no announcement");
}

TEST_F(Nccl, TheConnectorAloneSendsData) {
  connect();
  send(0);
  run();
  const std::vector<std::byte> payload = bytes_of(100, 1);
  std::vector<Status> outcome;
  d_->recorder.last->send(data_header(payload, 0), payload,
                          [&](const Status& status) { outcome.push_back(status); });
  run();
  ASSERT_EQ(outcome.size(), 1u);
  EXPECT_EQ(outcome[0].code(), Code::kInvalidArgument);
  expect_ended(1, "did not connect");
}

TEST_F(Nccl, AnAbortThatHangsIsReportedOnce) {
  connect();
  run();
  fabric_.hang_aborts = true;
  channel_->close();
  run(config_.abort_ns / 2);
  EXPECT_EQ(stuck_, 0);
  EXPECT_EQ(p_->recorder.closed.size(), 1u) << "the channel does not wait for it";
  run(2 * config_.abort_ns);
  EXPECT_EQ(stuck_, 2) << "once on each side";
}

TEST_F(Nccl, ShutdownCompletesEverything) {
  connect();
  run();
  fabric_.hold = true;
  send(0);
  send(1);
  run(kSecond);
  p_->transport.shutdown();
  EXPECT_EQ(done_[0].size(), 1u);
  EXPECT_EQ(done_[1].size(), 1u);
  EXPECT_EQ(p_->recorder.closed.size(), 1u);
  EXPECT_FALSE(p_->transport.connect(d_->transport.address()).ok());
  run(kSecond);
  EXPECT_EQ(d_->recorder.closed.size(), 1u);
}

TEST(NcclLink, BodiesComeBackAndDamagedOnesDoNot) {
  for (const LinkKind kind :
       {LinkKind::kOffer, LinkKind::kAnnounce, LinkKind::kReady, LinkKind::kSkip}) {
    LinkBody body;
    body.kind = kind;
    body.epoch = 5;
    body.index = 1ull << 40;
    body.id[127] = std::byte{9};
    body.header.sequence = 77;
    const std::vector<std::byte> bytes = encode_link(body);
    const auto back = decode_link(bytes);
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(back->kind, kind);
    EXPECT_EQ(back->epoch, 5u);
    EXPECT_EQ(back->index, 1ull << 40);
    EXPECT_EQ(back->id[127] == std::byte{9}, kind == LinkKind::kOffer);
    EXPECT_EQ(back->header.sequence, kind == LinkKind::kAnnounce ? 77u : 0u);
    for (std::size_t length = 0; length < bytes.size(); ++length) {
      EXPECT_FALSE(decode_link(std::span(bytes).first(length)).ok()) << length;
    }
    std::vector<std::byte> longer = bytes;
    longer.push_back({});
    EXPECT_FALSE(decode_link(longer).ok());
  }
  EXPECT_FALSE(decode_link(std::vector<std::byte>(16)).ok()) << "no kind 0";
}

}  // namespace
}  // namespace kvferry::transport::testing

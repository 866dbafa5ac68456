// A script of frames from a peer that may do anything, against the receiving side of the transfer
// protocol over a loopback: frames as a sender would make them, altered before or behind their
// checksums, repeated, left out, in any order. Whatever comes, the memory of the pool adds up, a
// transfer that completes has every byte as it was sent, and all is given back at the end. Bodies
// that decode are those that encode.
//
// Input: actions of one byte and what they take; 0 stands for what is missing. kEdits of a frame:
// how many, then offset (two bytes) and what to XOR there, each.
#include <boost/asio/io_context.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/extent_pool.h"
#include "base/log.h"
#include "base/metrics.h"
#include "codec/all.h"
#include "transport/bodies.h"
#include "transport/loopback.h"
#include "transport/nccl_link.h"
#include "transport/transfer_hub.h"
#include "transport/transfer_shape.h"

namespace {

using namespace kvferry;             // NOLINT: what this program is about
using namespace kvferry::transport;  // NOLINT

void require(bool holds) {
  if (!holds) std::abort();
}

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  std::uint8_t byte() {
    if (empty()) return 0;
    --size_;
    return *data_++;
  }
  std::uint16_t word() {
    const std::uint16_t low = byte();
    return static_cast<std::uint16_t>(low | byte() << 8);
  }
  std::vector<std::byte> bytes(std::size_t n) {
    n = std::min(n, size_);
    std::vector<std::byte> out(n);
    if (n != 0) std::memcpy(out.data(), data_, n);
    data_ += n;
    size_ -= n;
    return out;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

// Encoding what decoded gives the same bytes.
void check_bodies(std::span<const std::byte> payload) {
  const auto same = [&](const std::vector<std::byte>& encoded) {
    require(std::equal(encoded.begin(), encoded.end(), payload.begin(), payload.end()));
  };
  if (const auto body = decode_want(payload); body.ok()) same(encode_want(*body));
  if (const auto body = decode_grant(payload); body.ok()) same(encode_grant(*body));
  if (const auto body = decode_commit(payload); body.ok()) same(encode_commit(*body));
  if (const auto body = decode_beat(payload); body.ok()) same(encode_beat(*body));
  if (const auto body = decode_link(payload); body.ok()) same(encode_link(*body));
  require(decode_reason(payload).size() <= kMaxReasonBytes);
}

constexpr ModelIdentity kModel = {0x1111, 0x2222};
constexpr std::uint32_t kLayers = 2;

// What one transfer is to carry.
struct Sent {
  TransferIdentity identity;
  TransferShape shape;
  std::vector<std::vector<std::byte>> segments;  // as they go on the wire, by TransferShape::index
  std::vector<std::vector<std::byte>> plain;     // as they land
  SegmentDigest digest;
  std::uint64_t payload_bytes = 0;
};

Sent make_sent(std::uint64_t id, std::uint32_t tokens, const char* spec) {
  Sent sent;
  sent.identity = {id,
                   id,
                   kModel.model_fingerprint,
                   kModel.numerics_class,
                   tokens,
                   codec::make_codec(spec).value(),
                   {kLayers, 1, 1, 64}};
  sent.shape = TransferShape(sent.identity);
  const codec::Codec& codec = *sent.identity.codec;
  std::vector<std::uint16_t> values(std::size_t{2} * codec.tile_tokens() * 64, 0x3f80);
  auto* k = reinterpret_cast<std::byte*>(values.data());
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    for (std::uint32_t tile = 0; tile < sent.shape.tiles(); ++tile) {
      std::vector<std::byte> plain(sent.shape.segment_bytes(layer, tile));
      require(codec
                  .encode(sent.identity.geometry, layer, tile, sent.shape.tokens_of(tile),
                          {k, k + values.size()}, plain)
                  .ok());
      std::vector<std::byte> wire(plain.size());
      wire.resize(codec.wrap(sent.identity.geometry, plain, wire));
      sent.digest.add(layer, tile, plain);
      sent.payload_bytes += wire.size();
      sent.segments.push_back(std::move(wire));
      sent.plain.push_back(std::move(plain));
    }
  }
  return sent;
}

// The peer: takes what it is answered and forgets it.
class Peer : public FrameHandler {
 public:
  Result<std::span<std::byte>> on_header(Channel&, const FrameHeader& header) override {
    landing_.resize(std::max<std::size_t>(landing_.size(), header.payload_bytes));
    return std::span(landing_).first(header.payload_bytes);
  }
  void on_frame(Channel&, const FrameHeader& header, std::span<std::byte> payload,
                const Status& status) override {
    if (status.ok()) check_bodies(payload);
    require(check_header(header).ok());
  }
  void on_bad_header(Channel&, const Status&) override { std::abort(); }
  void on_closed(const std::shared_ptr<Channel>&, const Status&) override {}

 private:
  std::vector<std::byte> landing_;
};

class World {
 public:
  explicit World(Input& input)
      : input_(input),
        pool_(std::move(ExtentPool::create(1 << 18)).value()),
        p_(network_.attach(io_)),
        d_(network_.attach(io_)) {
    set_log_level(LogLevel::kError);
    timers_.advance(kSecond);
    TransferConfig config;
    config.frame_bytes = 1 << 14;
    config.staging_slots = 4;
    config.gather_slots = 2;
    hub_ = std::make_unique<TransferHub>(*d_, timers_, *pool_, 0xBBBB, kModel, metrics_, config);
    p_->set_handler(&peer_);
    connect();
  }

  void act() {
    const std::uint8_t action = input_.byte();
    const std::uint64_t id = 1 + (action >> 4) % 3;
    switch (action % 16) {
      case 0:
        return expect(id);
      case 1:
        return send(header(id, FrameType::kWant), want(id));
      case 2:
        return send_data(id);
      case 3:
        return send_commit(id);
      case 4:
        return send(header(id, FrameType::kRelease), encode_reason("over"));
      case 5:
        return send_beat(id);
      case 6:
        return advance(std::uint64_t{input_.byte()} * 100 * kMillisecond);
      case 7:
        return hub_->receiver().cancel(id, invalid_argument("cancelled"));
      case 8:
        return connect();
      case 9:
        return channel_->close();
      case 10:
        return run();
      case 11:
        expect(id);
        return send(header(id, FrameType::kWant), want(id));
      default:
        return send_any(id);
    }
  }

  void finish() {
    advance(2 * kMinute);
    require(pool_->check().ok());
    require(hub_->idle());
    hub_.reset();
    run();
    require(pool_->check().ok());
    const PoolUsage usage = pool_->usage();
    require(usage.free == usage.pool);
  }

 private:
  static constexpr std::uint64_t kMinute = 60 * kSecond;

  static const Sent& sent(std::uint64_t id) {
    static const Sent all[] = {make_sent(1, 5, "raw"), make_sent(2, 70, "hack(k=1,v=1)"),
                               make_sent(3, 129, "hack(k=1,v=1) | rans")};
    return all[id - 1];
  }
  FrameHeader header(std::uint64_t id, FrameType type) {
    FrameHeader out = identity_header(sent(id).identity, type);
    out.sender_epoch = 0xAAAA;
    return out;
  }
  static std::vector<std::byte> want(std::uint64_t id) {
    const TransferIdentity& identity = sent(id).identity;
    return encode_want({identity.tokens, identity.codec->tile_tokens(), identity.geometry,
                        identity.codec->spec()});
  }

  void connect() {
    auto channel = p_->connect(d_->address());
    if (channel.ok()) channel_ = std::move(*channel);
  }

  void expect(std::uint64_t id) {
    auto landed = std::make_shared<std::vector<std::vector<std::byte>>>(sent(id).plain.size());
    ReceiveCallbacks callbacks;
    callbacks.land = [id, landed](std::uint32_t layer, std::uint32_t tile) {
      const std::uint64_t index = sent(id).shape.index(layer, tile);
      (*landed)[index].resize(sent(id).plain[index].size());
      return std::span<std::byte>((*landed)[index]);
    };
    callbacks.complete = [id, landed](const FirstTokens&, const TransferStats&) {
      require(*landed == sent(id).plain);
    };
    callbacks.failed = [](const Status& why) { require(!why.ok()); };
    (void)hub_->receiver().expect(sent(id).identity, timers_.now_ns() + kMinute,
                                  std::move(callbacks));
  }

  void send_data(std::uint64_t id) {
    const Sent& of = sent(id);
    const std::uint8_t which = input_.byte();
    FrameHeader out = header(id, FrameType::kData);
    out.layer = which % kLayers;
    out.first_tile = which / 2 % of.shape.tiles();
    out.tile_count = 1 + which / 16 % (of.shape.tiles() - out.first_tile);
    out.first_token = of.shape.first_token(out.first_tile);
    out.token_count = of.shape.tokens_of(out.first_tile, out.tile_count);
    out.sequence = sequence_++;
    std::vector<std::byte> payload;
    for (std::uint32_t tile = out.first_tile; tile < out.first_tile + out.tile_count; ++tile) {
      const auto& segment = of.segments[of.shape.index(out.layer, tile)];
      payload.insert(payload.end(), segment.begin(), segment.end());
    }
    send(out, std::move(payload));
  }
  void send_commit(std::uint64_t id) {
    const Sent& of = sent(id);
    const std::uint32_t frames = input_.byte();
    send(header(id, FrameType::kCommit),
         encode_commit(
             {frames, of.digest.value(), of.payload_bytes, {1, 2, 3}, {{{7, -1.0f}}, {}}}));
  }
  void send_beat(std::uint64_t id) {
    const std::uint64_t ids[] = {id, 77};
    FrameHeader out;
    out.type = FrameType::kBeat;
    out.sender_epoch = 0xAAAA;
    send(out, encode_beat(ids));
  }
  void send_any(std::uint64_t id) {
    const FrameHeader out =
        header(id, static_cast<FrameType>(1 + input_.byte() % (kLastFrameType + 1)));
    send(out, input_.bytes(input_.word()));
  }

  // As it is, or with bytes of header and payload altered, before the checksums or behind them.
  void send(FrameHeader out, std::vector<std::byte> payload) {
    check_bodies(payload);
    seal(out, payload);
    const std::uint8_t edits = input_.byte();
    for (int i = 0; i < edits % 8; ++i) {
      const std::size_t at = input_.word() % (sizeof(out) + payload.size());
      const std::byte with{input_.byte()};
      auto* bytes = reinterpret_cast<std::byte*>(&out);
      (at < sizeof(out) ? bytes[at] : payload[at - sizeof(out)]) ^= with;
    }
    // A sealed frame's length is that of its payload; one that is not may lie about it, and a
    // channel gives what there is.
    if (edits % 8 != 0 && edits < 192) seal(out, payload);
    if (out.payload_bytes != payload.size()) return;
    if (!channel_->open()) connect();
    auto kept = std::make_shared<std::vector<std::byte>>(std::move(payload));
    channel_->send(out, *kept, [kept](const Status&) {});
    run();
  }

  void run() {
    do {
      io_.restart();
      timers_.advance(0);
    } while (io_.poll() != 0);
    require(pool_->check().ok());
  }
  void advance(std::uint64_t ns) {
    for (const std::uint64_t end = timers_.now_ns() + ns; timers_.now_ns() < end; run()) {
      timers_.advance(2 * kSecond);
    }
  }

  Input& input_;
  ManualTimers timers_;
  boost::asio::io_context io_;
  LoopbackNetwork network_;
  std::unique_ptr<ExtentPool> pool_;
  Metrics metrics_;
  Peer peer_;
  std::unique_ptr<Transport> p_, d_;
  std::unique_ptr<TransferHub> hub_;
  std::shared_ptr<Channel> channel_;
  std::uint32_t sequence_ = 0;
};

constexpr int kMaxActions = 64;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  World world(input);
  for (int i = 0; i < kMaxActions && !input.empty(); ++i) world.act();
  world.finish();
  return 0;
}

#include "cluster/frame_decoder.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "cluster/control.h"

namespace kvferry::cluster {
namespace {

std::string stream_of(int messages) {
  std::string stream;
  for (int i = 0; i < messages; ++i) {
    proto::Envelope envelope;
    envelope.mutable_token()->set_position(static_cast<std::uint32_t>(i));
    envelope.mutable_token()->set_request_id(static_cast<std::uint64_t>(i) << 40);
    auto frame = encode_frame(envelope);
    EXPECT_TRUE(frame.ok());
    stream += *frame;
  }
  return stream;
}

TEST(FrameDecoder, AnyCutOfTheStreamGivesTheSameMessages) {
  const std::string stream = stream_of(7);
  for (std::size_t piece = 1; piece <= stream.size(); ++piece) {
    FrameDecoder decoder;
    std::vector<std::uint32_t> positions;
    for (std::size_t at = 0; at < stream.size(); at += piece) {
      const std::string part = stream.substr(at, piece);
      ASSERT_TRUE(decoder
                      .feed(part,
                            [&](const proto::Envelope& message) {
                              positions.push_back(message.token().position());
                              return true;
                            })
                      .ok());
    }
    EXPECT_EQ(positions, (std::vector<std::uint32_t>{0, 1, 2, 3, 4, 5, 6})) << piece;
  }
}

TEST(FrameDecoder, StopsWhenTold) {
  FrameDecoder decoder;
  int seen = 0;
  ASSERT_TRUE(decoder.feed(stream_of(5), [&](const proto::Envelope&) { return ++seen < 2; }).ok());
  EXPECT_EQ(seen, 2);
}

TEST(FrameDecoder, RandomAndFlippedBytesNeverCrash) {
  std::mt19937 random(7);
  const std::string good = stream_of(3);
  for (int round = 0; round < 5000; ++round) {
    std::string bytes = good;
    if (round % 2 == 0) {
      for (char& byte : bytes) byte = static_cast<char>(random());
      bytes[1] = bytes[2] = bytes[3] = 0;  // or nearly every length would be refused
    } else {
      bytes[random() % bytes.size()] ^= static_cast<char>(1u << (random() % 8));
    }
    FrameDecoder decoder;
    const Status status = decoder.feed(bytes, [](const proto::Envelope&) { return true; });
    if (!status.ok()) {
      EXPECT_EQ(status.code(), Code::kDataLoss);
    }
  }
}

TEST(FrameDecoder, LengthLimits) {
  for (const std::uint32_t length : {0u, kMaxMessageBytes + 1, 0xffffffffu}) {
    std::string bytes;
    for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<char>(length >> (8 * i)));
    FrameDecoder decoder;
    EXPECT_EQ(decoder.feed(bytes, [](const proto::Envelope&) { return true; }).code(),
              Code::kDataLoss);
  }
  proto::Envelope big;
  big.mutable_failed()->set_message(std::string(kMaxMessageBytes, 'x'));
  EXPECT_EQ(encode_frame(big).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace kvferry::cluster

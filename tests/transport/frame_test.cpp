#include "transport/frame.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace kvferry::transport {
namespace {

FrameHeader data_header() {
  FrameHeader header;
  header.type = FrameType::kData;
  header.sender_epoch = 7;
  header.transfer_id = 9;
  header.layer = 3;
  header.first_tile = 2;
  header.tile_count = 2;
  header.first_token = 128;
  header.token_count = 100;
  return header;
}

std::vector<std::byte> payload_of(std::size_t size) {
  std::vector<std::byte> payload(size);
  for (std::size_t i = 0; i < size; ++i) payload[i] = static_cast<std::byte>(i * 37);
  return payload;
}

TEST(Frame, SealedFramePasses) {
  FrameHeader header = data_header();
  const auto payload = payload_of(1000);
  seal(header, payload);
  EXPECT_EQ(header.payload_bytes, 1000u);
  EXPECT_TRUE(check_header(header).ok());
  EXPECT_TRUE(check_payload(header, payload).ok());
}

TEST(Frame, EveryFlippedHeaderBitIsSeen) {
  FrameHeader header = data_header();
  seal(header, payload_of(64));
  for (std::size_t bit = 0; bit < sizeof(FrameHeader) * 8; ++bit) {
    std::byte raw[sizeof(FrameHeader)];
    std::memcpy(raw, &header, sizeof raw);
    raw[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    FrameHeader flipped;
    std::memcpy(&flipped, raw, sizeof raw);
    EXPECT_FALSE(check_header(flipped).ok()) << "bit " << bit;
  }
}

TEST(Frame, EveryFlippedPayloadBitIsSeen) {
  FrameHeader header = data_header();
  auto payload = payload_of(100);
  seal(header, payload);
  for (std::size_t bit = 0; bit < payload.size() * 8; ++bit) {
    payload[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    EXPECT_FALSE(check_payload(header, payload).ok()) << "bit " << bit;
    payload[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
  }
  EXPECT_FALSE(check_payload(header, std::span(payload).first(99)).ok());
}

// A sender with a bug or ill will seals what makes no sense.
TEST(Frame, SealedNonsenseIsRefused) {
  const auto refused = [](auto change, std::size_t payload_bytes) {
    FrameHeader header = data_header();
    change(header);
    seal(header, payload_of(payload_bytes));
    return !check_header(header).ok();
  };
  EXPECT_FALSE(refused([](FrameHeader&) {}, 10));
  EXPECT_TRUE(refused([](FrameHeader&) {}, 0));
  EXPECT_TRUE(refused([](FrameHeader& h) { h.tile_count = 0; }, 10));
  EXPECT_TRUE(refused([](FrameHeader& h) { h.token_count = 0; }, 10));
  EXPECT_TRUE(refused([](FrameHeader& h) { h.version = 1; }, 10));
  EXPECT_TRUE(refused([](FrameHeader& h) { h.magic = 1; }, 10));
  EXPECT_TRUE(refused([](FrameHeader& h) { h.type = FrameType{0}; }, 10));
  EXPECT_TRUE(refused([](FrameHeader& h) { h.type = FrameType{14}; }, 10));
  EXPECT_TRUE(refused([](FrameHeader& h) { h.reserved[1] = 1; }, 10));
  EXPECT_TRUE(refused([](FrameHeader& h) { h.type = FrameType::kAck; }, 0)) << "tile fields";
  EXPECT_TRUE(refused([](FrameHeader&) {}, kMaxPayloadBytes + 1));
  FrameHeader control;
  control.type = FrameType::kWant;
  seal(control, payload_of(kMaxControlPayloadBytes));
  EXPECT_TRUE(check_header(control).ok());
  seal(control, payload_of(kMaxControlPayloadBytes + 1));
  EXPECT_FALSE(check_header(control).ok());
}

TEST(Frame, TypesHaveNames) {
  EXPECT_EQ(frame_type_name(FrameType::kWant), "want");
  EXPECT_EQ(frame_type_name(FrameType::kCommitAck), "commit_ack");
  EXPECT_EQ(frame_type_name(FrameType::kBeat), "beat");
  EXPECT_EQ(frame_type_name(FrameType::kLink), "link");
  EXPECT_EQ(frame_type_name(FrameType{14}), "unknown");
}

}  // namespace
}  // namespace kvferry::transport

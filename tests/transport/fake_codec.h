// A codec whose segments are a 12-byte header and pattern bytes: for tests of the transport, which
// must not depend on any real codec. Only sizes and validation are meaningful.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "codec/codec.h"

namespace kvferry::transport::testing {

class FakeCodec : public codec::Codec {
 public:
  // Bytes a token takes in a segment of tile 0 (doubled, as a first block with more bits is) and of
  // later tiles.
  explicit FakeCodec(std::string spec = "fake", std::size_t bytes_per_token = 1)
      : Codec(codec::CodecTraits{}, std::move(spec)), bytes_per_token_(bytes_per_token) {}

  Status supports(const codec::KvGeometry&) const override { return ok_status(); }
  std::size_t segment_bytes(const codec::KvGeometry&, std::uint32_t, std::uint32_t tile,
                            std::uint32_t tokens) const override {
    return 12 + bytes_per_token_ * tokens * (tile == 0 ? 2 : 1);
  }
  Status encode(const codec::KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                std::uint32_t tokens, const codec::OpenTile&,
                std::span<std::byte> out) const override {
    if (out.size() != segment_bytes(geometry, layer, tile, tokens)) return invalid_argument("size");
    const std::uint32_t header[3] = {layer, tile, tokens};
    std::memcpy(out.data(), header, sizeof header);
    for (std::size_t i = sizeof header; i < out.size(); ++i) {
      out[i] = static_cast<std::byte>(layer * 31 + tile * 7 + i);
    }
    return ok_status();
  }
  Status validate(const codec::KvGeometry& geometry, std::uint32_t layer, std::uint32_t tile,
                  std::uint32_t tokens, std::span<const std::byte> segment) const override {
    const std::uint32_t expected[3] = {layer, tile, tokens};
    if (segment.size() != segment_bytes(geometry, layer, tile, tokens) ||
        std::memcmp(segment.data(), expected, sizeof expected) != 0) {
      return data_loss("segment header differs");
    }
    return ok_status();
  }
  void attend_all(const codec::KvGeometry&, std::span<const codec::AttendWork>) const override {}
  void reconstruct(const codec::KvGeometry&, std::span<const std::byte>, std::uint32_t, float*,
                   float*) const override {}
  void load_open(const codec::KvGeometry&, std::span<const std::byte>,
                 const codec::OpenTile&) const override {}

 private:
  std::size_t bytes_per_token_;
};

}  // namespace kvferry::transport::testing

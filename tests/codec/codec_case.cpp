#include "codec_case.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <limits>

#include "kernels/dense_kernels.h"
#include "kernels/isa.h"

namespace kvferry::codec {

void EveryCodec::SetUp() {
  const auto codec = make_codec(GetParam());
  ASSERT_TRUE(codec.ok()) << codec.status().to_string();
  codec_ = *codec;
  ASSERT_FALSE(head_dims().empty());
}

void EveryCodec::TearDown() { ASSERT_TRUE(kernels::force_isa(kernels::available_isas().back())); }

std::vector<std::uint32_t> EveryCodec::head_dims() const {
  std::vector<std::uint32_t> dims;
  for (const std::uint32_t dim : {64u, 128u, 256u}) {
    if (codec_->supports({2, 1, 1, dim}).ok()) dims.push_back(dim);
  }
  return dims;
}

KvGeometry EveryCodec::geometry(std::uint32_t kv_heads) const {
  return {2, kv_heads, kv_heads, head_dims().front()};
}

std::string spec_test_name(const ::testing::TestParamInfo<const char*>& test) {
  std::string name;
  for (const char c : std::string(test.param)) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      name += c;
    } else if (!name.empty() && name.back() != '_') {
      name += '_';
    }
  }
  return name;
}

TileValues make_tile(const Codec& codec, const KvGeometry& geometry, bench::Kind kind,
                     std::uint64_t seed) {
  TileValues tile;
  for (std::uint32_t h = 0; h < geometry.kv_heads; ++h) {
    for (auto* values : {&tile.k, &tile.v}) {
      const auto of_head = bench::make_values(kind, ++seed, codec.tile_tokens(), geometry.head_dim);
      values->insert(values->end(), of_head.begin(), of_head.end());
    }
  }
  return tile;
}

ExactBytes::ExactBytes(std::span<const std::byte> bytes, std::size_t offset)
    : ExactBytes(bytes.size(), offset) {
  std::copy(bytes.begin(), bytes.end(), this->bytes().begin());
}

std::vector<std::byte> encode_tile(const Codec& codec, const KvGeometry& geometry,
                                   const Place& place, TileValues& tile) {
  std::vector<std::byte> segment(
      codec.segment_bytes(geometry, place.layer, place.tile, place.tokens));
  const Status status =
      codec.encode(geometry, place.layer, place.tile, place.tokens, tile.open(), segment);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return segment;
}

States::States(std::uint32_t rows, std::uint32_t head_dim)
    : m(rows, -std::numeric_limits<float>::infinity()),
      l(rows, 0.0f),
      o(std::size_t{rows} * head_dim, 0.0f) {}

kernels::AttentionStates States::view() { return rows(0, static_cast<std::uint32_t>(m.size())); }

kernels::AttentionStates States::rows(std::uint32_t first, std::uint32_t count) {
  const auto dim = static_cast<std::uint32_t>(o.size() / m.size());
  return {m.data() + first, l.data() + first, o.data() + std::size_t{first} * dim, count, dim};
}

void States::merge(States other) { kernels::dense_kernels().merge_states(view(), other.view()); }

std::vector<float> States::normalized() {
  std::vector<float> out(o.size());
  kernels::dense_kernels().normalize(view(), out.data());
  return out;
}

bool States::operator==(const States& other) const {
  const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  };
  return same(m, other.m) && same(l, other.l) && same(o, other.o);
}

}  // namespace kvferry::codec

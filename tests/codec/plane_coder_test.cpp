// The wire form of planes: what goes in comes out, in fewer bytes where there is something to
// save; and whatever bytes come in, unwrapping ends with an error or a body, inside its buffers.
#include "codec/plane_coder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <random>
#include <vector>

#include "codec/frequency_table.h"

namespace kvferry::codec {
namespace {

using Bytes = std::vector<std::byte>;

// hack at 2 and 4 bits with head_dim 64, and sub-planes of 3 bits; the sizes of one head.
const std::vector<Plane> kPlanes = {
    {PlaneKind::kCodes, 2, 1024}, {PlaneKind::kScales, 16, 128}, {PlaneKind::kMinima, 16, 128},
    {PlaneKind::kCodes, 4, 2048}, {PlaneKind::kCodes, 1, 512},   {PlaneKind::kCodes, 8, 500},
};

std::size_t part_bytes(const std::vector<Plane>& planes) {
  std::size_t bytes = 0;
  for (const Plane& plane : planes) bytes += plane.bytes;
  return bytes;
}

// Integers only, so that the golden bytes below are those of any standard library. A code is a sum
// of trials that succeed `bias` times in 1000.
void fill_codes(std::mt19937& random, std::uint32_t bits, std::uint32_t bias, std::byte* out,
                std::size_t n) {
  const std::uint32_t trials = bits == 8 ? 31 : (1u << bits) - 1;
  for (std::size_t i = 0; i < n; ++i) {
    std::uint32_t byte = 0;
    for (std::uint32_t field = 0; field < 8; field += bits) {
      for (std::uint32_t t = 0; t < trials; ++t)
        byte += (random() % 1000 < bias ? 1u : 0u) << field;
    }
    out[i] = static_cast<std::byte>(byte);
  }
}

// Exponents as of Gaussian values: every lower one half as frequent.
void fill_bf16(std::mt19937& random, std::byte* out, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 2) {
    const std::uint32_t exponent =
        128 - static_cast<std::uint32_t>(std::countr_zero(random() | 1u << 20));
    const auto value = static_cast<std::uint16_t>(exponent << 7 | (random() & 0x807fu));
    std::memcpy(out + i, &value, sizeof(value));
  }
}

Bytes make_body(const std::vector<Plane>& planes, std::size_t heads, std::uint32_t seed,
                std::uint32_t bias = 300) {
  std::mt19937 random(seed);
  Bytes body(heads * part_bytes(planes));
  std::byte* at = body.data();
  for (std::size_t head = 0; head < heads; ++head) {
    for (const Plane& plane : planes) {
      if (plane.bits == 16) {
        fill_bf16(random, at, plane.bytes);
      } else {
        fill_codes(random, plane.bits, bias, at, plane.bytes);
      }
      at += plane.bytes;
    }
  }
  return body;
}

Bytes wrap(const std::vector<Plane>& planes, const Bytes& body, Coded coded = Coded::kEverything) {
  Bytes wire(body.size() - 1);
  wire.resize(wrap_planes(coded, planes, body, wire));
  return wire;
}

TEST(PlaneCoder, ComesBackInFewerBytes) {
  for (const std::size_t heads : {1u, 2u, 8u}) {
    const Bytes body = make_body(kPlanes, heads, 1);
    const Bytes wire = wrap(kPlanes, body);
    ASSERT_FALSE(wire.empty());
    EXPECT_LT(wire.size(), body.size() * 9 / 10);
    Bytes back(body.size());
    const Status status = unwrap_planes(kPlanes, wire, back);
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(back, body);
  }
}

// A head of 256 channels, 128 tokens in bf16: several chunks a plane, the last one short.
TEST(PlaneCoder, CodesExponentsOfValues) {
  const std::vector<Plane> planes = {{PlaneKind::kValues, 16, 100 * 80 * 2},
                                     {PlaneKind::kValues, 16, 128 * 256 * 2}};
  const Bytes body = make_body(planes, 2, 2);
  for (const Coded coded : {Coded::kExponents, Coded::kEverything}) {
    const Bytes wire = wrap(planes, body, coded);
    ASSERT_FALSE(wire.empty());
    // These exponents have 2 bits of 8; signs and mantissas none to spare.
    EXPECT_GT(wire.size(), body.size() * 62 / 100);
    EXPECT_LT(wire.size(), body.size() * 64 / 100);
    Bytes back(body.size());
    ASSERT_TRUE(unwrap_planes(planes, wire, back).ok());
    EXPECT_EQ(back, body);
  }
}

TEST(PlaneCoder, LosslessLeavesCodesAlone) {
  const std::vector<Plane> planes = {{PlaneKind::kCodes, 2, 4096}};
  const Bytes body = make_body(planes, 2, 3, 50);
  EXPECT_FALSE(wrap(planes, body).empty());
  EXPECT_TRUE(wrap(planes, body, Coded::kExponents).empty());
}

// Golden: the wire form of a body never changes, of one that 16 states code and of one for 64.
TEST(PlaneCoder, WritesTheSameBytesForEver) {
  const struct {
    std::size_t heads, wire_bytes;
    std::uint32_t sum;
  } cases[] = {{1, 3423u, 467123988u}, {3, 9709u, 4094764530u}};
  for (const auto& c : cases) {
    const Bytes wire = wrap(kPlanes, make_body(kPlanes, c.heads, 4));
    std::uint32_t sum = 0;
    for (const std::byte b : wire) sum = sum * 31 + static_cast<std::uint8_t>(b);
    EXPECT_EQ(wire.size(), c.wire_bytes);
    EXPECT_EQ(sum, c.sum);
  }
}

TEST(PlaneCoder, RefusesWhatDoesNotShrink) {
  std::mt19937 random(5);
  Bytes body(8 * part_bytes(kPlanes));
  for (std::byte& b : body) b = static_cast<std::byte>(random());
  EXPECT_TRUE(wrap(kPlanes, body).empty());
  // And what does shrink, but not to the room there is: nothing is written behind it.
  const Bytes soft = make_body(kPlanes, 2, 6);
  const std::size_t least = wrap(kPlanes, soft).size();
  for (const std::size_t room : {std::size_t{0}, std::size_t{1}, std::size_t{300}, least / 2}) {
    Bytes out(room + 16, std::byte{0x5a});
    EXPECT_EQ(wrap_planes(Coded::kEverything, kPlanes, soft, std::span(out).first(room)), 0u);
    for (std::size_t i = room; i < out.size(); ++i) EXPECT_EQ(out[i], std::byte{0x5a});
  }
}

TEST(PlaneCoder, PlanesOfOneCodeAlmostVanish) {
  const std::vector<Plane> planes = {{PlaneKind::kCodes, 2, 8192}, {PlaneKind::kScales, 16, 256}};
  const Bytes body(4 * part_bytes(planes), std::byte{0});
  const Bytes wire = wrap(planes, body);
  ASSERT_FALSE(wire.empty());
  EXPECT_LT(wire.size(), 256u + 64u);
  Bytes back(body.size(), std::byte{1});
  ASSERT_TRUE(unwrap_planes(planes, wire, back).ok());
  EXPECT_EQ(back, body);
}

TEST(PlaneCoder, RefusesEveryTruncation) {
  const Bytes body = make_body(kPlanes, 1, 7);
  const Bytes wire = wrap(kPlanes, body);
  for (std::size_t n = 0; n < wire.size(); ++n) {
    const Bytes cut(wire.begin(), wire.begin() + static_cast<std::ptrdiff_t>(n));
    Bytes back(body.size());
    EXPECT_TRUE(unwrap_planes(kPlanes, cut, back).code() == Code::kDataLoss) << n;
  }
  Bytes longer = wire;
  longer.push_back(std::byte{0});
  Bytes back(body.size());
  EXPECT_FALSE(unwrap_planes(kPlanes, longer, back).ok());
}

// A changed byte is an error, or it was one of those that go as they are, and the body differs.
TEST(PlaneCoder, NoDamagePassesForTheSameBody) {
  const Bytes body = make_body(kPlanes, 1, 8);
  const Bytes wire = wrap(kPlanes, body);
  std::size_t refused = 0;
  for (std::size_t at = 0; at < wire.size(); ++at) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      Bytes damaged = wire;
      damaged[at] ^= static_cast<std::byte>(flip);
      Bytes back(body.size());
      const bool ok = unwrap_planes(kPlanes, damaged, back).ok();
      refused += ok ? 0 : 1;
      if (ok) {
        EXPECT_NE(back, body) << at;
      }
    }
  }
  EXPECT_GT(refused, 3 * wire.size() / 2);
}

TEST(PlaneCoder, SurvivesAnyBytes) {
  std::mt19937 random(9);
  const Bytes body = make_body(kPlanes, 2, 9);
  const Bytes wire = wrap(kPlanes, body);
  for (int round = 0; round < 3000; ++round) {
    Bytes any = wire;
    if (round % 2 == 0) any.resize(random() % (2 * body.size()));
    const std::size_t changes = round % 3 == 0 ? any.size() : random() % 8;
    for (std::size_t i = 0; i < changes && !any.empty(); ++i) {
      any[random() % std::min<std::size_t>(any.size(), 300)] = static_cast<std::byte>(random());
    }
    Bytes back(body.size());
    (void)unwrap_planes(kPlanes, any, back);
  }
}

TEST(PlaneCoder, RefusesBodiesOfOtherPlanes) {
  const Bytes body = make_body(kPlanes, 2, 10);
  const Bytes wire = wrap(kPlanes, body);
  Bytes back(body.size() - 1);
  EXPECT_FALSE(unwrap_planes(kPlanes, wire, back).ok());
  EXPECT_FALSE(unwrap_planes({}, wire, back).ok());
  back.resize(part_bytes(kPlanes));
  EXPECT_FALSE(unwrap_planes(kPlanes, wire, back).ok());
}

TEST(FrequencyTable, ComesBackFromAsManyBytes) {
  std::mt19937 random(11);
  for (int round = 0; round < 1000; ++round) {
    std::vector<std::uint16_t> freq(std::size_t{1} << (1 << random() % 4));
    for (std::uint16_t& f : freq) {
      f = random() % 3 == 0 ? 0 : static_cast<std::uint16_t>(random() % (1u << random() % 13));
    }
    freq[random() % freq.size()] = 4095;
    Bytes table(kMaxFrequencyTableBytes);
    table.resize(write_frequencies(freq, table.data()));
    std::vector<std::uint16_t> back(freq.size(), 7);
    ASSERT_EQ(read_frequencies(table, back), table.size());
    ASSERT_EQ(back, freq);
    for (std::size_t n = 0; n < table.size(); ++n) {
      ASSERT_EQ(read_frequencies(std::span(table).first(n), back), 0u);
    }
  }
}

TEST(FrequencyTable, RefusesCodesThatThereAreNot) {
  std::vector<std::uint16_t> freq = {0, 4095, 1, 0};
  Bytes table(kMaxFrequencyTableBytes);
  table.resize(write_frequencies(freq, table.data()));
  EXPECT_EQ(table[0], std::byte{1});
  EXPECT_EQ(table[1], std::byte{2});
  table[1] = std::byte{4};
  table.resize(40);
  EXPECT_EQ(read_frequencies(table, freq), 0u);
  table[1] = std::byte{0};
  EXPECT_EQ(read_frequencies(table, freq), 0u);
}

}  // namespace
}  // namespace kvferry::codec

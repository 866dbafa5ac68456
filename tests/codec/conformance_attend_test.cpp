// Every codec's attention: against exact attention in double precision over what the bytes mean,
// within the stated bound; a row alone and among others; a sequence cut anywhere and merged.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bench/oracle.h"
#include "codec/dense.h"
#include "codec/pipeline_codec.h"
#include "codec_case.h"
#include "kernels/dense_kernels.h"
#include "kernels/isa.h"

namespace kvferry::codec {
namespace {

using bench::EncodedSequence;
using bench::Kind;

std::vector<float> rounded_to_bf16(std::vector<float> values) {
  for (float& x : values) x = kernels::f32_from_bf16(kernels::bf16_from_f32(x));
  return values;
}

std::vector<std::uint16_t> bf16_of(const std::vector<float>& values) {
  std::vector<std::uint16_t> out;
  for (const float x : values) out.push_back(kernels::bf16_from_f32(x));
  return out;
}
const std::byte* bytes_of(const std::vector<std::uint16_t>& values) {
  return reinterpret_cast<const std::byte*>(values.data());
}

// What bench/oracle reads out of the bytes on its own is what reconstruct says they mean, to one
// rounding of f32 of what is added up.
void expect_reconstructed(const SequenceKv& kv, std::uint32_t layer,
                          const bench::DecodedHead& decoded) {
  const std::size_t n = std::size_t{kv.tile_tokens()} * kv.geometry.head_dim;
  std::vector<float> k(n), v(n);
  for (std::uint32_t tile = 0; tile < kv.closed_tiles(); ++tile) {
    kv.codec->reconstruct(kv.geometry, kv.segment(layer, tile), 0, k.data(), v.data());
    const auto check = [&](const std::vector<float>& got, const std::vector<double>& want) {
      for (std::size_t i = 0; i < n; ++i) {
        const double exact = want[tile * n + i];
        ASSERT_NEAR(got[i], exact, 0x1p-23 * std::fabs(exact) + 1e-44)
            << "tile " << tile << " value " << i;
      }
    };
    check(k, decoded.k);
    check(v, decoded.v);
  }
}

struct Sequence {
  std::uint32_t head_dim, tokens, gqa;
  Kind kind;
  bool bf16_queries = false;
};

void expect_within_bound(const std::string& spec, const Sequence& of) {
  const KvGeometry g{3, 1, of.gqa, of.head_dim};
  const auto made = bench::encode_sequence(spec, g, of.tokens, of.kind, of.tokens + of.gqa);
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  auto queries = bench::make_queries(of.tokens, of.gqa, of.head_dim);
  if (of.bf16_queries) queries = rounded_to_bf16(std::move(queries));
  for (const std::uint32_t layer : bench::layers_that_differ(*made->kv().codec, g.layers)) {
    SCOPED_TRACE("layer " + std::to_string(layer));
    const bench::DecodedHead head = bench::decode_head(made->kv(), layer, 0);
    expect_reconstructed(made->kv(), layer, head);
    const bench::OracleAnswer want = bench::oracle_bounds(head, queries);
    on_every_isa([&] {
      const auto got = bench::attend_sequence(made->kv(), layer, 0, queries);
      for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_LE(std::fabs(got[i] - want.output[i]), want.bound[i])
            << "value " << i << ": " << got[i] << ", exact " << want.output[i];
      }
    });
  }
}

TEST_P(EveryCodec, AttendsWithinItsBoundAtEveryLength) {
  for (const std::uint32_t tokens : {1u, 2u, 63u, 64u, 65u, 127u, 128u, 129u, 4096u}) {
    SCOPED_TRACE(std::to_string(tokens) + " tokens");
    expect_within_bound(GetParam(), {head_dims().front(), tokens, 1, Kind::kGaussian});
  }
}

TEST_P(EveryCodec, AttendsWithinItsBoundOnEveryHeadDimAndKind) {
  for (const std::uint32_t dim : head_dims()) {
    for (const Kind kind : bench::kKinds) {
      if (dim != head_dims().front() && kind != Kind::kMixed) continue;
      SCOPED_TRACE("head_dim " + std::to_string(dim) + " " + std::string(bench::name_of(kind)));
      expect_within_bound(GetParam(), {dim, 256, 1, kind});
    }
  }
}

TEST_P(EveryCodec, AttendsWithinItsBoundForSixteenRows) {
  for (const bool bf16_queries : {false, true}) {
    expect_within_bound(GetParam(), {head_dims().front(), 128, 16, Kind::kGaussian, bf16_queries});
  }
}

// A closed tile, its open form, and a query of each kind for many rows.
struct Rows {
  Rows(const Codec& codec, const KvGeometry& geometry, std::uint32_t count)
      : g(geometry),
        tokens(codec.tile_tokens()),
        tile(make_tile(codec, g, Kind::kGaussian, 21)),
        first(encode_tile(codec, g, {0, 0, tokens}, tile)),
        later(encode_tile(codec, g, {0, 5, tokens}, tile)),
        queries(bench::make_queries(22, count, g.head_dim)),
        score_add(std::size_t{count} * tokens),
        visible(count) {
    for (std::size_t i = 0; i < score_add.size(); ++i) {
      score_add[i] = static_cast<float>(bench::gaussian(23, i));
    }
    for (std::uint32_t r = 0; r < count; ++r) visible[r] = r * 7 % (tokens + 1);
  }

  // Rows first .. first + count - 1, each seeing the first tile, a later one with something added
  // to its scores, and the open one.
  States attend(const Codec& codec, std::uint32_t first_row, std::uint32_t count) const {
    States states(count, g.head_dim);
    QueryRows rows{queries.data() + std::size_t{first_row} * g.head_dim, count};
    codec.attend(g, first, 1, rows, states.view());
    // score_add is [blocks][rows][64]: of these rows alone, another array.
    std::vector<float> add;
    const std::size_t all = visible.size();
    for (std::uint32_t block = 0; block < tokens / kGridTokens; ++block) {
      const auto begin =
          score_add.begin() + static_cast<std::ptrdiff_t>((block * all + first_row) * kGridTokens);
      add.insert(add.end(), begin, begin + std::ptrdiff_t{kGridTokens} * count);
    }
    rows.score_add = add.data();
    codec.attend(g, later, 1, rows, states.view());
    auto values = tile;
    codec.attend_open(g, 0, 6, values.open(), 1, rows, visible.data() + first_row, states.view());
    return states;
  }

  KvGeometry g;
  std::uint32_t tokens;
  TileValues tile;
  std::vector<std::byte> first, later;
  std::vector<float> queries, score_add;
  std::vector<std::uint32_t> visible;
};

// GQA ratios of 1 to 16 and prefill's many rows: a row has the bits that it has alone.
TEST_P(EveryCodec, GivesARowTheSameBitsAmongOthers) {
  constexpr std::uint32_t kRows = 67;
  for (const std::uint32_t dim : head_dims()) {
    const Rows rows(*codec_, {1, 2, 2, dim}, kRows);
    on_every_isa([&] {
      States alone(kRows, dim);
      for (std::uint32_t r = 0; r < kRows; ++r) {
        States row = rows.attend(*codec_, r, 1);
        alone.m[r] = row.m[0];
        alone.l[r] = row.l[0];
        std::copy(row.o.begin(), row.o.end(), alone.o.begin() + std::ptrdiff_t{r} * dim);
      }
      ASSERT_EQ(rows.attend(*codec_, 0, kRows), alone);
      for (std::uint32_t count = 2; count <= 16; ++count) {
        const std::uint32_t from = 3 * count;
        const States got = rows.attend(*codec_, from, count);
        const auto want = alone.o.begin() + std::ptrdiff_t{from} * dim;
        ASSERT_TRUE(std::equal(got.o.begin(), got.o.end(), want)) << count << " rows";
        ASSERT_TRUE(std::equal(got.l.begin(), got.l.end(), alone.l.begin() + from));
      }
    });
  }
}

// A storage that attends on bf16 gives what `raw` gives of what its bytes mean, to the last bit: so
// `dequantize` before it changes nothing.
TEST_P(EveryCodec, AttendsOnItsBf16ValuesWhereItSaysSo) {
  const auto pipeline = make_pipeline_codec(GetParam());
  ASSERT_TRUE(pipeline.ok());
  if (!(*pipeline)->storage().attends_bf16()) return;
  constexpr std::uint32_t kRows = 5;
  const KvGeometry g = geometry();
  const std::uint32_t tokens = codec_->tile_tokens();
  auto tile = make_tile(*codec_, g, Kind::kGaussian, 21);
  const auto segment = encode_tile(*codec_, g, {1, 1, tokens}, tile);
  std::vector<float> k(std::size_t{tokens} * g.head_dim), v(k.size());
  codec_->reconstruct(g, segment, 1, k.data(), v.data());
  const auto k_bf16 = bf16_of(k), v_bf16 = bf16_of(v);
  const auto queries = bench::make_queries(22, kRows, g.head_dim);
  on_every_isa([&] {
    States got(kRows, g.head_dim), want(kRows, g.head_dim);
    codec_->attend(g, segment, 1, {queries.data(), kRows}, got.view());
    attend_dense(OpenDtype::kBf16, tokens, bytes_of(k_bf16), bytes_of(v_bf16),
                 {queries.data(), kRows}, nullptr, want.view());
    ASSERT_EQ(got, want);
  });
}

// Twice over the same rows gives the same bits: nothing is left in a buffer.
TEST_P(EveryCodec, AttendsAlikeEveryTime) {
  const Rows rows(*codec_, geometry(), 5);
  on_every_isa([&] { ASSERT_EQ(rows.attend(*codec_, 0, 5), rows.attend(*codec_, 0, 5)); });
}

// A sequence cut at any tile into two or three parts, each attended to on its own and merged: the
// same answer up to rounding, and the same bits for the same cut.
TEST_P(EveryCodec, MergesWhereverItIsCut) {
  constexpr std::uint32_t kTiles = 5, kRows = 3;
  const KvGeometry g = geometry(1);
  const auto made =
      bench::encode_sequence(GetParam(), g, kTiles * codec_->tile_tokens(), Kind::kGaussian, 31);
  ASSERT_TRUE(made.ok());
  const SequenceKv& kv = made->kv();
  const auto queries = bench::make_queries(32, kRows, g.head_dim);
  const auto attend = [&](std::uint32_t from, std::uint32_t to) {
    States states(kRows, g.head_dim);
    for (std::uint32_t tile = from; tile < to; ++tile) {
      codec_->attend(g, kv.segment(0, tile), 0, {queries.data(), kRows}, states.view());
    }
    return states;
  };
  on_every_isa([&] {
    const auto whole = attend(0, kTiles).normalized();
    for (std::uint32_t a = 0; a <= kTiles; ++a) {
      for (std::uint32_t b = a; b <= kTiles; ++b) {
        const auto cut = [&] {
          States states = attend(0, a);
          states.merge(attend(a, b));
          states.merge(attend(b, kTiles));
          return states;
        };
        States once = cut();
        ASSERT_EQ(once, cut());
        const auto merged = once.normalized();
        for (std::size_t i = 0; i < whole.size(); ++i) {
          ASSERT_NEAR(merged[i], whole[i], 2e-6) << "cut at " << a << " and " << b;
        }
      }
    }
  });
}

// The tiles' bytes of a long sequence do not depend on how long it is.
TEST_P(EveryCodec, EncodesATileAlikeInEverySequence) {
  const KvGeometry g = geometry(1);
  const std::uint32_t whole = codec_->tile_tokens();
  const auto shorter = bench::encode_sequence(GetParam(), g, 2 * whole, Kind::kGaussian, 41);
  const auto longer = bench::encode_sequence(GetParam(), g, 3 * whole + 5, Kind::kGaussian, 41);
  ASSERT_TRUE(shorter.ok() && longer.ok());
  for (std::uint32_t tile = 0; tile < 2; ++tile) {
    const auto a = shorter->kv().segment(0, tile), b = longer->kv().segment(0, tile);
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << tile;
  }
}

}  // namespace
}  // namespace kvferry::codec

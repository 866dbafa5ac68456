// Properties of codecs over random specs, geometries, lengths and values. RapidCheck shrinks what
// fails and prints how to see it again; CTest fixes the seed, RC_PARAMS='seed=N max_success=M' in
// the environment of the program tries others.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "codec/pipeline_codec.h"
#include "codec_case.h"
#include "tests/codec/random_spec.h"

namespace kvferry::codec {
namespace {

using bench::Kind;

std::shared_ptr<const Codec> require_codec(const std::string& spec) {
  const auto codec = make_codec(spec);
  if (!codec.ok()) {
    RC_ASSERT(codec.status().message().starts_with("codec spec, character "));
    RC_DISCARD("not a codec");
  }
  return *codec;
}

RC_GTEST_PROP(Specs, HaveOneNormalForm, ()) {
  SpecText spec = *random_spec();
  const auto codec = require_codec(join_spec(spec));
  const auto again = make_codec(codec->spec());
  RC_ASSERT(again.ok());
  RC_ASSERT((*again)->spec() == codec->spec());
  RC_ASSERT((*again)->id() == codec->id());
  for (StageText& stage : spec) {  // in another order, with blanks
    const auto from = stage.arguments;
    std::vector<std::string> to;
    for (std::string argument : from) {
      to.insert(to.begin() + *rc::gen::inRange<std::ptrdiff_t>(0, std::ssize(to) + 1),
                std::move(argument));
    }
    stage.arguments = to;
  }
  const auto other = make_codec(join_spec(spec, *rc::gen::element(" ", "\t", "\n ")));
  RC_ASSERT(other.ok());
  RC_ASSERT((*other)->spec() == codec->spec());
  RC_ASSERT((*other)->id() == codec->id());
}

// A codec, a geometry that it serves, and a tile of values.
struct Drawn {
  std::shared_ptr<const Codec> codec;
  KvGeometry geometry;
  Place at;
  TileValues tile;
};

Drawn draw(const std::string& spec) {
  Drawn drawn;
  drawn.codec = require_codec(spec);
  const std::uint32_t layers = *rc::gen::inRange(1u, 4u);
  const std::uint32_t heads = *rc::gen::inRange(1u, 4u);
  drawn.geometry = {layers, heads, heads, *rc::gen::element(64u, 128u, 256u)};
  RC_PRE(drawn.codec->supports(drawn.geometry).ok());
  const std::uint32_t whole = drawn.codec->tile_tokens();
  drawn.at = {*rc::gen::inRange(0u, layers), *rc::gen::element(0u, 1u, 70u),
              *rc::gen::weightedOneOf<std::uint32_t>(
                  {{3, rc::gen::just(whole)}, {1, rc::gen::inRange(1u, whole)}})};
  drawn.tile = make_tile(
      *drawn.codec, drawn.geometry,
      *rc::gen::elementOf(std::vector<Kind>(std::begin(bench::kKinds), std::end(bench::kKinds))),
      *rc::gen::arbitrary<std::uint64_t>());
  return drawn;
}

std::vector<float> widened(const std::vector<std::uint16_t>& values) {
  std::vector<float> out;
  for (const std::uint16_t value : values) out.push_back(kernels::f32_from_bf16(value));
  return out;
}

// K and V as the bytes mean them, [kv_heads][tokens][head_dim].
struct Meaning {
  std::vector<float> k, v;
};
Meaning meaning(const Drawn& drawn, std::span<const std::byte> segment) {
  const std::size_t head = std::size_t{drawn.at.tokens} * drawn.geometry.head_dim;
  Meaning out{std::vector<float>(drawn.geometry.kv_heads * head), {}};
  out.v.resize(out.k.size());
  for (std::uint32_t h = 0; h < drawn.geometry.kv_heads; ++h) {
    drawn.codec->reconstruct(drawn.geometry, segment, h, out.k.data() + h * head,
                             out.v.data() + h * head);
  }
  return out;
}

RC_GTEST_PROP(Segments, ValidateAndComeBack, ()) {
  Drawn drawn = draw(join_spec(*random_spec()));
  const auto& [codec, g, at, tile] = drawn;
  const auto segment = encode_tile(*codec, g, at, drawn.tile);
  RC_ASSERT(codec->validate(g, at.layer, at.tile, at.tokens, segment).ok());
  std::vector<std::byte> wire(segment.size()), back(segment.size());
  wire.resize(codec->wrap(g, segment, wire));
  RC_ASSERT(wire.size() <= segment.size());
  RC_ASSERT(codec->unwrap(g, at.layer, at.tile, at.tokens, wire, back).ok());
  RC_ASSERT(back == segment);
  const Meaning means = meaning(drawn, segment);
  RC_ASSERT(std::all_of(means.k.begin(), means.k.end(), [](float x) { return std::isfinite(x); }));
  RC_ASSERT(std::all_of(means.v.begin(), means.v.end(), [](float x) { return std::isfinite(x); }));
  if (at.tokens == codec->tile_tokens() && codec->traits().lossless) {
    RC_ASSERT(means.k == widened(tile.k));
    RC_ASSERT(means.v == widened(tile.v));
  }
}

// What `bits` and the range of its column allow an encoded value to be off with range=minmax: half
// of a step, which is rounded up to bf16, and roundings of f32.
void check_half_steps(std::span<const float> values, std::span<const float> means,
                      const std::vector<std::size_t>& column, std::uint32_t bits) {
  float low = std::numeric_limits<float>::max(), high = -low;
  for (const std::size_t i : column) {
    low = std::min(low, values[i]);
    high = std::max(high, values[i]);
  }
  const double levels = (1u << bits) - 1;
  const double step = std::max((double{high} - low) / levels * (1 + 0x1p-7), 0x1p-126);
  const double largest = std::max(std::fabs(low), std::fabs(high));
  for (const std::size_t i : column) {
    RC_ASSERT(std::fabs(double{means[i]} - values[i]) <= step / 2 + 0x1p-21 * largest);
  }
}

RC_GTEST_PROP(Segments, MinMaxIsWithinHalfAStep, ()) {
  const auto bits_k = *rc::gen::inRange(1u, 9u), bits_v = *rc::gen::inRange(1u, 9u);
  const auto group = *rc::gen::element(32u, 64u, 128u);
  Drawn drawn = draw("hack(k=" + std::to_string(bits_k) + ",v=" + std::to_string(bits_v) +
                     ",range=minmax,first_bits=none,group=" + std::to_string(group) + ")");
  const auto& [codec, g, at, tile] = drawn;
  drawn.at.tokens = codec->tile_tokens();
  const Meaning means = meaning(drawn, encode_tile(*codec, g, at, drawn.tile));
  const auto k = widened(tile.k), v = widened(tile.v);
  std::vector<std::size_t> column(group);
  for (std::size_t h = 0; h < g.kv_heads; ++h) {
    const std::size_t first = h * at.tokens * g.head_dim;
    for (std::size_t t = 0; t < at.tokens; t += group) {  // K: tokens of a channel
      for (std::size_t d = 0; d < g.head_dim; ++d) {
        for (std::size_t i = 0; i < group; ++i) column[i] = first + (t + i) * g.head_dim + d;
        check_half_steps(k, means.k, column, bits_k);
      }
    }
    for (std::size_t at_group = 0; at_group < at.tokens * g.head_dim / group; ++at_group) {
      for (std::size_t i = 0; i < group; ++i) column[i] = first + at_group * group + i;
      check_half_steps(v, means.v, column, bits_v);  // V: channels of a token
    }
  }
}

// The better range has no more squared error: lsq starts where search ends, search tries minmax.
RC_GTEST_PROP(Segments, RangesGetNoWorse, ()) {
  const auto bits = std::to_string(*rc::gen::inRange(1u, 5u));
  Drawn drawn = draw("hack(k=" + bits + ",v=" + bits + ",range=minmax)");
  drawn.at.tokens = drawn.codec->tile_tokens();
  drawn.at.tile = 5;
  double before = std::numeric_limits<double>::infinity();
  for (const char* range : {"minmax", "search", "lsq"}) {
    drawn.codec = *make_codec("hack(k=" + bits + ",v=" + bits + ",range=" + range + ")");
    const Meaning means =
        meaning(drawn, encode_tile(*drawn.codec, drawn.geometry, drawn.at, drawn.tile));
    const auto k = widened(drawn.tile.k);
    double square = 0.0;
    for (std::size_t i = 0; i < k.size(); ++i) {
      square += (double{means.k[i]} - k[i]) * (double{means.k[i]} - k[i]);
    }
    RC_ASSERT(square <= before * 1.001 + 1e-70);
    before = square;
  }
}

// States of tiles, merged two and two in any order of brackets, give the same answer; an empty
// state changes nothing, on either side.
RC_GTEST_PROP(States, MergeInAnyOrder, ()) {
  const std::uint32_t dim = 64, rows = *rc::gen::inRange(1u, 8u);
  const auto codec = *make_codec("raw");
  const KvGeometry g{1, 1, 1, dim};
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  auto queries = bench::make_queries(seed, rows, dim);
  const float sharpness = *rc::gen::element(0.0f, 1.0f, 30.0f);
  for (float& q : queries) q *= sharpness;
  std::vector<States> parts;
  States whole(rows, dim);
  const std::uint32_t count = *rc::gen::inRange(2u, 7u);
  for (std::uint32_t tile = 0; tile < count; ++tile) {
    TileValues values = make_tile(*codec, g, Kind::kGaussian, seed + tile);
    const auto segment = encode_tile(*codec, g, {0, tile, 64}, values);
    parts.emplace_back(rows, dim);
    codec->attend(g, segment, 0, {queries.data(), rows}, parts.back().view());
    whole.merge(parts.back());
    States empty(rows, dim);
    empty.merge(parts.back());
    RC_ASSERT(empty == parts.back());
    States same = parts.back();
    same.merge(States(rows, dim));
    RC_ASSERT(same == parts.back());
  }
  while (parts.size() > 1) {
    const auto at = *rc::gen::inRange<std::size_t>(0, parts.size() - 1);
    parts[at].merge(parts[at + 1]);
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  const auto merged = parts[0].normalized(), straight = whole.normalized();
  for (std::size_t i = 0; i < merged.size(); ++i) {
    RC_ASSERT(std::fabs(merged[i] - straight[i]) <= 4e-6f);
  }
}

}  // namespace
}  // namespace kvferry::codec

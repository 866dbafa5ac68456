#include "bench/kv_data.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "base/hash.h"
#include "kernels/dense_kernels.h"

namespace kvferry::bench {

using codec::OpenTile;

namespace {

float value_of(Kind kind, std::uint64_t seed, std::uint32_t t, std::uint32_t d,
               std::uint32_t head_dim) {
  const std::uint64_t index = std::uint64_t{t} * head_dim + d;
  const auto normal = static_cast<float>(gaussian(seed, index));
  switch (kind) {
    case Kind::kGaussian:
      return normal;
    case Kind::kUniform:
      return static_cast<float>(uniform(seed, index) - 0.3) * std::exp2f(t % 7 * 1.0f - 4.0f);
    case Kind::kConstantChannels:
      if (d % 3 != 0) return normal;
      return static_cast<float>(gaussian(seed + 1, d)) * (d % 2 == 0 ? 1.0f : 1000.0f) / 64.0f;
    case Kind::kOutliers:
      if (d == 5 || t % 64 == 17) return normal * 1e3f;
      return counter_random(seed + 2, index) % 97 == 0 ? normal * 1e4f : normal;
    case Kind::kZeros:
      return d % 2 == 0 ? 0.0f : -0.0f;
    case Kind::kSubnormal:
      return normal * 1e-39f;
    case Kind::kMixed:
      return value_of(kKinds[d % 6], seed + d, t, d, head_dim);
  }
  return 0.0f;
}

void write_token(const EncodedSequence& sequence, std::uint32_t layer, std::uint32_t t) {
  const SequenceKv& kv = sequence.kv();
  const std::size_t dim = kv.geometry.head_dim, row = dim * sizeof(std::uint16_t);
  const OpenTile open = kv.open_tile(layer);
  for (std::uint32_t h = 0; h < kv.geometry.kv_heads; ++h) {
    const std::size_t slot = (std::size_t{h} * kv.tile_tokens() + t % kv.tile_tokens()) * row;
    std::memcpy(open.k + slot, sequence.k[h].data() + t * dim, row);
    std::memcpy(open.v + slot, sequence.v[h].data() + t * dim, row);
  }
}

}  // namespace

std::string_view name_of(Kind kind) {
  switch (kind) {
    case Kind::kGaussian:
      return "gaussian";
    case Kind::kUniform:
      return "uniform";
    case Kind::kConstantChannels:
      return "constant_channels";
    case Kind::kOutliers:
      return "outliers";
    case Kind::kZeros:
      return "zeros";
    case Kind::kSubnormal:
      return "subnormal";
    case Kind::kMixed:
      return "mixed";
  }
  return "";
}

double uniform(std::uint64_t seed, std::uint64_t index) {
  return (static_cast<double>(counter_random(seed, index) >> 11) + 0.5) * 0x1p-53;
}

double gaussian(std::uint64_t seed, std::uint64_t index) {
  const double radius = std::sqrt(-2.0 * std::log(uniform(seed, 2 * index)));
  return radius * std::cos(2.0 * std::numbers::pi * uniform(seed, 2 * index + 1));
}

std::vector<std::uint16_t> make_values(Kind kind, std::uint64_t seed, std::uint32_t tokens,
                                       std::uint32_t head_dim) {
  std::vector<std::uint16_t> values;
  values.reserve(std::size_t{tokens} * head_dim);
  for (std::uint32_t t = 0; t < tokens; ++t) {
    for (std::uint32_t d = 0; d < head_dim; ++d) {
      values.push_back(kernels::bf16_from_f32(value_of(kind, seed, t, d, head_dim)));
    }
  }
  return values;
}

std::vector<float> make_queries(std::uint64_t seed, std::uint32_t rows, std::uint32_t head_dim) {
  std::vector<float> queries(std::size_t{rows} * head_dim);
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  for (std::size_t i = 0; i < queries.size(); ++i) {
    queries[i] = static_cast<float>(gaussian(seed, i)) * scale;
  }
  return queries;
}

Result<EncodedSequence> encode_sequence(const std::string& spec, const KvGeometry& geometry,
                                        std::uint32_t tokens, Kind kind, std::uint64_t seed) {
  EncodedSequence sequence;
  KVF_ASSIGN_OR_RETURN(const auto codec, codec::make_codec(spec));
  KVF_RETURN_IF_ERROR(codec->supports(geometry));
  sequence.memory = std::make_unique<codec::OwnedSequenceKv>(codec, geometry, tokens);
  SequenceKv& kv = sequence.kv();
  for (std::uint32_t h = 0; h < geometry.kv_heads; ++h) {
    sequence.k.push_back(make_values(kind, seed + 1000 * h, tokens, geometry.head_dim));
    sequence.v.push_back(make_values(kind, seed + 1000 * h + 500, tokens, geometry.head_dim));
  }
  for (std::uint32_t t = 0; t < tokens; ++t) {
    for (std::uint32_t layer = 0; layer < geometry.layers; ++layer) {
      write_token(sequence, layer, t);
    }
    kv.length = t + 1;
    if (kv.open_tokens() != 0) continue;
    const std::uint32_t tile = t / kv.tile_tokens();
    for (std::uint32_t layer = 0; layer < geometry.layers; ++layer) {
      KVF_RETURN_IF_ERROR(kv.codec->encode(geometry, layer, tile, kv.tile_tokens(),
                                           kv.open_tile(layer), kv.segment(layer, tile)));
    }
  }
  return sequence;
}

std::vector<float> attend_sequence(const SequenceKv& kv, std::uint32_t layer, std::uint32_t kv_head,
                                   const std::vector<float>& queries) {
  const std::uint32_t dim = kv.geometry.head_dim;
  const auto rows = static_cast<std::uint32_t>(queries.size() / dim);
  std::vector<float> m(rows, -std::numeric_limits<float>::infinity());
  std::vector<float> l(rows, 0.0f);
  std::vector<float> o(queries.size(), 0.0f);
  const kernels::AttentionStates states{m.data(), l.data(), o.data(), rows, dim};
  const codec::QueryRows query_rows{queries.data(), rows};
  for (std::uint32_t tile = 0; tile < kv.closed_tiles(); ++tile) {
    kv.codec->attend(kv.geometry, kv.segment(layer, tile), kv_head, query_rows, states);
  }
  if (kv.open_tokens() != 0) {
    const std::vector<std::uint32_t> visible(rows, kv.open_tokens());
    kv.codec->attend_open(kv.geometry, layer, kv.closed_tiles(), kv.open_tile(layer), kv_head,
                          query_rows, visible.data(), states);
  }
  std::vector<float> out(queries.size());
  kernels::dense_kernels().normalize(states, out.data());
  return out;
}

}  // namespace kvferry::bench

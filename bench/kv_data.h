// KV made up for tests and measurements: seeded values of several kinds, and a sequence encoded
// from them.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "codec/sequence_kv.h"

namespace kvferry::bench {

using codec::KvGeometry;
using codec::SequenceKv;

enum class Kind {
  kGaussian,
  kUniform,           // of one token vastly larger steps than another
  kConstantChannels,  // a third of the channels hold one value, up to 1000 times the others
  kOutliers,          // single values and whole channels and tokens 1e3 to 1e4 times the others
  kZeros,
  kSubnormal,
  kMixed,  // each channel of another kind
};
inline constexpr Kind kKinds[] = {Kind::kGaussian, Kind::kUniform, Kind::kConstantChannels,
                                  Kind::kOutliers, Kind::kZeros,   Kind::kSubnormal,
                                  Kind::kMixed};
std::string_view name_of(Kind kind);

// Uniform in (0, 1), a function of seed and index.
double uniform(std::uint64_t seed, std::uint64_t index);
double gaussian(std::uint64_t seed, std::uint64_t index);

// bf16 values [tokens][head_dim] of one head.
std::vector<std::uint16_t> make_values(Kind kind, std::uint64_t seed, std::uint32_t tokens,
                                       std::uint32_t head_dim);
// f32 [rows][head_dim], multiplied by 1/sqrt(head_dim).
std::vector<float> make_queries(std::uint64_t seed, std::uint32_t rows, std::uint32_t head_dim);

// A sequence of `tokens` tokens, of the same values in every layer, encoded as a worker would:
// closed tiles as segments, the rest in the open tile. k[h], v[h] are what went in.
struct EncodedSequence {
  std::unique_ptr<codec::OwnedSequenceKv> memory;
  std::vector<std::vector<std::uint16_t>> k, v;
  SequenceKv& kv() const { return memory->kv(); }
};
Result<EncodedSequence> encode_sequence(const std::string& spec, const KvGeometry& geometry,
                                        std::uint32_t tokens, Kind kind, std::uint64_t seed);

// What attention over a layer of the sequence gives: normalised output [rows][head_dim].
std::vector<float> attend_sequence(const SequenceKv& kv, std::uint32_t layer, std::uint32_t kv_head,
                                   const std::vector<float>& queries);

}  // namespace kvferry::bench

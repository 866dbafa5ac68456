// What attention over encoded KV must give: exact attention in double precision over what the
// bytes mean, the hard bound of the integer rounding (docs/codecs.md, "Error bounds"), and the
// error that rounding q and p to 8 bits predicts. It reads segments on its own, by the offsets of
// docs/codecs.md.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "codec/sequence_kv.h"

namespace kvferry::bench {

struct OracleAnswer {
  std::vector<double> output;            // [rows][head_dim], normalised
  std::vector<double> bound;             // of |attend - output|, alike
  std::vector<double> predicted_square;  // mean squared error under uniform rounding errors, alike
  std::vector<double> float_slop;        // the part of bound that f32 arithmetic is granted
};

// K and V of one head as the bytes mean them, and the integer steps they were made with.
struct DecodedHead {
  std::uint32_t tokens = 0, head_dim = 0;
  std::vector<double> k, v;            // [tokens][head_dim]
  std::vector<double> k_code, v_code;  // [tokens][head_dim]; 0 for dense tokens
  std::vector<double> k_scale;         // [tokens][head_dim]
  std::vector<double> v_scale;         // [tokens][head_dim]
};
DecodedHead decode_head(const codec::SequenceKv& kv, std::uint32_t kv_head);

OracleAnswer oracle(const DecodedHead& head, const std::vector<float>& queries, std::uint64_t seed);

}  // namespace kvferry::bench

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

// How attention rounds q~ and p~ to 8 bits.
struct OperandRounding {
  bool asymmetric = false;            // from the least value of the group instead of from 0
  std::uint32_t channels = 64;        // that share a step of q~
  std::uint32_t tokens = 64;          // that share a step of p~
  std::uint32_t key_tokens = 64;      // for which q~ is rounded at once
  std::uint32_t value_channels = 64;  // for which p~ is rounded at once
  double float_slop = 0.0;            // error of f32 sums, of the magnitudes summed
};

// K and V of one head as the bytes mean them, and what they were made of; all [tokens][head_dim].
struct DecodedHead {
  std::uint32_t tokens = 0, head_dim = 0;
  OperandRounding rounding;
  std::vector<double> k, v;
  // What q and p are multiplied by before they are rounded, and what multiplies them then: scales
  // and codes (with the factors of rows and columns), or 1 and the values themselves. 0 for dense
  // tokens.
  std::vector<double> k_scale, v_scale;
  std::vector<double> k_code, v_code;
  std::vector<double> k_size, v_size;  // magnitudes summed in f32: |scale code| + |minimum|
};
DecodedHead decode_head(const codec::SequenceKv& kv, std::uint32_t kv_head);

OracleAnswer oracle(const DecodedHead& head, const std::vector<float>& queries, std::uint64_t seed);
// Without predicted_square, which is what takes long: drawn errors go through many softmaxes.
OracleAnswer oracle_bounds(const DecodedHead& head, const std::vector<float>& queries);

}  // namespace kvferry::bench

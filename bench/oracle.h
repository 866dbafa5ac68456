// What attention over encoded KV must give: exact attention in double precision over what the
// bytes mean, the hard bound of the integer rounding (docs/codecs.md, "Error bounds"), and the
// error that rounding q and p to 8 bits predicts.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/decoded_head.h"

namespace kvferry::bench {

struct OracleAnswer {
  std::vector<double> output;            // [rows][head_dim], normalised
  std::vector<double> bound;             // of |attend - output|, alike
  std::vector<double> predicted_square;  // mean squared error under uniform rounding errors, alike
  std::vector<double> float_slop;        // the part of bound that f32 arithmetic is granted
};

OracleAnswer oracle(const DecodedHead& head, const std::vector<float>& queries, std::uint64_t seed);
// Without predicted_square, which is what takes long: drawn errors go through many softmaxes.
OracleAnswer oracle_bounds(const DecodedHead& head, const std::vector<float>& queries);

}  // namespace kvferry::bench

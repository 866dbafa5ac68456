// K and V of a head as encoded bytes mean them, in double precision, and what they are made of:
// what the oracle attends to (bench/oracle.h). It reads segments on its own, by the offsets of
// docs/codecs.md and not by the codec's code.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "codec/sequence_kv.h"

namespace kvferry::bench {

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

// Closed tiles as their segments say, the open one as it lies; or, with rqe=off, as it is coded for
// a row that sees all of it.
DecodedHead decode_head(const codec::SequenceKv& kv, std::uint32_t layer, std::uint32_t kv_head);

// Of the layers 0 .. layers - 1 the first of each storage: a codec may have another one in each
// (profile), and is held to the oracle once for each.
std::vector<std::uint32_t> layers_that_differ(const codec::Codec& codec, std::uint32_t layers);

}  // namespace kvferry::bench

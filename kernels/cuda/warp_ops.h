// What the attention kernels share of arithmetic in a warp. Lanes are counted as 4 g + t, g in 0..7
// and t in 0..3, as the tensor cores' operands lie (lane.h).
#pragma once

#include "kernels/cuda/lane.h"

namespace kvferry::cuda {

constexpr int kTileTokens = 64;
constexpr int kRows = 8;  // query rows of a warp: columns of the tensor cores' results
constexpr float kLog2E = 1.44269504f;

// Two bf16 of a word.
template <class Lane>
KVF_DEVICE float low_bf16(std::uint32_t pair) {
  return Lane::as_float(pair << 16);
}
template <class Lane>
KVF_DEVICE float high_bf16(std::uint32_t pair) {
  return Lane::as_float(pair & 0xffff0000u);
}

// kCount bf16 from p, 16-byte aligned.
template <int kCount, class Lane>
KVF_DEVICE void load_bf16(const Lane& lane, const std::byte* p, float (&out)[kCount]) {
  KVF_UNROLL
  for (int i = 0; i < kCount; i += 8) {
    const Words words = lane.load16(p + 2 * i);
    KVF_UNROLL
    for (int n = 0; n < 4; ++n) {
      out[i + 2 * n] = low_bf16<Lane>(words.w[n]);
      out[i + 2 * n + 1] = high_bf16<Lane>(words.w[n]);
    }
  }
}

// Over the lanes that share g, and over those that share t; every lane gets the result.
template <class Lane, class Op>
KVF_DEVICE float over_t(const Lane& lane, float v, Op op) {
  v = op(v, lane.shuffle_xor(v, 1));
  return op(v, lane.shuffle_xor(v, 2));
}
template <class Lane, class Op>
KVF_DEVICE float over_g(const Lane& lane, float v, Op op) {
  v = op(v, lane.shuffle_xor(v, 4));
  v = op(v, lane.shuffle_xor(v, 8));
  return op(v, lane.shuffle_xor(v, 16));
}
struct LargerOf {
  KVF_DEVICE float operator()(float a, float b) const { return a > b ? a : b; }
};
struct SumOf {
  KVF_DEVICE float operator()(float a, float b) const { return a + b; }
};

}  // namespace kvferry::cuda

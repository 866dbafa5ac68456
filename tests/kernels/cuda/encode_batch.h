// Tiles of values to encode, in host memory, and the bytes that the CPU's scalar kernels make of
// them. A batch is run by an emulated or a real launch, which test drivers hand in.
#pragma once

#include <functional>
#include <vector>

#include "kernels/cuda/hack_cuda.h"
#include "kernels/cuda/lane.h"

namespace kvferry::cuda {

struct EncodeShape {
  int head_dim = 128, kv_heads = 2;
  int k_bits = 2, v_bits = 2;
  kernels::HackRange k_range{}, v_range{};
};

struct EncodeBatch {
  EncodeShape shape;
  int tiles = 0;
  std::vector<Words> values;  // [tiles][K, V][kv_heads][64][head_dim] in bf16

  std::size_t tile_bytes() const;  // of `values`
  int head_bytes() const;
  EncodeTiles arguments() const;  // without its pointers
};

// The part of one KV head as the CPU's scalar kernels make it.
std::vector<std::byte> scalar_part(const EncodeBatch& batch, int tile, int head);

struct EncodeResult {
  std::vector<std::byte> parts;  // [tiles][kv_heads] of head_bytes
  std::vector<int> not_finite;   // [tiles]
};

using RunEncode = std::function<EncodeResult(const EncodeBatch&)>;

void register_encode_tests(const RunEncode& run);

}  // namespace kvferry::cuda

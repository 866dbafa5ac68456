// Batches of bf16 KV for dense decode attention, and its tests; as decode_batch.h.
#pragma once

#include <functional>
#include <vector>

#include "kernels/cuda/dense_cuda.h"
#include "kernels/cuda/lane.h"
#include "tests/kernels/hack_tile.h"

namespace kvferry::cuda {

struct DenseBatch {
  int head_dim = 128, kv_heads = 1, group = 4;
  std::vector<int> tokens;  // of each sequence

  std::vector<std::vector<kernels::DenseTokens>> heads;  // [sequence][head]
  std::vector<Words> pages;                  // tiles of all sequences, one behind the other
  std::vector<std::vector<std::size_t>> at;  // [sequence][tile], in bytes
  std::vector<float> queries;

  int max_tiles() const;
  int rows() const { return static_cast<int>(tokens.size()) * kv_heads * group; }
  DensePages arguments() const;  // without its pointers
  // With the pages at this address. Null beyond a sequence's end.
  std::vector<const std::byte*> table(const std::byte* pages) const;
};

using RunDense = std::function<std::vector<float>(const DenseBatch&)>;

void register_dense_tests(const RunDense& run);

}  // namespace kvferry::cuda

// Attention over bf16 KV on a GPU: what attention on codes is measured against.
//
// Thread contract: any thread, with its device current. Work is queued on the stream.
#pragma once

#include "kernels/cuda/cuda_types.h"

namespace kvferry::cuda {

// A layer's KV of a batch, in device memory. Not owned.
struct DensePages {
  int head_dim = 0;  // 64, 128 or 256
  int kv_heads = 0;
  int max_tiles = 0;  // of a sequence, of 64 tokens
  // [sequences][max_tiles]: K, then V, bf16 [kv_heads][64][head_dim]. What lies behind the last
  // token is not read.
  const std::byte* const* tiles = nullptr;
  const int* tokens = nullptr;  // [sequences]
};

// Bytes that queries.partial needs for sequences of up to kv.max_tiles tiles.
std::size_t dense_partial_bytes(const DensePages& kv, const DecodeQueries& queries);

// Attention of one token of each sequence over all its tokens. A row's answer depends on that row
// and its sequence's length alone.
[[nodiscard]] Error dense_attend(const DensePages& kv, const DecodeQueries& queries, Stream stream);

}  // namespace kvferry::cuda

// The hack codec on a GPU: encoding tiles and attending to their codes. docs/codecs.md has the
// arithmetic. Encoded bytes equal the CPU's; answers lie within the bounds that hold for it.
//
// Pointers are to device memory, 16-byte aligned, and the caller's until the stream has passed the
// work. What is known: layout=channel, groups of 64, tiles of 64 tokens, no balance.
//
// Thread contract: any thread, with its device current. Work is queued on the stream.
#pragma once

#include <cstddef>

#include "kernels/cuda/cuda_types.h"
#include "kernels/hack_encode_kernels.h"

namespace kvferry::cuda {

// A layer's KV of a batch, in device memory. Not owned.
struct PagedKv {
  int head_dim = 0;  // 64, 128 or 256
  int kv_heads = 0;
  int k_bits = 0, v_bits = 0;              // 2, 4 or 8
  int first_k_bits = 0, first_v_bits = 0;  // of tile 0
  // Parts of a tile (codec/hack_part.h, groups of 64, no rows or columns), from one KV head to the
  // next in bytes. Multiples of 16, as the pointers below are.
  int head_bytes = 0, first_head_bytes = 0;
  int max_tiles = 0;                        // of a sequence
  const std::byte* const* tiles = nullptr;  // [sequences][max_tiles]: the part of KV head 0
  const int* closed_tiles = nullptr;        // [sequences]
  // The open tile: K, then V, bf16 [kv_heads][64][head_dim], of which open_tokens count.
  const std::byte* const* open = nullptr;  // [sequences]
  const int* open_tokens = nullptr;        // [sequences], 0 to 64
};

// Bytes that queries.partial needs for sequences of up to kv.max_tiles closed tiles.
std::size_t decode_partial_bytes(const PagedKv& kv, const DecodeQueries& queries);

// Attention of one token of each sequence over its closed tiles and its open tile. A row's answer
// depends on that row and its sequence's length alone.
[[nodiscard]] Error decode_attend(const PagedKv& kv, const DecodeQueries& queries, Stream stream);

// Tiles of one layer, in device memory. Not owned.
struct EncodeTiles {
  int head_dim = 0;  // 64, 128 or 256
  int kv_heads = 0;
  int k_bits = 0, v_bits = 0;  // 2, 4 or 8
  kernels::HackRange k_range{}, v_range{};
  int head_bytes = 0;  // of a part (TilePart), a multiple of 16
  int tiles = 0;
  // [tiles]: K, then V, bf16 [kv_heads][64][head_dim] each, 16-byte aligned.
  const std::byte* const* from = nullptr;
  std::byte* const* to = nullptr;  // [tiles]: the part of KV head 0, 16-byte aligned
  // [tiles], zero before: becomes 1 where a value is NaN or infinite. Such a tile's bytes mean
  // nothing.
  int* not_finite = nullptr;
};

[[nodiscard]] Error encode_tiles(const EncodeTiles& tiles, Stream stream);

}  // namespace kvferry::cuda

// Encoding of dense tiles into hack's codes, to the very bytes that the CPU's kernels make: the
// kernel's body; hack_encode.cu launches it.
//
// A block makes the K or the V of one tile and KV head, a thread one column: 64 values that share a
// scale and a minimum, in registers, quantized by the functions that the CPU's scalar kernels run.
// Codes go through shared memory to where they are packed, because a word packs those of many
// columns.
#pragma once

#include "kernels/cpu/hack_column.h"
#include "kernels/cuda/hack_cuda.h"
#include "kernels/cuda/hack_tile.h"

namespace kvferry::cuda {

// Rows of shared memory are a word longer than they must be, so that threads which go down a column
// of one meet all banks.
template <int kDim>
struct EncodeShared {
  static constexpr int kValueRow = 2 * kDim + 4;         // bf16 [64][kDim]
  static constexpr int kKeyRow = kDim + 4;               // codes of K: [64 tokens][kDim]
  static constexpr int kValueCodeRow = kTileTokens + 4;  // codes of V: [kDim][64 tokens]
  static constexpr int kValueBytes = kTileTokens * kValueRow;
  static constexpr int kKeyCodes = kTileTokens * kKeyRow;
  static constexpr int kValueCodes = kDim * kValueCodeRow;
  static constexpr int kBytes = kValueBytes + (kKeyCodes > kValueCodes ? kKeyCodes : kValueCodes);
};

// codes: [lanes][row_bytes], codes of one lane along the dot product in order. Writes words as
// kernels/hack_kernels.h packs them: u32 [dots / (4 F)][lanes], F = 8 / bits.
template <int kThreads, class Lane>
KVF_DEVICE void pack_codes(const Lane& lane, const std::byte* codes, int row_bytes, int lanes,
                           int dots, int bits, std::byte* out) {
  const int fields = 8 / bits;
  const int words = dots / (4 * fields) * lanes;
  for (int i = lane.thread(); i < words; i += kThreads) {
    const int j = i / lanes, l = i % lanes;
    std::uint32_t word = 0;
    for (int f = 0; f < fields; ++f) {
      std::uint32_t quad;
      memcpy(&quad, codes + l * row_bytes + 4 * (fields * j + f), sizeof(quad));
      word |= quad << (f * bits);
    }
    memcpy(out + 4 * i, &word, sizeof(word));
  }
}

template <int kDim, class Lane>
KVF_DEVICE void load_tile(const Lane& lane, const std::byte* from, std::byte* values) {
  constexpr int kPieces = 2 * kDim / 16;  // of a token
  for (int i = lane.thread(); i < kTileTokens * kPieces; i += kDim) {
    const Words words = lane.load16(from + 16 * i);
    memcpy(values + i / kPieces * EncodeShared<kDim>::kValueRow + i % kPieces * 16, &words,
           sizeof(words));
  }
}

// Grid: tiles x kv_heads x 2 (K, V), of kDim threads.
template <int kDim, class Lane>
KVF_DEVICE void hack_encode(const Lane& lane, const EncodeTiles& tiles) {
  using Shared = EncodeShared<kDim>;
  using Part = TilePart<kDim>;
  const auto tile = lane.block_x();
  const auto head = static_cast<std::size_t>(lane.block_y());
  const bool of_v = lane.block_z() == 1;
  const std::size_t matrix = head + (of_v ? static_cast<std::size_t>(tiles.kv_heads) : 0);
  std::byte* const values = lane.shared();
  std::byte* const codes = values + Shared::kValueBytes;
  load_tile<kDim>(lane, tiles.from[tile] + 2 * matrix * kTileTokens * kDim, values);
  lane.sync_block();

  // K: thread c has channel c of all tokens. V: thread (g, t) has group g of token t's channels.
  const int thread = lane.thread(), group = thread / kTileTokens, token = thread % kTileTokens;
  const int bits = of_v ? tiles.v_bits : tiles.k_bits;
  bool finite = true;
  const auto column =
      kernels::hack_column::make_column<64>(static_cast<std::uint32_t>(bits), [&](int r) {
        const int at = of_v ? token * Shared::kValueRow + 2 * (kGroup * group + r)
                            : r * Shared::kValueRow + 2 * thread;
        std::uint16_t value;
        memcpy(&value, values + at, sizeof(value));
        finite = finite && (value & 0x7f80u) != 0x7f80u;
        return kernels::hack_column::widen(value);
      });
  const kernels::hack_column::Range range =
      kernels::hack_column::choose_range(column, of_v ? tiles.v_range : tiles.k_range);
  KVF_UNROLL
  for (int r = 0; r < 64; ++r) {
    const int at =
        of_v ? (kGroup * group + r) * Shared::kValueCodeRow + token : r * Shared::kKeyRow + thread;
    codes[at] = static_cast<std::byte>(kernels::hack_column::code_of(column, range, r));
  }
  if (!finite) tiles.not_finite[tile] = 1;  // whoever writes it writes the same

  // Columns' scales and minima lie in the order of threads: [kDim], or [groups][64 tokens].
  Part part{tiles.to[tile] + head * static_cast<std::size_t>(tiles.head_bytes), tiles.k_bits,
            tiles.v_bits};
  const auto store = [&](const std::byte* plane, float v) {
    const std::uint16_t stored = kernels::hack_column::stored(v);
    memcpy(const_cast<std::byte*>(plane) + 2 * thread, &stored, sizeof(stored));
  };
  store(of_v ? part.v_scale() : part.k_scale(), range.scale);
  store(of_v ? part.v_min() : part.k_min(), range.min);
  lane.sync_block();
  if (of_v) {
    pack_codes<kDim>(lane, codes, Shared::kValueCodeRow, kDim, kTileTokens, bits,
                     const_cast<std::byte*>(part.v_codes()));
  } else {
    pack_codes<kDim>(lane, codes, Shared::kKeyRow, kTileTokens, kDim, bits,
                     const_cast<std::byte*>(part.k_codes()));
  }
}

}  // namespace kvferry::cuda

// The part of one KV head of a closed tile of hack: where its planes lie, and how it is encoded.
//
// T tokens (64 or 128), D = head_dim, g = group (of channels at most D), k and v the bits:
//   K codes (T D k / 8 bytes; the 64 tokens of one half, then those of the other)
//   K scales, K minima (2 T D / g each): bf16 [T / g][D]
//   K rows (2 T), with balance only: bf16 [T]
//   V codes (T D v / 8), halves likewise
//   V scales, V minima (2 T D / g each): bf16 [T / 64][D / g][64]
//   V columns (2 D), with balance only: bf16 [D]
// Codes are packed as kernels/hack_kernels.h says. With 16 bits the part is dense: K [T][D] in
// bf16, then V.
//
// Thread contract: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "codec/stage.h"
#include "kernels/hack_encode_kernels.h"
#include "kernels/hack_kernels.h"

namespace kvferry::codec {

struct HackPart {
  std::uint32_t tokens = kGridTokens;
  std::uint32_t head_dim = 0;
  std::uint32_t k_bits = 0, v_bits = 0;
  std::uint32_t group = 64;  // 32, 64 or 128
  bool balanced = false;     // has rows and columns

  std::uint32_t channel_group() const { return group < head_dim ? group : head_dim; }
  bool dense() const { return k_bits == 16; }
};

// The planes in order, and their bytes in all.
std::vector<Plane> hack_planes(const HackPart& part);
std::size_t hack_bytes(const HackPart& part);

// What kernels take for the 64 tokens of one half of the part at `bytes`. Not of a dense part.
kernels::HackPlanes hack_half(const HackPart& part, const std::byte* bytes, std::uint32_t half);

// k, v: bf16 [tokens][head_dim], finite.
void encode_hack(const HackPart& part, kernels::HackRange k_range, kernels::HackRange v_range,
                 const std::byte* k, const std::byte* v, std::byte* out);

// kDataLoss where a scale, row or column is not a positive normal number, or a minimum or dense
// value is not finite.
Status validate_hack(const HackPart& part, const std::byte* bytes);

}  // namespace kvferry::codec

// The scalar encoding kernels of hack.
#include "kernels/cpu/hack_column.h"
#include "kernels/cpu/hack_encode_common.h"

namespace kvferry::kernels {
namespace {

constexpr std::uint32_t kBlock = kHackBlock;

std::size_t first_not_finite(const std::uint16_t* x, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    if ((x[i] & 0x7f80u) == 0x7f80u) return i;
  }
  return n;
}

template <int kRows>
void quantize_rows(const HackBlock& block, std::uint32_t bits, HackRange kind, std::uint8_t* codes,
                   std::uint16_t* scale, std::uint16_t* min) {
  for (std::uint32_t c = 0; c < kBlock; ++c) {
    const auto column = hack_column::make_column<kRows>(bits, [&](std::uint32_t r) {
      const float v = hack_column::widen(block.transposed ? block.x[c * block.stride + r]
                                                          : block.x[r * block.stride + c]);
      if (block.row_factor == nullptr) return v;
      return hack_column::within(v * (1.0f / hack_column::widen(block.row_factor[r])),
                                 -kHackMaxScale, kHackMaxScale);
    });
    const hack_column::Range range = hack_column::choose_range(column, kind);
    for (int r = 0; r < kRows; ++r) {
      codes[static_cast<std::uint32_t>(r) * kBlock + c] = hack_column::code_of(column, range, r);
    }
    scale[c] = hack_column::stored(range.scale);
    min[c] = hack_column::stored(range.min);
  }
}

void quantize_block(const HackBlock& block, std::uint32_t bits, HackRange range,
                    std::uint8_t* codes, std::uint16_t* scale, std::uint16_t* min) {
  switch (block.rows) {
    case 32:
      return quantize_rows<32>(block, bits, range, codes, scale, min);
    case 64:
      return quantize_rows<64>(block, bits, range, codes, scale, min);
    default:
      return quantize_rows<128>(block, bits, range, codes, scale, min);
  }
}

void pack_block(const std::uint8_t* codes, std::uint32_t shift, std::uint32_t bits,
                std::size_t lanes, std::byte* out) {
  const std::uint32_t fields = 8 / bits;
  const std::uint32_t mask = (1u << bits) - 1u;
  for (std::uint32_t j = 0; j < 16 / fields; ++j) {
    for (std::uint32_t r = 0; r < kBlock; ++r) {
      std::byte* word = out + 4 * (j * lanes + r);
      for (std::uint32_t b = 0; b < 4; ++b) {
        std::uint32_t packed = 0;
        for (std::uint32_t f = 0; f < fields; ++f) {
          const std::uint32_t code = codes[r * kBlock + 4 * (fields * j + f) + b];
          packed |= (code >> shift & mask) << (f * bits);
        }
        word[b] = static_cast<std::byte>(packed);
      }
    }
  }
}

}  // namespace

const HackEncodeKernels kHackEncodeScalar = {first_not_finite, quantize_block, hack_balance_scalar,
                                             pack_block};

}  // namespace kvferry::kernels

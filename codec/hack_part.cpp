#include "codec/hack_part.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "codec/dense.h"

namespace kvferry::codec {
namespace {

using kernels::HackBlock;
using kernels::HackRange;
using kernels::kHackBlock;

// Where the planes begin, in bytes from the part's beginning.
struct Offsets {
  std::size_t k_codes, k_scale, k_min, k_row, v_codes, v_scale, v_min, v_column, end;
};

Offsets offsets_of(const HackPart& part) {
  const std::size_t tokens = part.tokens, dim = part.head_dim;
  const std::size_t k_scales = 2 * tokens * dim / part.group;
  const std::size_t v_scales = 2 * tokens * dim / part.channel_group();
  Offsets o;
  o.k_codes = 0;
  o.k_scale = tokens * dim * part.k_bits / 8;
  o.k_min = o.k_scale + k_scales;
  o.k_row = o.k_min + k_scales;
  o.v_codes = o.k_row + (part.balanced ? 2 * tokens : 0);
  o.v_scale = o.v_codes + tokens * dim * part.v_bits / 8;
  o.v_min = o.v_scale + v_scales;
  o.v_column = o.v_min + v_scales;
  o.end = o.v_column + (part.balanced ? 2 * dim : 0);
  return o;
}

// Packs codes [64][64], whose rows are the lanes from first_lane on, into the plane of a half.
void pack(const std::uint8_t* codes, std::uint32_t bits, std::size_t dim, std::size_t lanes,
          std::size_t first_byte_a_bit, std::size_t first_byte, std::byte* plane) {
  const kernels::HackSubPlanes& planes = kernels::kHackSubPlanes[bits];
  for (std::uint32_t i = 0; i < planes.count; ++i) {
    const kernels::HackSubPlane sub = planes.part[i];
    kernels::hack_encode_kernels().pack_block(
        codes, sub.shift, sub.bits, lanes,
        plane + 8 * dim * sub.shift + first_byte_a_bit * sub.bits + first_byte);
  }
}

// Quantizes one block and puts the scales and minima of its 64 columns where they belong.
void quantize(const HackBlock& block, std::uint32_t bits, HackRange range, std::uint8_t* codes,
              std::byte* scale, std::byte* min) {
  std::uint16_t scales[kHackBlock], minima[kHackBlock];
  kernels::hack_encode_kernels().quantize_block(block, bits, range, codes, scales, minima);
  std::memcpy(scale, scales, sizeof(scales));
  std::memcpy(min, minima, sizeof(minima));
}

// 64 channels at a time: groups of tokens, then each half is packed. A block of 64 channels fills
// whole rows of words, each 64 tokens wide.
void encode_k(const HackPart& part, HackRange range, const std::uint16_t* k,
              const std::uint16_t* rows, std::byte* out) {
  const Offsets at = offsets_of(part);
  const std::size_t dim = part.head_dim;
  alignas(64) std::uint8_t codes[kMaxTileTokens * kHackBlock];
  for (std::size_t first = 0; first < dim; first += kHackBlock) {
    for (std::size_t t = 0; t < part.tokens; t += part.group) {
      const HackBlock block = {k + t * dim + first, dim, part.group, false,
                               rows == nullptr ? nullptr : rows + t};
      const std::size_t place = 2 * (t / part.group * dim + first);
      quantize(block, part.k_bits, range, codes + t * kHackBlock, out + at.k_scale + place,
               out + at.k_min + place);
    }
    for (std::size_t t = 0; t < part.tokens; t += kGridTokens) {
      pack(codes + t * kHackBlock, part.k_bits, dim, kGridTokens, 8 * first, 0,
           out + at.k_codes + t * dim * part.k_bits / 8);
    }
  }
}

// 64 tokens at a time: groups of channels, then blocks of 64 channels are packed, each into its
// lanes.
void encode_v(const HackPart& part, HackRange range, const std::uint16_t* v,
              const std::uint16_t* columns, std::byte* out) {
  const Offsets at = offsets_of(part);
  const std::size_t dim = part.head_dim, group = part.channel_group();
  alignas(64) std::uint8_t codes[kernels::kMaxHeadDim * kHackBlock];
  for (std::size_t t = 0; t < part.tokens; t += kGridTokens) {
    for (std::size_t d = 0; d < dim; d += group) {
      const HackBlock block = {v + t * dim + d, dim, part.channel_group(), true,
                               columns == nullptr ? nullptr : columns + d};
      const std::size_t place = 2 * (t * dim / group + d / group * kGridTokens);
      quantize(block, part.v_bits, range, codes + d * kHackBlock, out + at.v_scale + place,
               out + at.v_min + place);
    }
    for (std::size_t first = 0; first < dim; first += kHackBlock) {
      pack(codes + first * kHackBlock, part.v_bits, dim, dim, 0, 4 * first,
           out + at.v_codes + t * dim * part.v_bits / 8);
    }
  }
}

// Four bf16 numbers in a word, and what their highest bits say about them.
constexpr std::uint64_t of_four(std::uint64_t bits) { return 0x0001000100010001u * bits; }
constexpr std::uint64_t infinite_or_nan(std::uint64_t four) {
  return (four & of_four(0x7f80)) + of_four(0x0080);
}
constexpr std::uint64_t not_positive_normal(std::uint64_t four) {
  const std::uint64_t has_exponent = (four & of_four(0x7f80)) + of_four(0x7f80);
  return four | infinite_or_nan(four) | ~has_exponent;
}

// The first of n numbers that is bad, or n, a multiple of 4.
template <std::uint64_t (*kBad)(std::uint64_t)>
std::size_t first_bad(const std::byte* numbers, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 4) {
    std::uint64_t four;
    std::memcpy(&four, numbers + 2 * i, sizeof(four));
    const std::uint64_t bad = kBad(four) & of_four(0x8000);
    if (bad != 0) return i + static_cast<std::size_t>(std::countr_zero(bad)) / 16;
  }
  return n;
}

// A plane of scales, minima or factors of K or of V.
Status check_numbers(const Plane& plane, const std::byte* bytes, const char* of) {
  const std::size_t n = plane.bytes / 2;
  const bool minima = plane.kind == PlaneKind::kMinima;
  const std::size_t bad =
      minima ? first_bad<infinite_or_nan>(bytes, n) : first_bad<not_positive_normal>(bytes, n);
  if (bad == n) return ok_status();
  const std::string place = std::to_string(bad) + " of " + of;
  if (minima) return {Code::kDataLoss, "minimum " + place + " is NaN or infinite"};
  return {Code::kDataLoss, (plane.kind == PlaneKind::kScales ? "scale " : "factor ") + place +
                               " is not a positive normal number"};
}

}  // namespace

std::vector<Plane> hack_planes(const HackPart& part) {
  const Offsets o = offsets_of(part);
  if (part.dense()) return {{PlaneKind::kValues, 16, hack_bytes(part)}};
  std::vector<Plane> planes = {{PlaneKind::kCodes, part.k_bits, o.k_scale},
                               {PlaneKind::kScales, 16, o.k_min - o.k_scale},
                               {PlaneKind::kMinima, 16, o.k_row - o.k_min}};
  if (part.balanced) planes.push_back({PlaneKind::kFactors, 16, o.v_codes - o.k_row});
  planes.push_back({PlaneKind::kCodes, part.v_bits, o.v_scale - o.v_codes});
  planes.push_back({PlaneKind::kScales, 16, o.v_min - o.v_scale});
  planes.push_back({PlaneKind::kMinima, 16, o.v_column - o.v_min});
  if (part.balanced) planes.push_back({PlaneKind::kFactors, 16, o.end - o.v_column});
  return planes;
}

std::size_t hack_bytes(const HackPart& part) {
  if (part.dense()) return std::size_t{4} * part.tokens * part.head_dim;
  return offsets_of(part).end;
}

kernels::HackPlanes hack_half(const HackPart& part, const std::byte* bytes, std::uint32_t half) {
  const Offsets o = offsets_of(part);
  const std::size_t dim = part.head_dim;
  const std::size_t k_scales = part.group > kGridTokens ? 0 : 2 * kGridTokens * dim / part.group;
  const std::size_t v_scales = 2 * kGridTokens * dim / part.channel_group();
  kernels::HackPlanes p;
  p.head_dim = part.head_dim;
  p.k_bits = part.k_bits;
  p.v_bits = part.v_bits;
  p.k_group = part.group;
  p.v_group = part.channel_group();
  p.k_codes = bytes + o.k_codes + half * 8 * dim * part.k_bits;
  p.k_scale = bytes + o.k_scale + half * k_scales;
  p.k_min = bytes + o.k_min + half * k_scales;
  p.v_codes = bytes + o.v_codes + half * 8 * dim * part.v_bits;
  p.v_scale = bytes + o.v_scale + half * v_scales;
  p.v_min = bytes + o.v_min + half * v_scales;
  if (part.balanced) {
    p.k_row = bytes + o.k_row + half * 2 * kGridTokens;
    p.v_column = bytes + o.v_column;
  }
  return p;
}

void encode_hack(const HackPart& part, HackRange k_range, HackRange v_range, const std::byte* k,
                 const std::byte* v, std::byte* out) {
  const std::size_t values = std::size_t{2} * part.tokens * part.head_dim;
  if (part.dense()) {
    std::memcpy(out, k, values);
    std::memcpy(out + values, v, values);
    return;
  }
  const auto* k_in = reinterpret_cast<const std::uint16_t*>(k);
  const auto* v_in = reinterpret_cast<const std::uint16_t*>(v);
  if (!part.balanced) {
    encode_k(part, k_range, k_in, nullptr, out);
    encode_v(part, v_range, v_in, nullptr, out);
    return;
  }
  const Offsets at = offsets_of(part);
  std::uint16_t rows[kMaxTileTokens], columns[kernels::kMaxHeadDim];
  const kernels::HackEncodeKernels& table = kernels::hack_encode_kernels();
  table.balance(k_in, part.tokens, part.head_dim, rows, columns);
  encode_k(part, k_range, k_in, rows, out);
  std::memcpy(out + at.k_row, rows, std::size_t{2} * part.tokens);
  table.balance(v_in, part.tokens, part.head_dim, rows, columns);
  encode_v(part, v_range, v_in, columns, out);
  std::memcpy(out + at.v_column, columns, std::size_t{2} * part.head_dim);
}

Status validate_hack(const HackPart& part, const std::byte* bytes) {
  if (part.dense()) return check_dense(OpenDtype::kBf16, bytes, hack_bytes(part));
  int codes = 0;  // planes of codes seen: K's, then V's
  for (const Plane& plane : hack_planes(part)) {
    if (plane.kind == PlaneKind::kCodes) {
      ++codes;
    } else {
      KVF_RETURN_IF_ERROR(check_numbers(plane, bytes, codes == 1 ? "K" : "V"));
    }
    bytes += plane.bytes;
  }
  return ok_status();
}

}  // namespace kvferry::codec

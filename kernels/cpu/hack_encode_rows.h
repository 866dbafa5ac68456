// Quantizing and packing: the operations of hack_column.h in their order, kLanes columns
// in the lanes. Included only by hack_encode_<isa>.cpp; all of it has internal linkage.
#pragma once

#include "kernels/cpu/hack_encode_common.h"
#include "kernels/cpu/hack_encode_vec.h"

namespace kvferry::kernels {
namespace {

constexpr int kColumns = 64;  // of a block
constexpr int kTogether = 3;  // candidates of search whose errors are summed in one pass
static_assert(kHackShrinks % kTogether == 0);

std::size_t first_not_finite(const std::uint16_t* x, std::size_t n) {
  constexpr std::size_t kStep = 2 * kLanes;
  for (std::size_t i = 0; i < n; i += kStep) {
    const std::size_t place = find_not_finite(x + i, n - i);
    if (place < kStep) return i + place;
  }
  return n;
}

// A block's values, halved, and the extremes of its columns.
struct Halves {
  alignas(64) float x[kHackMaxRows * kColumns];
  alignas(64) float lowest[kColumns];
  alignas(64) float highest[kColumns];
};

// A value of a row with a factor; `inverse` is that of the factor.
KVFERRY_INLINE V divided(V v, V inverse) {
  return min(max(mul(v, inverse), broadcast(-kHackMaxScale)), broadcast(kHackMaxScale));
}

void invert_factors(const HackBlock& block, float* inverse) {
  for (std::uint32_t r = 0; r < block.rows; r += kLanes) {
    store(inverse + r, div(broadcast(1.0f), load(block.row_factor + r)));
  }
}

template <bool kFactors>
void read_rows(const HackBlock& block, Halves& out) {
  constexpr int kStrip = 4;  // registers of a row at a time
  alignas(64) float inverse[kHackMaxRows];
  if constexpr (kFactors) invert_factors(block, inverse);
  for (int c = 0; c < kColumns; c += kStrip * kLanes) {
    V lowest[kStrip], highest[kStrip];
    for (int i = 0; i < kStrip; ++i) {
      lowest[i] = broadcast(__builtin_huge_valf());
      highest[i] = broadcast(-__builtin_huge_valf());
    }
    for (std::uint32_t r = 0; r < block.rows; ++r) {
      for (int i = 0; i < kStrip; ++i) {
        const int at = c + i * kLanes;
        V v = load(block.x + r * block.stride + at);
        if constexpr (kFactors) v = divided(v, broadcast(inverse[r]));
        lowest[i] = min(lowest[i], v);
        highest[i] = max(highest[i], v);
        store(out.x + r * kColumns + at, mul(v, broadcast(0.5f)));
      }
    }
    for (int i = 0; i < kStrip; ++i) {
      store(out.lowest + c + i * kLanes, lowest[i]);
      store(out.highest + c + i * kLanes, highest[i]);
    }
  }
}

// Turns kLanes tokens x 2 kLanes channels at a time, as words of two channels each.
template <bool kFactors>
void read_columns(const HackBlock& block, Halves& out) {
  const V upper = as_vector(0xffff0000u);
  alignas(64) float inverse[kHackMaxRows];
  if constexpr (kFactors) invert_factors(block, inverse);
  for (std::size_t c = 0; c < kColumns; c += kLanes) {
    V lowest = broadcast(__builtin_huge_valf());
    V highest = broadcast(-__builtin_huge_valf());
    const auto put = [&](V v, std::size_t row) {
      if constexpr (kFactors) v = divided(v, broadcast(inverse[row]));
      lowest = min(lowest, v);
      highest = max(highest, v);
      store(out.x + row * kColumns + c, mul(v, broadcast(0.5f)));
    };
    for (std::size_t r = 0; r < block.rows; r += 2 * kLanes) {
      V pairs[kLanes];
      for (std::size_t i = 0; i < kLanes; ++i) {
        pairs[i] = load_words(block.x + (c + i) * block.stride + r);
      }
      transpose(pairs);
      for (std::size_t i = 0; i < kLanes; ++i) {
        put(shift_left<16>(pairs[i]), r + 2 * i);
        put(bit_and(pairs[i], upper), r + 2 * i + 1);
      }
    }
    store(out.lowest + c, lowest);
    store(out.highest + c, highest);
  }
}

void read_block(const HackBlock& block, Halves& out) {
  const bool factors = block.row_factor != nullptr;
  if (block.transposed) {
    factors ? read_columns<true>(block, out) : read_columns<false>(block, out);
  } else {
    factors ? read_rows<true>(block, out) : read_rows<false>(block, out);
  }
}

// kLanes columns of a block.
struct Columns {
  const float* x;  // [rows][kColumns], halved
  std::uint32_t rows;
  V levels;
  V lowest_half, highest_half;  // the extremes, halved
  V min;                        // rounded down to bf16
  V half;                       // of the range
};

struct Ranges {
  V scale, min;
};

KVFERRY_INLINE V within(V v, V least, V greatest) { return min(max(v, least), greatest); }
KVFERRY_INLINE V bounded_scale(V v) {
  return within(v, broadcast(kHackMinScale), broadcast(kHackMaxScale));
}

KVFERRY_INLINE Ranges shrunk_range(const Columns& columns, int index) {
  const float f = kHackShrink[index];
  const V scale =
      bounded_scale(mul(div(mul(columns.half, broadcast(f)), columns.levels), broadcast(2.0f)));
  if (index == 0) return {round_up_positive(scale), columns.min};
  return {round_nearest(scale),
          round_nearest(add(columns.min, mul(columns.half, broadcast(1.0f - f))))};
}

// Half the minimum and 2 / scale: what positions are taken against.
struct Against {
  V mh, inv;
};
KVFERRY_INLINE Against against(const Ranges& range) {
  return {mul(range.min, broadcast(0.5f)), div(broadcast(2.0f), range.scale)};
}
KVFERRY_INLINE V position(V xh, const Against& range) { return mul(sub(xh, range.mh), range.inv); }

// Clamping in integers, which order floats as floats do, but for negative ones among each other. On
// Zen 4 float minima run on the adders, which have most of the work: with them a candidate of
// search took 6.1 cycles for 16 values instead of 4.
KVFERRY_INLINE V at_most(V v, V positive) {
  return floats_of(word_min(words_of(v), words_of(positive)));
}
KVFERRY_INLINE V at_least_zero(V v) { return floats_of(word_max(words_of(v), broadcast_word(0))); }

// Whether no value rounds to a code outside 0..levels: then clamping changes nothing. Positions
// grow with the values, so the extremes tell.
KVFERRY_INLINE bool needs_no_clamp(const Columns& columns, const Against& range) {
  const V low = position(columns.lowest_half, range);
  const V high = position(columns.highest_half, range);
  return all(less(broadcast(-0.5f), low)) && all(less(high, add(columns.levels, broadcast(0.5f))));
}

template <bool kClamp>
KVFERRY_INLINE V nearest_code(V position, V levels) {
  if constexpr (kClamp) position = at_most(at_least_zero(position), levels);
  return nearest_integer(position);
}

// a + b on the multipliers, to balance loops that are mostly additions. One rounding, so the bits
// of an addition.
KVFERRY_INLINE V add_by_fma(V a, V b) { return fma(a, broadcast(1.0f), b); }

// Squared errors of kTogether ranges in units of their scales.
template <bool kClamp>
KVFERRY_INLINE void squared_errors(const Columns& columns, const Against* ranges, V* sums) {
  V minus_mh[kTogether];
  for (int i = 0; i < kTogether; ++i) {
    sums[i] = zero();
    minus_mh[i] = bit_xor(ranges[i].mh, broadcast(-0.0f));
  }
  for (std::uint32_t r = 0; r < columns.rows; ++r) {
    const V x = load(columns.x + r * kColumns);
    for (int i = 0; i < kTogether; ++i) {
      const V t = kClamp ? position(x, ranges[i]) : mul(add_by_fma(x, minus_mh[i]), ranges[i].inv);
      const V e = sub(t, nearest_code<kClamp>(t, columns.levels));
      sums[i] = add(sums[i], mul(e, e));
    }
  }
}

struct Choice {
  Ranges range;
  V error;  // in units of whole_scale
};

KVFERRY_INLINE V error_of(V sum, V scale, V whole_scale) {
  const V ratio = div(scale, whole_scale);
  return mul(sum, mul(ratio, ratio));
}

// Takes the candidate in the lanes where it errs less, which it returns.
KVFERRY_INLINE Mask keep_better(Choice& best, const Choice& candidate) {
  const Mask better = less(candidate.error, best.error);
  best.error = where(better, candidate.error, best.error);
  best.range.scale = where(better, candidate.range.scale, best.range.scale);
  best.range.min = where(better, candidate.range.min, best.range.min);
  return better;
}

KVFERRY_INLINE Choice search_range(const Columns& columns, V whole_scale) {
  Ranges ranges[kHackShrinks];
  Against taken[kHackShrinks];
  bool free[kHackShrinks];
  for (int i = 0; i < kHackShrinks; ++i) {
    ranges[i] = shrunk_range(columns, i);
    taken[i] = against(ranges[i]);
    free[i] = needs_no_clamp(columns, taken[i]);
  }
  V sums[kHackShrinks];
  for (int i = 0; i < kHackShrinks; i += kTogether) {
    if (free[i] && free[i + 1] && free[i + 2]) {
      squared_errors<false>(columns, taken + i, sums + i);
    } else {
      squared_errors<true>(columns, taken + i, sums + i);
    }
  }
  Choice best = {ranges[0], sums[0]};
  for (int i = 1; i < kHackShrinks; ++i) {
    keep_better(best, {ranges[i], error_of(sums[i], ranges[i].scale, whole_scale)});
  }
  return best;
}

// Sums over each column of its codes c and what is left of its positions t: e = t - c.
struct Sums {
  V ee, e, c, ec, cc;
};

// Without kFit, of ee alone.
template <bool kFit>
KVFERRY_INLINE Sums sums_of(const Columns& columns, const Ranges& range) {
  const Against taken = against(range);
  Sums sums = {zero(), zero(), zero(), zero(), zero()};
  for (std::uint32_t r = 0; r < columns.rows; ++r) {
    const V t = position(load(columns.x + r * kColumns), taken);
    const V c = nearest_code<true>(t, columns.levels);
    const V e = sub(t, c);
    sums.ee = add(sums.ee, mul(e, e));
    if constexpr (!kFit) continue;
    sums.e = add_by_fma(e, sums.e);
    sums.c = add_by_fma(c, sums.c);
    sums.ec = add(sums.ec, mul(e, c));
    sums.cc = fma(c, c, sums.cc);  // exact either way: integers below 2^24
  }
  return sums;
}

KVFERRY_INLINE Ranges fitted_range(const Ranges& range, const Sums& sums, V rows) {
  const V spread = sub(mul(rows, sums.cc), mul(sums.c, sums.c));
  const V fitted = div(sub(mul(rows, sums.ec), mul(sums.e, sums.c)), spread);
  const V slope = where(less(zero(), spread), fitted, zero());
  const V scale = round_nearest(bounded_scale(add(range.scale, mul(range.scale, slope))));
  const V growth = div(sub(scale, range.scale), range.scale);
  const V shift = div(sub(sums.e, mul(growth, sums.c)), rows);
  const V min = within(add(range.min, mul(range.scale, shift)), broadcast(-kHackMaxScale),
                       broadcast(kHackMaxScale));
  return {scale, round_nearest(min)};
}

// A lane whose error does not fall is done: from the same sums the next round would make the same
// candidate. So the lanes that go on can use the sums of the last candidate.
KVFERRY_INLINE Ranges fit_range(const Columns& columns, Choice best, V whole_scale) {
  const V rows = broadcast(static_cast<float>(columns.rows));
  const V infinity = broadcast(__builtin_huge_valf());
  Choice last = best;
  Sums sums = sums_of<true>(columns, last.range);
  Mask going_on = less(zero(), infinity);
  for (int i = 0; i < kHackFits; ++i) {
    last.range = fitted_range(last.range, sums, rows);
    sums = i + 1 < kHackFits ? sums_of<true>(columns, last.range)
                             : sums_of<false>(columns, last.range);
    last.error = where(going_on, error_of(sums.ee, last.range.scale, whole_scale), infinity);
    going_on = keep_better(best, last);
  }
  return best.range;
}

KVFERRY_INLINE Ranges choose_range(const Columns& columns, HackRange kind) {
  const Ranges whole = shrunk_range(columns, 0);
  if (kind == HackRange::kMinMax) return whole;
  const Choice found = search_range(columns, whole.scale);
  return kind == HackRange::kSearch ? found.range : fit_range(columns, found, whole.scale);
}

// The codes of all rows against the columns' halved minima and 2 / scale.
void write_codes(const Halves& halves, std::uint32_t rows, V levels, const float* mh,
                 const float* inv, std::uint8_t* codes) {
  constexpr int kStrip = 4;
  for (int c = 0; c < kColumns; c += kStrip * kLanes) {
    Against ranges[kStrip];
    for (int i = 0; i < kStrip; ++i) {
      ranges[i] = {load(mh + c + i * kLanes), load(inv + c + i * kLanes)};
    }
    for (std::uint32_t r = 0; r < rows; ++r) {
      V positions[kStrip];
      for (int i = 0; i < kStrip; ++i) {
        positions[i] =
            at_most(position(load(halves.x + r * kColumns + c + i * kLanes), ranges[i]), levels);
      }
      store_codes(codes + r * kColumns + c, positions);
    }
  }
}

void quantize_block(const HackBlock& block, std::uint32_t bits, HackRange range,
                    std::uint8_t* codes, std::uint16_t* scale, std::uint16_t* min_out) {
  Halves halves;
  read_block(block, halves);
  const V levels = broadcast(static_cast<float>((1u << bits) - 1u));
  alignas(64) float mh[kColumns], inv[kColumns];
  for (int c = 0; c < kColumns; c += kLanes) {
    Columns columns;
    columns.x = halves.x + c;
    columns.rows = block.rows;
    columns.levels = levels;
    columns.lowest_half = mul(load(halves.lowest + c), broadcast(0.5f));
    columns.highest_half = mul(load(halves.highest + c), broadcast(0.5f));
    columns.min = round_down(load(halves.lowest + c));
    columns.half = sub(columns.highest_half, mul(columns.min, broadcast(0.5f)));
    const Ranges best = choose_range(columns, range);
    const Against taken = against(best);
    store(mh + c, taken.mh);
    store(inv + c, taken.inv);
    store_bf16(scale + c, best.scale);
    store_bf16(min_out + c, best.min);
  }
  write_codes(halves, block.rows, levels, mh, inv, codes);
}

// kLanes rows at a time; a word is four codes along the packed axis.
void pack_block(const std::uint8_t* codes, std::uint32_t shift, std::uint32_t bits,
                std::size_t lanes, std::byte* out) {
  const int fields = static_cast<int>(8 / bits);
  const Words mask = broadcast_byte(static_cast<char>((1u << bits) - 1u));
  for (int r = 0; r < kColumns; r += kLanes) {
    for (int first = 0; first < kColumns / 4; first += kLanes) {
      V words[kLanes];
      for (int i = 0; i < kLanes; ++i)
        words[i] = load_words(codes + kColumns * (r + i) + 4 * first);
      transpose(words);
      for (int j = 0; j < kLanes / fields; ++j) {
        Words packed = broadcast_word(0);
        for (int f = 0; f < fields; ++f) {
          const Words code = shift_right(words_of(words[fields * j + f]), static_cast<int>(shift));
          packed = word_or(packed, shift_left(word_and(code, mask), f * static_cast<int>(bits)));
        }
        const std::size_t word = static_cast<std::size_t>(first / fields + j);
        store_words(out + 4 * (word * lanes + static_cast<std::size_t>(r)), packed);
      }
    }
  }
}

}  // namespace
}  // namespace kvferry::kernels

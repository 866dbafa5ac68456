// Reconstruction for the instruction set (AVX2 or AVX-512) that the unit is compiled for. Included
// only by reconstruct_avx2.cpp and reconstruct_avx512.cpp; all of it has internal linkage.
//
// Channels are in the lanes. V's words hold codes of one channel each, so that a shift by one count
// brings up those of a token; K's hold the codes of neighbouring channels, so that a word goes to
// all of their lanes and each lane shifts by its own count.
//
// Thread contract: pure functions; objects live for one call of one thread.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/reconstruct_tables.h"
#include "kernels/cpu/words_vec.h"
#include "kernels/dense_kernels.h"

namespace kvferry::kernels {
namespace {

constexpr std::size_t kBlockTokens = 64;
constexpr float kLargest = 0x1.fffffep127f;

// v, but `word` in lanes [first, first + count); AVX2: in the upper half.
#if defined(__AVX512F__)
KVFERRY_INLINE Words with_word(Words v, int word, int first, int count) {
  const auto lanes = static_cast<__mmask16>(((1u << count) - 1u) << first);
  return _mm512_mask_set1_epi32(v, lanes, word);
}
#else
KVFERRY_INLINE Words with_word(Words v, int word, int, int) {
  return _mm256_blend_epi32(v, broadcast_word(word), 0xf0);
}
#endif

KVFERRY_INLINE V within(V v, float largest) {
  return min(max(v, broadcast(-largest)), broadcast(largest));
}

// 2 kLanes values, not NaN, as f32 or as bf16. What is beyond the largest becomes that.
KVFERRY_INLINE void put(float* out, V a, V b) {
  store(out, within(a, kLargest));
  store(out + kLanes, within(b, kLargest));
}
KVFERRY_INLINE void put(std::uint16_t* out, V a, V b) {
  store_words(out, finite_halves(upper_halves(rounded(a), rounded(b))));
}

// The codes of K or V of one 64-token block.
struct CodePlane {
  const std::byte* codes;
  std::size_t dim;
};

KVFERRY_INLINE int word_at(const std::byte* p) {
  int word;
  __builtin_memcpy(&word, p, sizeof(word));
  return word;
}

// The codes of kLanes channels: what their sub-codes, subs.at<width>(index of the sub-plane, at),
// make together.
template <std::uint32_t kBits, std::uint32_t kIndex = 0, class Subs>
KVFERRY_INLINE Words whole_codes(const Subs& subs, std::size_t at) {
  constexpr HackSubPlane kSub = kHackSubPlanes[kBits].part[kIndex];
  const Words part = shift_left<kSub.shift>(subs.template at<kSub.bits>(kIndex, at));
  if constexpr (kIndex + 1 < kHackSubPlanes[kBits].count) {
    return word_or(part, whole_codes<kBits, kIndex + 1>(subs, at));
  } else {
    return part;
  }
}

// Where the codes of channels 0, 1, ... lie in their words, at so many bits each.
template <std::uint32_t kWidth>
struct ChannelPlaces {
  alignas(64) std::uint32_t bit[kLanes];
  constexpr ChannelPlaces() : bit() {
    for (std::uint32_t c = 0; c < kLanes; ++c) bit[c] = c % 4 * 8 + c / 4 * kWidth % 8;
  }
};
template <std::uint32_t kWidth>
constexpr ChannelPlaces<kWidth> kChannelPlaces;

// K's codes of kLanes channels, of any token.
template <std::uint32_t kBits>
class ChannelCodes {
 public:
  ChannelCodes(const CodePlane& plane, std::size_t channel) {
    constexpr HackSubPlanes kSubs = kHackSubPlanes[kBits];
    for (std::uint32_t i = 0; i < kSubs.count; ++i) {
      const HackSubPlane sub = kSubs.part[i];
      words_[i] = plane.codes + 8 * plane.dim * sub.shift + channel * sub.bits / 32 * kRow;
      first_[i] = static_cast<int>(channel / 4 * sub.bits % 8);
    }
  }
  template <std::uint32_t kWidth>
  KVFERRY_INLINE Words at(std::uint32_t index, std::size_t token) const {
    constexpr int kOfAWord = 32 / kWidth < kLanes ? 32 / kWidth : kLanes;
    const std::byte* word = words_[index] + 4 * token;
    Words all = broadcast_word(word_at(word));
    if constexpr (kOfAWord < kLanes) {
      for (int lane = kOfAWord; lane < kLanes; lane += kOfAWord) {
        word += kRow;
        all = with_word(all, word_at(word), lane, kOfAWord);
      }
    } else if constexpr (kOfAWord < 32 / kWidth) {
      all = shift_right(all, first_[index]);
    }
    const Words places = words_at(kChannelPlaces<kWidth>.bit);
    return word_and(shift_right(all, places), broadcast_word((1 << kWidth) - 1));
  }

 private:
  static constexpr std::size_t kRow = 4 * kBlockTokens;  // bytes from a channel's word to the next
  const std::byte* words_[3];
  int first_[3];
};

// V's codes of one token, of any kLanes channels.
template <std::uint32_t kBits>
class TokenCodes {
 public:
  TokenCodes(const CodePlane& plane, std::size_t token) {
    constexpr HackSubPlanes kSubs = kHackSubPlanes[kBits];
    for (std::uint32_t i = 0; i < kSubs.count; ++i) {
      const HackSubPlane sub = kSubs.part[i];
      words_[i] = plane.codes + 8 * plane.dim * sub.shift + 4 * (token * sub.bits / 32 * plane.dim);
      place_[i] = static_cast<int>(token % 4 * 8 + token / 4 * sub.bits % 8);
    }
  }
  template <std::uint32_t kWidth>
  KVFERRY_INLINE Words at(std::uint32_t index, std::size_t channel) const {
    const Words words = words_at(words_[index] + 4 * channel);
    return word_and(shift_right(words, place_[index]), broadcast_word((1 << kWidth) - 1));
  }

 private:
  const std::byte* words_[3];
  int place_[3];
};

// A plane of bf16 in f32, so that both its lanes and single values are one load.
template <std::size_t kMost>
struct Widened {
  alignas(64) float x[kMost];

  Widened() {}
  void take(const std::byte* plane, std::size_t n) {
    for (std::size_t i = 0; i < n; i += kLanes) {
      store(x + i, load(reinterpret_cast<const std::uint16_t*>(plane) + i));
    }
  }
  KVFERRY_INLINE V one(std::size_t i) const { return broadcast(x[i]); }
  KVFERRY_INLINE V lanes(std::size_t i) const { return load(x + i); }
};

// Groups and partitions are powers of two.
KVFERRY_INLINE int log2_of(std::uint32_t n) { return __builtin_ctz(n); }

// Scales and minima of hack: K's a channel, V's a token; a factor for each token or channel.
class HackMeaning {
 public:
  explicit HackMeaning(const HackPlanes& p)
      : p_(p), k_shift_(log2_of(p.k_group)), v_shift_(log2_of(p.v_group)) {
    const std::size_t k_groups = p.k_group < kBlockTokens ? kBlockTokens / p.k_group : 1;
    k_scale_.take(p.k_scale, k_groups * p.head_dim);
    k_min_.take(p.k_min, k_groups * p.head_dim);
    v_scale_.take(p.v_scale, p.head_dim / p.v_group * kBlockTokens);
    v_min_.take(p.v_min, p.head_dim / p.v_group * kBlockTokens);
    if (p.k_row != nullptr) k_row_.take(p.k_row, kBlockTokens);
    if (p.v_column != nullptr) v_column_.take(p.v_column, p.head_dim);
  }
  KVFERRY_INLINE V of_k(V code, std::size_t t, std::size_t d) const {
    const std::size_t at = (t >> k_shift_) * p_.head_dim + d;
    const V value = fma(k_scale_.lanes(at), code, k_min_.lanes(at));
    return p_.k_row == nullptr ? value : mul(value, k_row_.one(t));
  }
  KVFERRY_INLINE V of_v(V code, std::size_t t, std::size_t d) const {
    const std::size_t at = (d >> v_shift_) * kBlockTokens + t;
    const V value = fma(v_scale_.one(at), code, v_min_.one(at));
    return p_.v_column == nullptr ? value : mul(value, v_column_.lanes(d));
  }

 private:
  static constexpr std::size_t kMost = 2 * kMaxHeadDim;  // groups of 32
  const HackPlanes& p_;
  int k_shift_, v_shift_;
  Widened<kMost> k_scale_, k_min_, v_scale_, v_min_;
  Widened<kBlockTokens> k_row_;
  Widened<kMaxHeadDim> v_column_;
};

// Of layout=paper: K's a token and partition of channels, V's a channel and partition of tokens.
class PaperMeaning {
 public:
  explicit PaperMeaning(const PaperPlanes& p)
      : p_(p), k_shift_(log2_of(p.k_partition)), v_shift_(log2_of(p.v_partition)) {
    const std::size_t k = p.head_dim / p.k_partition * p.tile_tokens();
    const std::size_t v = p.tile_tokens() / p.v_partition * p.head_dim;
    k_scale_.take(p.k_scale, k);
    k_min_.take(p.k_min, k);
    v_scale_.take(p.v_scale, v);
    v_min_.take(p.v_min, v);
  }
  KVFERRY_INLINE V of_k(V code, std::size_t t, std::size_t d) const {
    const std::size_t at = (d >> k_shift_) * p_.tile_tokens() + t;
    return fma(k_scale_.one(at), code, k_min_.one(at));
  }
  KVFERRY_INLINE V of_v(V code, std::size_t t, std::size_t d) const {
    const std::size_t at = (t >> v_shift_) * p_.head_dim + d;
    return fma(v_scale_.lanes(at), code, v_min_.lanes(at));
  }

 private:
  static constexpr std::size_t kMostTokens = 128;  // of a tile
  const PaperPlanes& p_;
  int k_shift_, v_shift_;
  Widened<kMaxHeadDim / 32 * kMostTokens> k_scale_, k_min_;
  Widened<2 * kMaxHeadDim> v_scale_, v_min_;
};

// 64 tokens from `first` up, whose codes these are. Out: float or std::uint16_t, for bf16.
template <std::uint32_t kBits, class Meaning, class Out>
void reconstruct_k(const Meaning& meaning, const CodePlane& plane, std::size_t first, Out* k) {
  for (std::size_t d = 0; d < plane.dim; d += 2 * kLanes) {
    const ChannelCodes<kBits> low(plane, d), high(plane, d + kLanes);
    for (std::size_t t = 0; t < kBlockTokens; ++t) {
      const V a = to_floats(whole_codes<kBits>(low, t)), b = to_floats(whole_codes<kBits>(high, t));
      put(k + (first + t) * plane.dim + d, meaning.of_k(a, first + t, d),
          meaning.of_k(b, first + t, d + kLanes));
    }
  }
}

template <std::uint32_t kBits, class Meaning, class Out>
void reconstruct_v(const Meaning& meaning, const CodePlane& plane, std::size_t first, Out* v) {
  for (std::size_t t = 0; t < kBlockTokens; ++t) {
    const TokenCodes<kBits> codes(plane, t);
    for (std::size_t d = 0; d < plane.dim; d += 2 * kLanes) {
      const V a = to_floats(whole_codes<kBits>(codes, d));
      const V b = to_floats(whole_codes<kBits>(codes, d + kLanes));
      put(v + (first + t) * plane.dim + d, meaning.of_v(a, first + t, d),
          meaning.of_v(b, first + t, d + kLanes));
    }
  }
}

template <class Meaning, class Out>
using ReconstructPlane = void (*)(const Meaning&, const CodePlane&, std::size_t, Out*);
template <class Meaning, class Out>
constexpr ReconstructPlane<Meaning, Out> kReconstructK[] = {  // [bits - 1]
    reconstruct_k<1, Meaning, Out>, reconstruct_k<2, Meaning, Out>, reconstruct_k<3, Meaning, Out>,
    reconstruct_k<4, Meaning, Out>, reconstruct_k<5, Meaning, Out>, reconstruct_k<6, Meaning, Out>,
    reconstruct_k<7, Meaning, Out>, reconstruct_k<8, Meaning, Out>};
template <class Meaning, class Out>
constexpr ReconstructPlane<Meaning, Out> kReconstructV[] = {
    reconstruct_v<1, Meaning, Out>, reconstruct_v<2, Meaning, Out>, reconstruct_v<3, Meaning, Out>,
    reconstruct_v<4, Meaning, Out>, reconstruct_v<5, Meaning, Out>, reconstruct_v<6, Meaning, Out>,
    reconstruct_v<7, Meaning, Out>, reconstruct_v<8, Meaning, Out>};

template <class Out>
void reconstruct_hack(const HackPlanes& p, Out* k, Out* v) {
  const HackMeaning meaning(p);
  kReconstructK<HackMeaning, Out>[p.k_bits - 1](meaning, {p.k_codes, p.head_dim}, 0, k);
  kReconstructV<HackMeaning, Out>[p.v_bits - 1](meaning, {p.v_codes, p.head_dim}, 0, v);
}

template <class Out>
void reconstruct_paper(const PaperPlanes& p, Out* k, Out* v) {
  const PaperMeaning meaning(p);
  for (std::size_t first = 0; first < p.tile_tokens(); first += kBlockTokens) {
    const std::size_t block = first / kBlockTokens * 8 * p.head_dim;  // bytes a bit
    kReconstructK<PaperMeaning, Out>[p.k_bits - 1](
        meaning, {p.k_codes + block * p.k_bits, p.head_dim}, first, k);
    kReconstructV<PaperMeaning, Out>[p.v_bits - 1](
        meaning, {p.v_codes + block * p.v_bits, p.head_dim}, first, v);
  }
}

}  // namespace
}  // namespace kvferry::kernels

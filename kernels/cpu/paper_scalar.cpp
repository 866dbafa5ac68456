// The scalar kernels of layout=paper: what the others are measured against. How queries and weights
// are rounded here is the definition (docs/codecs.md).
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/hack_codes.h"
#include "kernels/cpu/paper_common.h"
#include "kernels/cpu/reconstruct_tables.h"

namespace kvferry::kernels {
namespace {

constexpr std::uint32_t kBlock = kHackBlock;
constexpr float kLevels = 255.0f;  // of queries and weights
constexpr float kLargest = std::numeric_limits<float>::max();

float widen(std::uint16_t v) { return std::bit_cast<float>(std::uint32_t{v} << 16); }

std::uint64_t finalise(std::uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

void sum_codes(const std::uint8_t* codes, std::uint32_t rows, std::uint16_t* sums) {
  for (std::uint32_t c = 0; c < kBlock; ++c) {
    std::uint32_t sum = 0;
    for (std::uint32_t r = 0; r < rows; ++r) sum += codes[r * kBlock + c];
    sums[c] = static_cast<std::uint16_t>(sum);
  }
}

void pack_rows(const std::uint8_t* codes, std::uint32_t rows, std::uint32_t shift,
               std::uint32_t bits, std::size_t lanes, std::byte* out) {
  const std::uint32_t fields = 8 / bits;
  const std::uint32_t mask = (1u << bits) - 1u;
  for (std::uint32_t j = 0; j < rows / (4 * fields); ++j) {
    for (std::uint32_t c = 0; c < kBlock; ++c) {
      std::byte* word = out + 4 * (j * lanes + c);
      for (std::uint32_t b = 0; b < 4; ++b) {
        std::uint32_t packed = 0;
        for (std::uint32_t f = 0; f < fields; ++f) {
          const std::uint32_t code = codes[(4 * (fields * j + f) + b) * kBlock + c];
          packed |= (code >> shift & mask) << f * bits;
        }
        word[b] = static_cast<std::byte>(packed);
      }
    }
  }
}

// A tile with its codes one a byte, and the sums of partitions.
struct Unpacked {
  HackCodes block[kPaperMaxTokens / kBlock];
  std::uint32_t k_sums[kPaperMaxParts * kPaperMaxTokens];  // [C][T]
  std::uint32_t v_sums[kPaperMaxSpans * kPaperMaxDim];     // [S][D]

  std::uint32_t k(std::uint32_t t, std::uint32_t d) const {
    return block[t / kBlock].k[d * kBlock + t % kBlock];
  }
  std::uint32_t v(std::uint32_t t, std::size_t d, std::uint32_t head_dim) const {
    return block[t / kBlock].v[t % kBlock * head_dim + d];
  }
};

void unpack_tile(const PaperPlanes& p, Unpacked& out) {
  const std::uint32_t tile = p.tile_tokens();
  for (std::uint32_t block = 0; block < tile / kBlock; ++block) {
    HackPlanes codes;
    codes.head_dim = p.head_dim;
    codes.k_bits = p.k_bits;
    codes.v_bits = p.v_bits;
    codes.k_codes = p.k_codes + std::size_t{block} * 8 * p.head_dim * p.k_bits;
    codes.v_codes = p.v_codes + std::size_t{block} * 8 * p.head_dim * p.v_bits;
    hack_unpack(codes, out.block[block]);
  }
  for (std::uint32_t d = 0; d < p.head_dim; ++d) {
    for (std::uint32_t t = 0; t < tile; ++t) {
      std::uint32_t& k_sum = out.k_sums[d / p.k_partition * tile + t];
      std::uint32_t& v_sum = out.v_sums[t / p.v_partition * p.head_dim + d];
      k_sum = (d % p.k_partition == 0 ? 0 : k_sum) + out.k(t, d);
      v_sum = (t % p.v_partition == 0 ? 0 : v_sum) + out.v(t, d, p.head_dim);
    }
  }
}

// The stored sum at `index`, or the counted one where none is stored.
float sum_at(const std::byte* sums, std::size_t bytes, std::size_t index,
             const std::uint32_t* counted) {
  if (sums == nullptr) return static_cast<float>(counted[index]);
  std::uint16_t value = 0;
  std::memcpy(&value, sums + bytes * index, bytes);
  return value;
}

// n values as codes of 8 bits: value ~ step * code + min.
struct Rounded {
  float step, min;
  std::int32_t sum;  // of the codes
  std::int32_t codes[kPaperMaxTokens];
};

// False when the range leaves f32.
bool round_values(const float* x, std::uint32_t n, Rounded& out) {
  const auto [lowest, highest] = std::minmax_element(x, x + n);
  const float range = *highest - *lowest;
  out.min = *lowest;
  out.step = 0.0f;
  out.sum = 0;
  std::fill(out.codes, out.codes + n, 0);
  if (!(range <= kLargest)) return false;
  if (range < kHackTiny) return true;
  out.step = range / kLevels;
  const float inv = kLevels / range;
  for (std::uint32_t i = 0; i < n; ++i) {
    // To the nearest integer, ties to even.
    const float code = ((x[i] - out.min) * inv + 0x1.8p23f) - 0x1.8p23f;
    out.codes[i] = static_cast<std::int32_t>(code);
    out.sum += out.codes[i];
  }
  return true;
}

// Scores of the tokens attended to. False when f32 might not hold them.
bool score_row(const PaperPlanes& p, const Unpacked& codes, const float* q, float* scores) {
  const std::uint32_t tile = p.tile_tokens();
  const std::size_t sum_bytes = paper_sum_bytes(p.k_partition, p.k_bits);
  std::fill(scores, scores + tile, 0.0f);
  for (std::uint32_t part = 0; part < p.head_dim / p.k_partition; ++part) {
    const std::uint32_t first = part * p.k_partition;
    Rounded rounded;
    if (!round_values(q + first, p.k_partition, rounded)) return false;
    const float whole = rounded.step * static_cast<float>(rounded.sum) +
                        static_cast<float>(p.k_partition) * rounded.min;
    for (std::uint32_t t = 0; t < p.tokens; ++t) {
      std::int32_t dot = 0;
      for (std::uint32_t i = 0; i < p.k_partition; ++i) {
        dot += rounded.codes[i] * static_cast<std::int32_t>(codes.k(t, first + i));
      }
      const std::size_t at = part * tile + t;
      const float coded = rounded.step * static_cast<float>(dot) +
                          rounded.min * sum_at(p.k_sums, sum_bytes, at, codes.k_sums);
      scores[t] = scores[t] + hack_load_bf16(p.k_scale, at) * coded;
      scores[t] = scores[t] + hack_load_bf16(p.k_min, at) * whole;
    }
  }
  return std::all_of(scores, scores + p.tokens, [](float s) { return std::fabs(s) < kHackHuge; });
}

// o += the span's values by their weights.
void add_span(const PaperPlanes& p, const Unpacked& codes, std::uint32_t span, const float* probs,
              float* o) {
  const std::uint32_t first = span * p.v_partition;
  if (first >= p.tokens) return;
  const std::uint32_t n = std::min(p.v_partition, p.tokens - first);
  const std::size_t sum_bytes = paper_sum_bytes(p.v_partition, p.v_bits);
  Rounded rounded;
  static_cast<void>(round_values(probs + first, n, rounded));  // weights lie in 0..1
  const float whole =
      rounded.step * static_cast<float>(rounded.sum) + static_cast<float>(n) * rounded.min;
  for (std::uint32_t d = 0; d < p.head_dim; ++d) {
    std::int32_t dot = 0;
    for (std::uint32_t i = 0; i < n; ++i) {
      dot += rounded.codes[i] * static_cast<std::int32_t>(codes.v(first + i, d, p.head_dim));
    }
    const std::size_t at = std::size_t{span} * p.head_dim + d;
    const float coded = rounded.step * static_cast<float>(dot) +
                        rounded.min * sum_at(p.v_sums, sum_bytes, at, codes.v_sums);
    o[d] = o[d] + hack_load_bf16(p.v_scale, at) * coded;
    o[d] = o[d] + hack_load_bf16(p.v_min, at) * whole;
  }
}

// Whether sums over weights of at most 1 stay far within f32.
bool values_fit(const PaperPlanes& p) {
  float scale = 0.0f;
  float min = 0.0f;
  for (std::size_t i = 0; i < p.tile_tokens() / p.v_partition * p.head_dim; ++i) {
    scale = std::max(scale, hack_load_bf16(p.v_scale, i));
    min = std::max(min, std::fabs(hack_load_bf16(p.v_min, i)));
  }
  return static_cast<float>(kPaperMaxTokens) * (kLevels * scale + min) < kHackHuge;
}

struct RowState {
  float m, l;
  float o[kPaperMaxDim];
};

const float* score_add_at(const Queries& queries, std::uint32_t rows, std::uint32_t row,
                          std::uint32_t t) {
  return queries.score_add + (std::size_t{t / kBlock} * rows + row) * kBlock + t % kBlock;
}

bool attend_row(const PaperPlanes& p, const Unpacked& codes, const Queries& queries,
                std::uint32_t rows, std::uint32_t row, RowState& state) {
  float probs[kPaperMaxTokens];
  const float* q = queries.q + std::size_t{row} * p.head_dim;
  if (!score_row(p, codes, q, probs)) return false;
  for (std::uint32_t t = 0; queries.score_add != nullptr && t < p.tokens; ++t) {
    probs[t] = probs[t] + *score_add_at(queries, rows, row, t);
  }
  state.m = *std::max_element(probs, probs + p.tokens);
  state.l = 0.0f;
  for (std::uint32_t t = 0; t < p.tokens; ++t) {
    probs[t] = std::exp(probs[t] - state.m);
    state.l = state.l + probs[t];
  }
  std::fill(state.o, state.o + p.head_dim, 0.0f);
  for (std::uint32_t span = 0; span < p.tile_tokens() / p.v_partition; ++span) {
    add_span(p, codes, span, probs, state.o);
  }
  return true;
}

float saturated(double v) {
  return static_cast<float>(std::clamp(v, -double{kLargest}, double{kLargest}));
}

bool sums_match(const PaperPlanes& planes) {
  Unpacked codes;
  unpack_tile(planes, codes);
  const std::size_t values = std::size_t{planes.tile_tokens()} * planes.head_dim;
  const auto match = [values](const std::byte* stored, std::uint32_t partition, std::uint32_t bits,
                              const std::uint32_t* counted) {
    const std::size_t bytes = paper_sum_bytes(partition, bits);
    for (std::size_t i = 0; i < values / partition; ++i) {
      if (sum_at(stored, bytes, i, counted) != static_cast<float>(counted[i])) return false;
    }
    return true;
  };
  return match(planes.k_sums, planes.k_partition, planes.k_bits, codes.k_sums) &&
         match(planes.v_sums, planes.v_partition, planes.v_bits, codes.v_sums);
}

void scores(const PaperPlanes& planes, const float* q, std::uint32_t rows, float* out) {
  Unpacked codes;
  unpack_tile(planes, codes);
  for (std::uint32_t r = 0; r < rows; ++r) {
    float* row = out + std::size_t{r} * planes.tile_tokens();
    if (score_row(planes, codes, q + std::size_t{r} * planes.head_dim, row)) continue;
    std::fill(row, row + planes.tokens, std::numeric_limits<float>::quiet_NaN());
  }
}

void attend(const PaperPlanes& planes, const Queries& queries, AttentionStates states) {
  Unpacked codes;
  unpack_tile(planes, codes);
  const bool fit = values_fit(planes);
  for (std::uint32_t r = 0; r < states.rows; ++r) {
    RowState state;
    if (fit && attend_row(planes, codes, queries, states.rows, r, state)) {
      hack_merge_row({state.m, state.l, state.o}, states, r);
    } else {
      paper_attend_row_exact(planes, queries, states, r);
    }
  }
}

// scale * code + minimum of K or V at a token and channel.
struct Meaning {
  double scale, code, min;
};
Meaning k_meaning(const PaperPlanes& p, const Unpacked& codes, std::uint32_t t, std::uint32_t d) {
  const std::size_t at = std::size_t{d / p.k_partition} * p.tile_tokens() + t;
  return {hack_load_bf16(p.k_scale, at), static_cast<double>(codes.k(t, d)),
          hack_load_bf16(p.k_min, at)};
}
Meaning v_meaning(const PaperPlanes& p, const Unpacked& codes, std::uint32_t t, std::uint32_t d) {
  const std::size_t at = std::size_t{t / p.v_partition} * p.head_dim + d;
  return {hack_load_bf16(p.v_scale, at), static_cast<double>(codes.v(t, d, p.head_dim)),
          hack_load_bf16(p.v_min, at)};
}

}  // namespace

const PaperKernels kPaperScalar = {
    paper_round_stochastic, sum_codes, pack_rows, sums_match, scores, attend};

void paper_round_stochastic(const HackBlock& block, std::uint32_t bits, const std::uint16_t* scale,
                            const std::uint16_t* min, const PaperRandom& random,
                            std::uint8_t* codes) {
  constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;
  const std::uint64_t stream = finalise(random.key + kGolden);
  const float levels = static_cast<float>((1u << bits) - 1u);
  for (std::uint32_t c = 0; c < kBlock; ++c) {
    const float inv = 2.0f / widen(scale[c]);
    const float mh = widen(min[c]) * 0.5f;
    for (std::uint32_t r = 0; r < block.rows; ++r) {
      const std::uint64_t counter = random.first + r * random.row_step + c * random.column_step;
      const std::uint64_t bits64 = finalise(stream + (counter + 1) * kGolden);
      const float uniform = static_cast<float>(bits64 >> 40) * 0x1p-24f;
      const float x =
          widen(block.transposed ? block.x[c * block.stride + r] : block.x[r * block.stride + c]);
      const float place = std::clamp((x * 0.5f - mh) * inv, 0.0f, levels);
      const float lower = std::floor(place);
      codes[r * kBlock + c] =
          static_cast<std::uint8_t>(uniform < place - lower ? lower + 1.0f : lower);
    }
  }
}

void paper_attend_row_exact(const PaperPlanes& planes, const Queries& queries,
                            AttentionStates states, std::uint32_t row) {
  Unpacked codes;
  unpack_tile(planes, codes);
  const float* q = queries.q + std::size_t{row} * planes.head_dim;
  double scores[kPaperMaxTokens] = {};
  for (std::uint32_t t = 0; t < planes.tokens; ++t) {
    for (std::uint32_t d = 0; d < planes.head_dim; ++d) {
      const Meaning k = k_meaning(planes, codes, t, d);
      scores[t] += double{q[d]} * (k.scale * k.code + k.min);
    }
    if (queries.score_add == nullptr) continue;
    scores[t] += double{*score_add_at(queries, states.rows, row, t)};
  }
  const double largest = *std::max_element(scores, scores + planes.tokens);
  double sum = 0.0;
  double o[kPaperMaxDim] = {};
  for (std::uint32_t t = 0; t < planes.tokens; ++t) {
    const double p = std::exp(scores[t] - largest);
    sum += p;
    for (std::uint32_t d = 0; d < planes.head_dim; ++d) {
      const Meaning v = v_meaning(planes, codes, t, d);
      o[d] += p * (v.scale * v.code + v.min);
    }
  }
  float tile[kPaperMaxDim];
  for (std::uint32_t d = 0; d < planes.head_dim; ++d) tile[d] = saturated(o[d]);
  hack_merge_row({saturated(largest), static_cast<float>(sum), tile}, states, row);
}

void paper_reconstruct_scalar(const PaperPlanes& planes, float* k, float* v) {
  Unpacked codes;
  unpack_tile(planes, codes);
  const auto value = [](const Meaning& x) {
    return std::clamp(std::fmaf(static_cast<float>(x.scale), static_cast<float>(x.code),
                                static_cast<float>(x.min)),
                      -kLargest, kLargest);
  };
  for (std::uint32_t t = 0; t < planes.tile_tokens(); ++t) {
    for (std::uint32_t d = 0; d < planes.head_dim; ++d) {
      const std::size_t at = std::size_t{t} * planes.head_dim + d;
      k[at] = value(k_meaning(planes, codes, t, d));
      v[at] = value(v_meaning(planes, codes, t, d));
    }
  }
}

}  // namespace kvferry::kernels

// mean: takes the mean of each channel over the tile off K and V before the storage behind it sees
// them, keeps it in bf16 [head_dim] behind that storage's part, and gives it back while attending:
// q . mean to all scores of the tile alike, and mean times the sum of weights to the output. What
// is constant in a channel then costs a storage nothing whose scales run across channels.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "codec/dense.h"
#include "codec/stages.h"
#include "kernels/byte_kernels.h"

namespace kvferry::codec {
namespace {

constexpr std::uint32_t kMaxDim = kernels::kMaxHeadDim;
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr std::uint32_t kRows = 64;  // attended to at a time: their states are on the stack

constexpr std::string_view kOfNames[] = {"kv", "k", "v"};
struct MeanOf {
  bool k = true, v = true;
};

using Row = float[kMaxDim];

const std::uint16_t* bf16(const std::byte* bytes) {
  return reinterpret_cast<const std::uint16_t*>(bytes);
}

// The mean over the tokens of x [tokens][dim] in bf16: SUM x / tokens in f32, in order of tokens.
void mean_of(const std::uint16_t* x, std::uint32_t tokens, std::size_t dim, std::uint16_t* mean) {
  const float share = 1.0f / static_cast<float>(tokens);
  Row sum = {}, row;
  for (std::uint32_t t = 0; t < tokens; ++t) {
    kernels::dense_kernels().from_bf16(x + t * dim, dim, row);
    for (std::size_t d = 0; d < dim; ++d) sum[d] += row[d] * share;
  }
  kernels::byte_kernels().to_finite_bf16(sum, dim, mean);
}

// out = x - mean, rounded to bf16.
void subtract(const std::uint16_t* x, const std::uint16_t* mean, std::uint32_t tokens,
              std::size_t dim, std::uint16_t* out) {
  Row taken, row;
  kernels::dense_kernels().from_bf16(mean, dim, taken);
  for (std::uint32_t t = 0; t < tokens; ++t) {
    kernels::dense_kernels().from_bf16(x + t * dim, dim, row);
    for (std::size_t d = 0; d < dim; ++d) row[d] -= taken[d];
    kernels::byte_kernels().to_finite_bf16(row, dim, out + t * dim);
  }
}

// q . mean: sixteen partial sums and their tree; in double where f32 does not hold it.
float dot(const float* q, const float* mean, std::size_t dim) {
  constexpr std::size_t kParts = 16;
  float sums[kParts] = {};
  for (std::size_t d = 0; d < dim; d += kParts) {
    for (std::size_t i = 0; i < kParts; ++i) sums[i] += q[d + i] * mean[d + i];
  }
  for (std::size_t n = kParts / 2; n > 0; n /= 2) {
    for (std::size_t i = 0; i < n; ++i) sums[i] += sums[i + n];
  }
  if (std::isfinite(sums[0])) return sums[0];
  double sum = 0.0;
  for (std::size_t d = 0; d < dim; ++d) sum += double{q[d]} * double{mean[d]};
  return static_cast<float>(std::clamp(sum, -double{kLargest}, double{kLargest}));
}

// States of some rows, empty.
struct RowStates {
  RowStates(std::uint32_t rows, std::uint32_t dim) : view{m, l, o, rows, dim} {
    std::fill_n(m, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(l, rows, 0.0f);
    std::fill_n(o, std::size_t{rows} * dim, 0.0f);
  }
  float m[kRows], l[kRows], o[kRows * kMaxDim];
  kernels::AttentionStates view;
};

class MeanStage final : public StorageStage {
 public:
  MeanStage(MeanOf of, StoragePtr behind) : of_(of), behind_(std::move(behind)) {}

  std::string text() const override { return own_text() + behind_->text(); }
  std::string layer_text(std::uint32_t layer) const override {
    return own_text() + behind_->layer_text(layer);
  }
  CodecTraits traits() const override {
    CodecTraits traits = behind_->traits();
    traits.lossless = false;
    return traits;
  }
  Status supports(const KvGeometry& geometry) const override {
    if (mean_bytes(geometry) % 64 != 0) {
      return unsupported("mean: head_dim " + std::to_string(geometry.head_dim) +
                         " is not a multiple of 32, which a mean of K or V alone needs");
    }
    return behind_->supports(geometry);
  }
  SegmentKind kind(TileId id) const override { return behind_->kind(id); }
  Bits bits(TileId id) const override { return behind_->bits(id); }
  std::size_t head_bytes(const KvGeometry& geometry, TileId id) const override {
    return behind_->head_bytes(geometry, id) + mean_bytes(geometry);
  }
  std::vector<Plane> planes(const KvGeometry& geometry, TileId id) const override {
    std::vector<Plane> planes = behind_->planes(geometry, id);
    planes.push_back({PlaneKind::kMeans, 16, mean_bytes(geometry)});
    return planes;
  }
  void encode_head(const KvGeometry& geometry, TileId id, std::uint32_t kv_head, const std::byte* k,
                   const std::byte* v, std::byte* out) const override;
  Status validate_head(const KvGeometry& geometry, TileId id,
                       const std::byte* part) const override {
    KVF_RETURN_IF_ERROR(behind_->validate_head(geometry, id, part));
    return check_dense(OpenDtype::kBf16, part + behind_->head_bytes(geometry, id),
                       mean_bytes(geometry))
        .with_context("means");
  }
  void attend_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                   const QueryRows& queries, kernels::AttentionStates states) const override;
  void reconstruct_head(const KvGeometry& geometry, TileId id, const std::byte* part, float* k,
                        float* v) const override;
  void attend_open_head(TileId id, std::uint32_t kv_head, const std::byte* k, const std::byte* v,
                        const QueryRows& queries, const std::uint32_t* visible,
                        kernels::AttentionStates states) const override {
    behind_->attend_open_head(id, kv_head, k, v, queries, visible, states);
  }

 private:
  struct Means {
    Row k, v;  // zeros where they are not taken off
  };

  std::string own_text() const {
    const std::string of = of_.k && of_.v ? "" : of_.k ? "(of=k)" : "(of=v)";
    return "mean" + of + " | ";
  }
  std::size_t mean_bytes(const KvGeometry& geometry) const {
    return std::size_t{2} * geometry.head_dim * ((of_.k ? 1 : 0) + (of_.v ? 1 : 0));
  }
  void read_means(const KvGeometry& geometry, TileId id, const std::byte* part,
                  Means& means) const {
    const std::byte* at = part + behind_->head_bytes(geometry, id);
    std::fill_n(means.k, geometry.head_dim, 0.0f);
    std::fill_n(means.v, geometry.head_dim, 0.0f);
    if (of_.k) widen(OpenDtype::kBf16, at, geometry.head_dim, means.k);
    if (of_.k) at += 2 * geometry.head_dim;
    if (of_.v) widen(OpenDtype::kBf16, at, geometry.head_dim, means.v);
  }

  MeanOf of_;
  StoragePtr behind_;
};

void MeanStage::encode_head(const KvGeometry& geometry, TileId id, std::uint32_t kv_head,
                            const std::byte* k, const std::byte* v, std::byte* out) const {
  const std::uint32_t tokens = traits().tile_tokens;
  const std::size_t dim = geometry.head_dim;
  alignas(64) std::uint16_t rests[2][kMaxTileTokens * kMaxDim];
  std::byte* at = out + behind_->head_bytes(geometry, id);
  const std::byte* inputs[2] = {k, v};
  for (int i = 0; i < 2; ++i) {
    if (!(i == 0 ? of_.k : of_.v)) continue;
    std::uint16_t mean[kMaxDim];
    mean_of(bf16(inputs[i]), tokens, dim, mean);
    subtract(bf16(inputs[i]), mean, tokens, dim, rests[i]);
    std::memcpy(at, mean, 2 * dim);
    at += 2 * dim;
    inputs[i] = reinterpret_cast<const std::byte*>(rests[i]);
  }
  behind_->encode_head(geometry, id, kv_head, inputs[0], inputs[1], out);
}

void MeanStage::reconstruct_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                                 float* k, float* v) const {
  behind_->reconstruct_head(geometry, id, part, k, v);
  Means means;
  read_means(geometry, id, part, means);
  const std::size_t dim = geometry.head_dim;
  for (std::uint32_t t = 0; t < traits().tile_tokens; ++t) {
    for (std::size_t d = 0; d < dim; ++d) {
      float& in_k = k[t * dim + d];
      float& in_v = v[t * dim + d];
      in_k = std::clamp(in_k + means.k[d], -kLargest, kLargest);
      in_v = std::clamp(in_v + means.v[d], -kLargest, kLargest);
    }
  }
}

void MeanStage::attend_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                            const QueryRows& queries, kernels::AttentionStates states) const {
  Means means;
  read_means(geometry, id, part, means);
  const std::uint32_t dim = geometry.head_dim;
  const std::uint32_t blocks = traits().tile_tokens / kGridTokens;
  for (std::uint32_t first = 0; first < states.rows; first += kRows) {
    const std::uint32_t rows = std::min(kRows, states.rows - first);
    RowStates tile(rows, dim);
    QueryRows some{queries.q + std::size_t{first} * dim, rows, nullptr};
    float score_add[kMaxTileTokens * kRows];
    for (std::uint32_t block = 0; queries.score_add != nullptr && block < blocks; ++block) {
      std::copy_n(queries.block(block).score_add + std::size_t{first} * kGridTokens,
                  std::size_t{rows} * kGridTokens,
                  score_add + std::size_t{block} * rows * kGridTokens);
      some.score_add = score_add;
    }
    behind_->attend_head(geometry, id, part, some, tile.view);
    for (std::uint32_t r = 0; r < rows; ++r) {
      const float score = tile.m[r] + dot(some.q + std::size_t{r} * dim, means.k, dim);
      tile.m[r] = std::clamp(score, -kLargest, kLargest);
      float* o = tile.o + std::size_t{r} * dim;
      for (std::uint32_t d = 0; d < dim; ++d) {
        o[d] = std::clamp(o[d] + tile.l[r] * means.v[d], -kLargest, kLargest);
      }
    }
    kernels::dense_kernels().merge_states(
        {states.m + first, states.l + first, states.o + std::size_t{first} * dim, rows, dim},
        tile.view);
  }
}

}  // namespace

Result<Stage> make_mean_stage(const SpecStage& spec) {
  const SpecArguments arguments(spec);
  KVF_RETURN_IF_ERROR(arguments.check_keys({"of"}));
  KVF_ASSIGN_OR_RETURN(const std::size_t of,
                       arguments.word("of", {kOfNames[0], kOfNames[1], kOfNames[2]}, 0));
  const MeanOf parts{of != 2, of != 1};
  return Stage(Adapter([parts](StoragePtr behind) -> Result<StoragePtr> {
    return StoragePtr(std::make_shared<MeanStage>(parts, std::move(behind)));
  }));
}

}  // namespace kvferry::codec

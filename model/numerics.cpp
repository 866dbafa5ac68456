#include "model/numerics.h"

#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "codec/codec.h"
#include "kernels/dense_kernels.h"

namespace kvferry::model {
namespace {

using codec::kGridTokens;

constexpr std::uint32_t kHeadDim = 64, kRows = 5;  // 5 rows: full vectors and a remainder

// Uniform in [-2, 2).
std::vector<float> random_values(std::uint64_t key, std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>(static_cast<std::int32_t>(counter_random(key, i))) * 0x1p-30f;
  }
  return values;
}

class BitHash {
 public:
  template <class T>
  void add(const std::vector<T>& values) {
    hash_ = hash64(std::as_bytes(std::span(values)), hash_);
  }
  void add(std::uint64_t value) { add(std::vector<std::uint64_t>{value}); }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 0;
};

struct States {
  std::vector<float> m = std::vector<float>(kRows, -std::numeric_limits<float>::infinity());
  std::vector<float> l = std::vector<float>(kRows, 0.0f);
  std::vector<float> o = std::vector<float>(kRows * kHeadDim, 0.0f);
  kernels::AttentionStates view() { return {m.data(), l.data(), o.data(), kRows, kHeadDim}; }
  void add_to(BitHash& hash) const {
    hash.add(m);
    hash.add(l);
    hash.add(o);
  }
};

void probe_rows(BitHash& hash) {
  const auto& kernels = kernels::dense_kernels();
  constexpr std::size_t kWidth = 1000;  // no multiple of a vector
  auto x = random_values(11, kWidth);
  const auto y = random_values(12, kWidth);
  std::vector<float> out(kWidth);
  kernels.rms_norm(x.data(), y.data(), 1e-5f, kWidth, out.data());
  hash.add(out);
  kernels.silu_mul(x.data(), y.data(), kWidth, out.data());
  hash.add(out);
  std::vector<std::uint16_t> half(kWidth);
  kernels.to_bf16(out.data(), kWidth, half.data());
  hash.add(half);
  std::vector<float> cosine(kHeadDim / 2), sine(kHeadDim / 2);
  for (std::size_t i = 0; i < cosine.size(); ++i) {
    const double angle = 12345.0 * std::pow(10000.0, -2.0 * static_cast<double>(i) / kHeadDim);
    cosine[i] = static_cast<float>(std::cos(angle));
    sine[i] = static_cast<float>(std::sin(angle));
  }
  kernels.rope(x.data(), cosine.data(), sine.data(), 4, kHeadDim);
  hash.add(x);
  kernels.hadamard(x.data(), 4, kHeadDim);
  hash.add(x);
}

Status probe_attention(BitHash& hash) {
  const codec::KvGeometry geometry{1, 1, 1, kHeadDim};
  const auto& kernels = kernels::dense_kernels();
  const auto q = random_values(21, kRows * kHeadDim);
  const auto k = random_values(22, kGridTokens * kHeadDim);
  const auto v = random_values(23, kGridTokens * kHeadDim);
  std::vector<std::uint16_t> k16(k.size()), v16(v.size());
  kernels.to_bf16(k.data(), k.size(), k16.data());
  kernels.to_bf16(v.data(), v.size(), v16.data());
  const std::vector<std::uint32_t> visible{64, 1, 33, 63, 0};

  constexpr std::size_t kWaves = 3;
  const auto terms = random_values(24, kRows * 2 * kWaves), turn = random_values(26, 2 * kWaves);
  const auto basis = random_values(25, kWaves * kGridTokens);
  std::vector<float> add(kRows * kGridTokens);
  kernels.score_waves({kWaves, terms.data(), turn.data(), basis.data()}, kRows, add.data());
  hash.add(add);

  States dense;
  kernels.attend_dense_bf16({q.data(), add.data()}, k16.data(), v16.data(), visible.data(),
                            dense.view());
  kernels.attend_dense_f32({q.data()}, k.data(), v.data(), nullptr, dense.view());
  dense.add_to(hash);

  // Each storage that has kernels of its own, by the paths that they take.
  for (const char* spec : {codec::kDefaultSpec.data(), "hack(k=2,v=2)",
                           "hack(k=3,v=5,group=32,balance=dual)", "hack(k=2,v=2,layout=paper)"}) {
    KVF_ASSIGN_OR_RETURN(const auto codec, codec::make_codec(spec));
    std::vector<std::byte> segment(codec->segment_bytes(geometry, 0, 1, kGridTokens));
    const codec::OpenTile tile{reinterpret_cast<std::byte*>(k16.data()),
                               reinterpret_cast<std::byte*>(v16.data())};
    KVF_RETURN_IF_ERROR(codec->encode(geometry, 0, 1, kGridTokens, tile, segment));
    States coded;
    codec->attend(geometry, segment, 0, {q.data(), kRows, add.data()}, coded.view());
    coded.add_to(hash);
    std::vector<float> out(kRows * kHeadDim);
    kernels.normalize(coded.view(), out.data());
    hash.add(out);
  }
  return ok_status();
}

}  // namespace

Result<std::uint64_t> probe_numerics(const GemmKernels& kernels, Compute compute) {
  BitHash hash;
  hash.add(static_cast<std::uint64_t>(compute));
  for (const auto& kernel : kernels.all()) hash.add(kernel->probe_hash());
  probe_rows(hash);
  KVF_RETURN_IF_ERROR(probe_attention(hash));
  return hash.value();
}

}  // namespace kvferry::model

#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/llama.h"
#include "model/model.h"
#include "model/numerics.h"
#include "model/random_model.h"

namespace kvferry::model {
namespace {

// bf16 where oneDNN would use AVX512_BF16: elsewhere it emulates, slower than f32.
Compute resolve(Compute compute) {
  if (compute != Compute::kAuto) return compute;
  const auto isa = dnnl::get_effective_cpu_isa();
  const bool bf16 = isa == dnnl::cpu_isa::avx512_core_bf16 || isa == dnnl::cpu_isa::avx512_core_amx;
  return bf16 ? Compute::kBf16 : Compute::kF32;
}

Result<std::unique_ptr<TensorSource>> open_source(const std::string& model) {
  if (random_model_name(model)) return make_random_source();
  return Checkpoint::open(model);
}

std::uint64_t fingerprint_of(const ModelConfig& c, Compute compute, std::uint64_t weights) {
  const std::vector<std::uint64_t> shape{
      c.hidden,   c.intermediate, c.layers, c.q_heads,
      c.kv_heads, c.head_dim,     c.vocab,  static_cast<std::uint64_t>(compute)};
  const auto& rope = c.rope_scaling;
  const std::vector<double> scalars{
      c.rms_eps,          c.rope_theta,        rope.factor,          static_cast<double>(rope.type),
      rope.low_frequency, rope.high_frequency, rope.original_context};
  const std::uint64_t hash = hash64(std::as_bytes(std::span(shape)), weights);
  return hash64(std::as_bytes(std::span(scalars)), hash);
}

Result<std::unique_ptr<Model>> load(const std::string& model, const LoadOptions& options) {
  KVF_ASSIGN_OR_RETURN(const ModelConfig config, load_config(model));
  const Compute compute = resolve(options.compute);
  KVF_ASSIGN_OR_RETURN(const auto source, open_source(model));
  GemmKernels kernels(compute);
  auto weights = load_weights(config, compute, *source, kernels, *options.pool, options.progress);
  if (!weights.ok()) return weights.status().with_context(model);
  KVF_ASSIGN_OR_RETURN(const std::uint64_t numerics, probe_numerics(kernels, compute));
  const std::uint64_t fingerprint = fingerprint_of(config, compute, weights->fingerprint);
  return std::unique_ptr<Model>(std::make_unique<LlamaModel>(
      config, compute, *options.pool, std::move(*weights), fingerprint, numerics));
}

}  // namespace

Result<ModelConfig> load_config(const std::string& model) {
  if (const auto name = random_model_name(model)) return random_model_config(*name);
  return read_config(model);
}

Result<std::unique_ptr<Model>> load_model(const std::string& model, const LoadOptions& options) {
  if (options.pool == nullptr) return invalid_argument("load_model needs a compute pool");
  try {
    return load(model, options);
  } catch (const std::bad_alloc&) {
    return resource_exhausted(model +
                              ": not enough memory for the model; use a smaller one, or "
                              "--compute bf16");
  }
}

}  // namespace kvferry::model

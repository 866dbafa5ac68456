#include "model/gemm_rates.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "model/gemm_kernel.h"
#include "model/linear.h"
#include "model/random_model.h"
#include "model/weights.h"

namespace kvferry::model {

struct GemmRates::Impl {
  ComputePool* pool = nullptr;
  std::vector<GemmRate> rates;
  std::vector<std::vector<std::uint64_t>> times_ns;  // of each product, every repeat so far
  std::vector<std::unique_ptr<Linear>> products;
  std::vector<GemmScratch> scratch;
  std::vector<std::byte> x;
};

GemmRates::GemmRates(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GemmRates::~GemmRates() = default;
const std::vector<GemmRate>& GemmRates::rates() const { return impl_->rates; }

Result<std::unique_ptr<GemmRates>> GemmRates::create(const ModelConfig& config, Compute compute,
                                                     ComputePool& pool) {
  auto impl = std::make_unique<Impl>();
  impl->pool = &pool;
  impl->scratch.resize(pool.threads());
  const std::uint32_t q = config.q_heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  impl->rates = {{"qkv", config.hidden, q + 2 * kv},
                 {"o", q, config.hidden},
                 {"gate_up", config.hidden, 2 * config.intermediate},
                 {"down", config.intermediate, config.hidden}};
  impl->times_ns.resize(impl->rates.size());
  GemmKernels kernels(compute);
  const auto source = make_random_source();
  std::uint64_t fingerprint = 0;
  std::uint32_t widest = 0;
  for (const auto& rate : impl->rates) {
    KVF_ASSIGN_OR_RETURN(const auto tensor, source->find(rate.name, rate.out, rate.in));
    const auto fill = [&](std::uint32_t row0, std::uint32_t rows, std::byte* out) {
      source->read_rows(tensor, row0, rows, compute, out);
    };
    KVF_ASSIGN_OR_RETURN(auto product, Linear::create(kernels, pool, compute, rate.in, rate.out,
                                                      panel_width(rate.out), fill, &fingerprint));
    for (auto& scratch : impl->scratch) product->reserve(scratch);
    impl->products.push_back(std::move(product));
    widest = std::max(widest, rate.in);
  }
  KVF_ASSIGN_OR_RETURN(const auto x, source->find("x", kStepRows, widest));
  impl->x.resize(std::size_t{kStepRows} * widest * (compute == Compute::kBf16 ? 2 : 4));
  source->read_rows(x, 0, kStepRows, compute, impl->x.data());
  return std::unique_ptr<GemmRates>(new GemmRates(std::move(impl)));
}

void GemmRates::measure(int repeats) {
  for (std::size_t i = 0; i < impl_->products.size(); ++i) {
    GemmRate& rate = impl_->rates[i];
    auto& times_ns = impl_->times_ns[i];
    for (int repeat = 0; repeat < repeats; ++repeat) {
      const std::uint64_t start_ns = monotonic_ns();
      impl_->products[i]->run(*impl_->pool, impl_->x.data(), kStepRows, impl_->scratch,
                              [](const PanelOutput&) {});
      times_ns.push_back(std::max<std::uint64_t>(1, monotonic_ns() - start_ns));
    }
    const auto middle = times_ns.begin() + static_cast<std::ptrdiff_t>(times_ns.size() / 2);
    std::nth_element(times_ns.begin(), middle, times_ns.end());
    rate.gflops = 2.0 * kStepRows * rate.in * rate.out / static_cast<double>(*middle);
  }
}

}  // namespace kvferry::model

#include "model/linear.h"

#include <algorithm>
#include <span>
#include <string>

#include "base/hash.h"
#include "model/gemm_kernel.h"
#include "model/page_buffer.h"

namespace kvferry::model {
namespace {

static_assert(kStepRows == kMaxRung);

std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

// Below this many bytes of weights and rows, waking the pool costs more than the product.
constexpr std::size_t kInlineBytes = 256 * 1024;
constexpr std::uint32_t kInlineRows = 4;

}  // namespace

struct Linear::Impl {
  std::uint32_t in = 0, out = 0, width = 0;
  std::size_t element_bytes = 0, panel_stride = 0;
  std::shared_ptr<const GemmKernel> full, tail;  // tail: the last, narrower panel, or null
  std::vector<dnnl::memory> panels;
  PageBuffer memory;

  const GemmKernel& kernel(std::size_t panel) const {
    return (panel + 1 == panels.size() && tail != nullptr) ? *tail : *full;
  }
  void run_panel(std::size_t panel, const std::byte* x, std::uint32_t row0,
                 const GemmKernel::Block& block, GemmScratch& scratch, int worker,
                 const Epilogue& epilogue) const;
};

Linear::Linear(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Linear::~Linear() = default;
std::uint32_t Linear::in() const { return impl_->in; }
std::uint32_t Linear::out() const { return impl_->out; }

Result<std::unique_ptr<Linear>> Linear::create(GemmKernels& kernels, ComputePool& pool,
                                               Compute compute, std::uint32_t in, std::uint32_t out,
                                               std::uint32_t panel_width, const Fill& fill,
                                               std::uint64_t* fingerprint) {
  auto impl = std::make_unique<Impl>();
  impl->in = in;
  impl->out = out;
  impl->width = std::min(panel_width, out);
  impl->element_bytes = compute == Compute::kBf16 ? 2 : 4;
  KVF_ASSIGN_OR_RETURN(impl->full, kernels.get(in, impl->width));
  impl->panel_stride = round_up(impl->full->packed_bytes(), 4096);
  if (out % impl->width != 0) {
    KVF_ASSIGN_OR_RETURN(impl->tail, kernels.get(in, out % impl->width));
    impl->panel_stride = std::max(impl->panel_stride, round_up(impl->tail->packed_bytes(), 4096));
  }
  impl->panels.resize((out + impl->width - 1) / impl->width);
  KVF_RETURN_IF_ERROR(impl->memory.allocate(impl->panels.size() * impl->panel_stride));

  std::vector<std::uint64_t> hashes(impl->panels.size());
  std::vector<std::vector<std::byte>> rows(pool.threads());
  pool.parallel_for(impl->panels.size(), [&](std::size_t p, int worker) {
    const GemmKernel& kernel = impl->kernel(p);
    auto& buffer = rows[worker];
    buffer.resize(std::size_t{kernel.n()} * in * impl->element_bytes);
    fill(static_cast<std::uint32_t>(p) * impl->width, kernel.n(), buffer.data());
    hashes[p] = hash64(buffer);
    impl->panels[p] = kernel.pack(buffer.data(), impl->memory.data() + p * impl->panel_stride);
  });
  *fingerprint = hash64(std::as_bytes(std::span(hashes)), *fingerprint);
  return std::unique_ptr<Linear>(new Linear(std::move(impl)));
}

void Linear::reserve(GemmScratch& scratch) const {
  scratch.y.resize(std::max(scratch.y.size(), std::size_t{kStepRows} * impl_->width));
  std::size_t library = impl_->full->scratch_bytes();
  if (impl_->tail != nullptr) library = std::max(library, impl_->tail->scratch_bytes());
  scratch.library.resize(std::max(scratch.library.size(), library + 64));
}

void Linear::Impl::run_panel(std::size_t panel, const std::byte* x, std::uint32_t row0,
                             const GemmKernel::Block& block, GemmScratch& scratch, int worker,
                             const Epilogue& epilogue) const {
  const GemmKernel& gemm = kernel(panel);
  gemm.run(block.rung, x + std::size_t{row0} * in * element_bytes, panels[panel], scratch.y.data(),
           scratch.library.data());
  epilogue({row0, block.rows, static_cast<std::uint32_t>(panel) * width, gemm.n(), scratch.y.data(),
            worker});
}

void Linear::run(ComputePool& pool, const std::byte* x, std::uint32_t rows,
                 std::vector<GemmScratch>& scratch, const Epilogue& epilogue) const {
  const std::size_t panels = impl_->panels.size();
  // Smaller row blocks where the panels alone would not keep the threads busy. The rungs give equal
  // bits, so this may depend on the thread count.
  std::uint32_t limit = kStepRows;
  const auto wanted = static_cast<std::size_t>(pool.threads()) * 4;
  while (limit > 64 && panels * ((rows + limit - 1) / limit) < wanted) limit /= 2;

  // A tail panel may have another ladder, so it cuts the rows for itself.
  struct Task {
    std::uint32_t panel, row0;
    GemmKernel::Block block;
  };
  std::vector<Task> tasks;
  const auto cut = [&](std::size_t first, std::size_t last) {
    for (std::uint32_t row0 = 0; row0 < rows;) {
      const auto block = impl_->kernel(first).next_block(rows - row0, limit);
      for (std::size_t p = first; p < last; ++p) {
        tasks.push_back({static_cast<std::uint32_t>(p), row0, block});
      }
      row0 += block.rows;
    }
  };
  const std::size_t full = panels - (impl_->tail != nullptr ? 1 : 0);
  cut(0, full);
  if (impl_->tail != nullptr) cut(full, panels);

  const auto run_task = [&](std::size_t i, int worker) {
    impl_->run_panel(tasks[i].panel, x, tasks[i].row0, tasks[i].block, scratch[worker], worker,
                     epilogue);
  };
  const std::size_t weight_bytes = panels * impl_->full->packed_bytes();
  if (rows <= kInlineRows && weight_bytes <= kInlineBytes) {
    pool.parallel_for(1, [&](std::size_t, int worker) {
      for (std::size_t i = 0; i < tasks.size(); ++i) run_task(i, worker);
    });
  } else {
    pool.parallel_for(tasks.size(), run_task);
  }
}

}  // namespace kvferry::model

#include "model/gemm_kernel.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <unordered_map>

#include "base/hash.h"
#include "kernels/dense_kernels.h"

namespace kvferry::model {
namespace {

using dnnl::memory;

std::size_t element_bytes(Compute compute) { return compute == Compute::kBf16 ? 2 : 4; }

memory::data_type data_type(Compute compute) {
  return compute == Compute::kBf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// One engine for all: primitives, memory and streams must share it.
const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// Uniform in [-1, 1), in the compute type.
std::vector<std::byte> random_matrix(Compute compute, std::uint64_t key, std::size_t count) {
  std::vector<std::byte> bytes(count * element_bytes(compute));
  for (std::size_t i = 0; i < count; ++i) {
    const auto bits = static_cast<std::int32_t>(counter_random(key, i) >> 32);
    const float value = static_cast<float>(bits) * 0x1p-31f;
    if (compute == Compute::kBf16) {
      const std::uint16_t half = kernels::bf16_from_f32(value);
      std::memcpy(bytes.data() + i * 2, &half, 2);
    } else {
      std::memcpy(bytes.data() + i * 4, &value, 4);
    }
  }
  return bytes;
}

}  // namespace

void use_one_omp_thread() {
  thread_local bool done = false;
  if (!done) omp_set_num_threads(1);
  done = true;
}

GemmKernel::GemmKernel(Compute compute, std::uint32_t k, std::uint32_t n)
    : compute_(compute), k_(k), n_(n) {}

Result<std::shared_ptr<const GemmKernel>> GemmKernel::create(Compute compute, std::uint32_t k,
                                                             std::uint32_t n) {
  use_one_omp_thread();
  try {
    std::shared_ptr<GemmKernel> kernel(new GemmKernel(compute, k, n));
    KVF_RETURN_IF_ERROR(kernel->build());
    KVF_RETURN_IF_ERROR(kernel->probe());
    return std::shared_ptr<const GemmKernel>(std::move(kernel));
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_unimplemented && compute == Compute::kBf16) {
      return unsupported(
          "this CPU has no bf16 matrix product in oneDNN (it needs AVX-512); use "
          "--compute f32");
    }
    return internal_error(std::string("oneDNN: ") + error.what());
  }
}

Status GemmKernel::build() {
  const auto type = data_type(compute_);
  const memory::dim k = k_, n = n_;
  weights_ = memory::desc({k, n}, type, memory::format_tag::any);
  for (std::uint32_t rung = kMaxRung; rung >= 1; rung /= 2) {
    const memory::dim m = rung;
    const memory::desc x({m, k}, type, memory::dims{k, 1});
    const memory::desc y({m, n}, memory::data_type::f32, memory::dims{n, 1});
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(x, weights_, y), attributes,
                                                   cpu_engine());
    // The largest rung chooses the layout of the packed weights; the others take it as given.
    if (rung == kMaxRung) weights_ = description.weights_desc();
    scratch_bytes_ = std::max(scratch_bytes_, description.scratchpad_desc().get_size());
    ladder_.emplace(rung, Rung{description, dnnl::matmul(description)});
  }
  return ok_status();
}

Status GemmKernel::probe() {
  constexpr std::uint32_t kShift = 37;  // odd, so that no vector or block width divides it
  const std::size_t row_bytes = k_ * element_bytes(compute_);
  // kShift more rows than the largest rung: row r of the shifted run is row r + kShift.
  const auto x = random_matrix(compute_, 1, std::size_t{k_} * (kMaxRung + kShift));
  const auto w = random_matrix(compute_, 2, std::size_t{k_} * n_);
  std::vector<std::byte> packed(packed_bytes() + 64);
  void* aligned = packed.data();
  std::size_t space = packed.size();
  std::align(64, packed_bytes(), aligned, space);
  const memory panel = pack(w.data(), static_cast<std::byte*>(aligned));
  std::vector<std::byte> scratch(scratch_bytes_ + 64);

  std::vector<float> reference(std::size_t{kMaxRung} * n_), y(reference.size());
  std::uint32_t top = 0;  // largest rung that agrees with itself under a shift; the reference
  for (std::uint32_t rung = kMaxRung; rung >= 1; rung /= 2) {
    const std::uint32_t compared = top == 0 ? rung : std::min(rung, top - kShift);
    if (top == 0) run(rung, x.data(), panel, reference.data(), scratch.data());
    run(rung, x.data() + kShift * row_bytes, panel, y.data(), scratch.data());
    bool holds = true;
    if (top == 0) {
      const std::size_t overlap = rung > kShift ? rung - kShift : 0;
      holds = overlap > 0 && std::memcmp(y.data(), reference.data() + std::size_t{kShift} * n_,
                                         overlap * n_ * sizeof(float)) == 0;
      if (holds) top = rung;
    } else {
      holds = std::memcmp(y.data(), reference.data() + std::size_t{kShift} * n_,
                          std::size_t{compared} * n_ * sizeof(float)) == 0;
      run(rung, x.data(), panel, y.data(), scratch.data());
      holds = holds &&
              std::memcmp(y.data(), reference.data(), std::size_t{rung} * n_ * sizeof(float)) == 0;
    }
    if (!holds) ladder_.erase(rung);
  }
  if (top == 0) {
    return unsupported("no row count gives row-independent matrix products for panels of " +
                       std::to_string(n_) + " x " + std::to_string(k_) +
                       " on this CPU; try --compute f32");
  }
  probe_hash_ = hash64(std::as_bytes(std::span(reference.data(), std::size_t{64} * n_)));
  return ok_status();
}

GemmKernel::Block GemmKernel::next_block(std::uint32_t rows, std::uint32_t limit) const {
  auto up = ladder_.lower_bound(std::min(rows, limit));
  if (up == ladder_.end()) up = std::prev(ladder_.end());
  const std::uint32_t rung = up->first;
  // Much padding in a large block costs more than a second, smaller block.
  if (rows < rung && rung >= 128 && rows <= rung - rung / 4 && up != ladder_.begin()) {
    const std::uint32_t below = std::prev(up)->first;
    return {std::min(rows, below), below};
  }
  return {std::min(rows, rung), rung};
}

dnnl::memory GemmKernel::pack(const void* rows, std::byte* packed) const {
  use_one_omp_thread();
  const memory::dim k = k_, n = n_;
  dnnl::stream stream(cpu_engine());
  memory source(memory::desc({k, n}, data_type(compute_), memory::dims{1, k}), cpu_engine(),
                const_cast<void*>(rows));
  memory target(weights_, cpu_engine(), packed);
  dnnl::reorder(source, target).execute(stream, source, target);
  stream.wait();
  return target;
}

void GemmKernel::run(std::uint32_t rung, const void* x, const dnnl::memory& panel, float* y,
                     std::byte* scratch) const {
  use_one_omp_thread();
  thread_local dnnl::stream stream(cpu_engine());
  const Rung& r = ladder_.at(rung);
  r.primitive.execute(
      stream,
      {{DNNL_ARG_SRC, memory(r.description.src_desc(), cpu_engine(), const_cast<void*>(x))},
       {DNNL_ARG_WEIGHTS, panel},
       {DNNL_ARG_DST, memory(r.description.dst_desc(), cpu_engine(), y)},
       {DNNL_ARG_SCRATCHPAD, memory(r.description.scratchpad_desc(), cpu_engine(), scratch)}});
  stream.wait();
}

std::vector<std::uint32_t> GemmKernel::rungs() const {
  std::vector<std::uint32_t> result;
  for (const auto& [rung, unused] : ladder_) result.push_back(rung);
  return result;
}

Result<std::shared_ptr<const GemmKernel>> GemmKernels::get(std::uint32_t k, std::uint32_t n) {
  auto found = kernels_.find({k, n});
  if (found != kernels_.end()) return found->second;
  KVF_ASSIGN_OR_RETURN(auto kernel, GemmKernel::create(compute_, k, n));
  kernels_.emplace(std::pair(k, n), kernel);
  return kernel;
}

std::vector<std::shared_ptr<const GemmKernel>> GemmKernels::all() const {
  std::vector<std::shared_ptr<const GemmKernel>> result;
  for (const auto& [shape, kernel] : kernels_) result.push_back(kernel);
  return result;
}

}  // namespace kvferry::model

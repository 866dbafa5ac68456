// y[M, n] = x[M, k] * panel[n, k]^T by oneDNN, for one panel shape and a ladder of row counts M.
//
// Why a ladder: oneDNN picks another code path for another M, and on some CPUs that changes the
// order of a sum. create() therefore runs a fixed random problem at every power of two up to 512
// and keeps only the row counts whose rows are bit-equal to those of the largest, wherever the row
// stands. Rows are padded up to a rung, so a row's result never depends on the batch (measured with
// oneDNN 2.6.3: all rungs hold with AVX512_BF16; under AVX2 f32 1, 2, 8 and 32 do not).
//
// oneDNN is called single-threaded from the pool's threads: OpenMP's thread count is set to 1 in
// every thread that comes here.
//
// Thread contract: immutable after create(); run() and pack() from any thread with scratch and
// output of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <utility>
#include <vector>

#include "base/status.h"
#include "model/model.h"

namespace kvferry::model {

inline constexpr std::uint32_t kMaxRung = 512;

// OpenMP's thread count of the calling thread becomes 1. Cheap after the first call of a thread.
void use_one_omp_thread();

class GemmKernel {
 public:
  // kUnsupported when this CPU cannot multiply in `compute` (bf16 needs AVX-512).
  static Result<std::shared_ptr<const GemmKernel>> create(Compute compute, std::uint32_t k,
                                                          std::uint32_t n);

  std::uint32_t k() const { return k_; }
  std::uint32_t n() const { return n_; }
  std::size_t packed_bytes() const { return weights_.get_size(); }
  std::size_t scratch_bytes() const { return scratch_bytes_; }

  // The row count to compute next when `rows` are left and blocks may have up to `limit` rows
  // (a power of two, >= 1). The rung is what run() will compute, the block how many of its rows
  // count: block <= rung, and a padded block is always the last.
  struct Block {
    std::uint32_t rows = 0, rung = 0;
  };
  Block next_block(std::uint32_t rows, std::uint32_t limit) const;

  // Packs a panel of rows [n][k] into `packed` (packed_bytes(), 64-byte aligned), which must
  // outlive the returned handle.
  dnnl::memory pack(const void* rows, std::byte* packed) const;

  // x: [rung][k] in the compute type, y: [rung][n] f32.
  void run(std::uint32_t rung, const void* x, const dnnl::memory& panel, float* y,
           std::byte* scratch) const;

  // Rungs that hold, ascending, and a hash of the probe's output bits.
  std::vector<std::uint32_t> rungs() const;
  std::uint64_t probe_hash() const { return probe_hash_; }

 private:
  struct Rung {
    dnnl::matmul::primitive_desc description;
    dnnl::matmul primitive;
  };
  GemmKernel(Compute compute, std::uint32_t k, std::uint32_t n);
  Status build();
  Status probe();

  Compute compute_;
  std::uint32_t k_, n_;
  dnnl::memory::desc weights_;
  std::map<std::uint32_t, Rung> ladder_;
  std::size_t scratch_bytes_ = 0;
  std::uint64_t probe_hash_ = 0;
};

// The kernels of a model: one for each distinct (k, n).
class GemmKernels {
 public:
  explicit GemmKernels(Compute compute) : compute_(compute) {}
  Result<std::shared_ptr<const GemmKernel>> get(std::uint32_t k, std::uint32_t n);
  // In order of (k, n).
  std::vector<std::shared_ptr<const GemmKernel>> all() const;

 private:
  Compute compute_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::shared_ptr<const GemmKernel>> kernels_;
};

}  // namespace kvferry::model

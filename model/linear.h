// A linear layer without bias: y[M, out] = x[M, in] * W[out, in]^T, weights packed once in panels
// of out whose width is fixed by the model, never by the thread count. A panel's product lands in
// the worker's scratch (fits the L2 cache) and is handed to an epilogue at once, so adding,
// copying, activation and rounding cost no second pass over memory.
//
// Thread contract: create() and run() on the engine thread; fill and epilogue are called on the
// pool's threads. Immutable after create().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/compute_pool.h"
#include "base/status.h"
#include "model/model.h"

namespace kvferry::model {

class GemmKernels;

// Rows of an activation matrix must have room for the padding of the last block: kStepRows rows,
// whatever the number in use. The padding rows hold anything finite.
inline constexpr std::uint32_t kStepRows = 512;

// A piece of a product: rows [row0, row0 + rows) x columns [column0, column0 + columns).
struct PanelOutput {
  std::uint32_t row0 = 0, rows = 0, column0 = 0, columns = 0;
  float* y = nullptr;  // [rows][columns]; the epilogue may overwrite it
  int worker = 0;
};

// Scratch memory of one worker for every Linear of a model.
struct GemmScratch {
  std::vector<float> y;
  std::vector<std::byte> library;
};

class Linear {
 public:
  // Writes rows [row0, row0 + rows) of W, [rows][in] in the compute type. Any thread.
  using Fill = std::function<void(std::uint32_t row0, std::uint32_t rows, std::byte* out)>;
  using Epilogue = std::function<void(const PanelOutput&)>;

  // hash(W's bytes as filled) is mixed into *fingerprint.
  static Result<std::unique_ptr<Linear>> create(GemmKernels& kernels, ComputePool& pool,
                                                Compute compute, std::uint32_t in,
                                                std::uint32_t out, std::uint32_t panel_width,
                                                const Fill& fill, std::uint64_t* fingerprint);
  ~Linear();
  Linear(const Linear&) = delete;
  Linear& operator=(const Linear&) = delete;

  std::uint32_t in() const;
  std::uint32_t out() const;
  // Enlarges the scratch to what run() needs.
  void reserve(GemmScratch& scratch) const;

  // x: [kStepRows][in] in the compute type, of which 1 <= rows <= kStepRows count. scratch: one
  // for each worker of the pool, reserved.
  void run(ComputePool& pool, const std::byte* x, std::uint32_t rows,
           std::vector<GemmScratch>& scratch, const Epilogue& epilogue) const;

 private:
  struct Impl;
  explicit Linear(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvferry::model

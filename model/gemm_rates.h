// The speed of a model's matrix products alone: what `bench prefill` measures a forward pass
// against. Same panels, same kernels, 512 rows, all threads of the pool; weights are random.
// Thread contract: engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/compute_pool.h"
#include "base/status.h"
#include "model/model.h"

namespace kvferry::model {

struct GemmRate {
  std::string name;  // qkv, o, gate_up, down
  std::uint32_t in = 0, out = 0;
  double gflops = 0.0;  // 2 * 512 * in * out operations over the median time so far
};

class GemmRates {
 public:
  static Result<std::unique_ptr<GemmRates>> create(const ModelConfig& config, Compute compute,
                                                   ComputePool& pool);
  ~GemmRates();

  // Runs every product `repeats` times more. The median, not the fastest, because a forward pass is
  // judged against it, and that cannot pick its lucky moments either.
  void measure(int repeats);
  const std::vector<GemmRate>& rates() const;

 private:
  struct Impl;
  explicit GemmRates(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvferry::model

// The weights of a model of the Llama family, packed for the CPU.
// Thread contract: immutable after load_weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/compute_pool.h"
#include "base/status.h"
#include "model/gemm_kernel.h"
#include "model/linear.h"
#include "model/page_buffer.h"
#include "model/tensor_source.h"

namespace kvferry::model {

// Columns of a panel of a layer with `out` outputs. 256 columns x 512 rows of f32 are half an L2
// cache; narrower panels for narrow layers, so that there are enough of them to share.
std::uint32_t panel_width(std::uint32_t out);

struct LayerWeights {
  std::vector<float> input_norm, post_norm;   // [hidden]
  std::vector<float> q_norm, k_norm;          // [head_dim], or empty
  std::vector<float> q_bias, k_bias, v_bias;  // [heads * head_dim], or all empty
  std::vector<float> o_bias;                  // [hidden], or empty
  // What K's channels would deviate without a bias, where there is one (model/removed_bias.h).
  std::vector<float> k_deviation;  // [kv heads * head_dim], or empty
  std::unique_ptr<Linear> qkv;     // out: q heads, then k heads, then v heads
  std::unique_ptr<Linear> o;
  std::unique_ptr<Linear> gate_up;  // out: in each panel of w columns w/2 of gate, then w/2 of up
  std::unique_ptr<Linear> down;
};

struct LlamaWeights {
  PageBuffer embedding;  // [vocab][hidden] in the compute type
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;  // [hidden]
  std::unique_ptr<Linear> head;
  std::uint64_t fingerprint = 0;  // over all weights' bytes in the compute type
};

// Finds every tensor of the config in the source before it packs any; a tensor that the source has
// and the model has no use for is kInvalidArgument, since the two then disagree about what the
// model is. Of no harm, and ignored: rotary_emb.inv_freq, which old checkpoints carry, and
// lm_head.weight where embeddings are tied.
Result<LlamaWeights> load_weights(const ModelConfig& config, Compute compute,
                                  const TensorSource& source, GemmKernels& kernels,
                                  ComputePool& pool, const std::function<void(double)>& progress);

}  // namespace kvferry::model

// Attention of a step's rows over their sequences' KV.
//
// A row at position t attends to the closed tiles before its own as encoded, and to its own tile
// dense, up to and including itself. The order of merging is fixed by the position alone: the
// sequence is walked on a grid of kCellTokens tokens; inside a cell a fresh state gets the tiles in
// token order, and the cells' states are merged in order. Cells are the only place where one row's
// work is split between threads, so the thread count changes no bit.
//
// A segment holds all KV heads of its tile, so a task with few query rows (decode) takes several
// heads and walks tile by tile, head by head: memory is read in the order in which it lies.
//
// Never holds more than kBlockRows query rows and one tile at a time: no [tokens, tokens] matrix.
//
// Thread contract: engine thread; work is spread over the pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/compute_pool.h"
#include "kernels/attention_state.h"
#include "model/model.h"
#include "model/removed_bias.h"
#include "model/step_kv.h"

namespace kvferry::model {

inline constexpr std::uint32_t kCellTokens = 1024;  // a multiple of every codec's tile
inline constexpr std::uint32_t kBlockRows = 256;    // query rows of a task: states stay in L2

class Attention {
 public:
  // bias: outlives this; plan() enlarges its tables.
  Attention(const ModelConfig& config, RemovedBias& bias, ComputePool& pool);

  // Lays out the tasks of a step; valid for all its layers.
  void plan(const StepKv& step);

  // A layer's queries, and what is left out of its KV under codecs that remove biases.
  struct Input {
    // Rows of `q_stride` floats, the first q_heads * head_dim of each being the query in the
    // codec's domain, not yet scaled.
    const float* q = nullptr;
    std::size_t q_stride = 0;
    // [rows][q_heads][2 * most_pairs()]: RemovedBias::query_terms, scaled by 1/sqrt(head_dim).
    const float* terms = nullptr;
    std::span<const float> v_bias;  // [kv_heads * head_dim], or empty
  };
  // out: [rows][q_heads * head_dim] in `type`, padding untouched.
  void run(const StepKv& step, std::uint32_t layer, const Input& input, Compute type,
           std::byte* out);

 private:
  struct Block {                         // query tokens in one tile
    std::uint32_t tile, token0, tokens;  // token0: row in the part
    std::uint32_t cells;                 // of the walk up to the tile
  };
  // Queries of a block, all q heads of some KV heads.
  struct Task {
    const StepPart* part;
    Block block;
    std::uint32_t head0, heads;  // KV heads
    std::size_t partial;         // first row of its [cells][rows_of] partial states, when split
  };
  struct States {  // owned storage of AttentionStates
    std::vector<float> m, l, o;
    void resize(std::size_t rows, std::size_t head_dim);
    kernels::AttentionStates view(std::size_t row0, std::uint32_t rows, std::uint32_t head_dim);
  };
  struct Scratch {
    std::vector<float> q;
    std::vector<std::uint32_t> visible;
    std::vector<codec::AttendWork> works;
    std::vector<float> terms, score_add;  // of removed biases
    States cell, total;
  };
  struct Call;  // the arguments of run()

  void for_each_block(const StepPart& part, const std::function<void(const Block&)>& visit) const;
  std::uint32_t heads_together(std::uint32_t rows, std::size_t pieces) const;

  // Rows lie [head][token][query head of the group], in queries and states.
  std::uint32_t rows_of_head(const Task& task) const { return task.block.tokens * group_; }
  std::uint32_t rows_of(const Task& task) const { return task.heads * rows_of_head(task); }
  // The i-th token's row of the step.
  static std::size_t row_of(const Task& task, std::uint32_t i) {
    return std::size_t{task.part->row0} + task.block.token0 + i;
  }
  void gather_queries(const Call& call, const Task& task, Scratch& scratch) const;
  void gather_terms(const Call& call, const Task& task, Scratch& scratch) const;
  codec::QueryRows queries_of(const Call& call, const Task& task, std::uint32_t tile,
                              std::uint32_t h, Scratch& scratch, float* score_add) const;
  void attend_cell(const Call& call, const Task& task, std::uint32_t cell, Scratch& scratch,
                   kernels::AttentionStates states) const;
  kernels::Ahead ahead_of(const Call& call, const Task& task, std::uint32_t tile,
                          std::uint32_t h) const;
  void finish(const Call& call, const Task& task, kernels::AttentionStates total, float* o) const;
  void run_whole(const Call& call);
  void run_split(const Call& call);

  const std::uint32_t q_heads_, kv_heads_, head_dim_, group_;
  RemovedBias& bias_;
  ComputePool& pool_;
  std::vector<Task> tasks_;
  bool split_ = false;
  std::vector<Scratch> scratch_;  // one for each worker
  States partial_;                // of the tasks, when split
};

}  // namespace kvferry::model

#include "model/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "codec/segment.h"
#include "kernels/dense_kernels.h"

namespace kvferry::model {

using codec::kGridTokens;

namespace {

void reset(kernels::AttentionStates states) {
  std::fill_n(states.m, states.rows, -std::numeric_limits<float>::infinity());
  std::fill_n(states.l, states.rows, 0.0f);
  std::fill_n(states.o, std::size_t{states.rows} * states.head_dim, 0.0f);
}

}  // namespace

struct Attention::Call {
  const StepKv& step;
  std::uint32_t layer;
  const Input& input;
  Compute type;
  std::byte* out;
};

void Attention::States::resize(std::size_t rows, std::size_t head_dim) {
  m.resize(std::max(m.size(), rows));
  l.resize(std::max(l.size(), rows));
  o.resize(std::max(o.size(), rows * head_dim));
}

kernels::AttentionStates Attention::States::view(std::size_t row0, std::uint32_t rows,
                                                 std::uint32_t head_dim) {
  return {m.data() + row0, l.data() + row0, o.data() + row0 * head_dim, rows, head_dim};
}

Attention::Attention(const ModelConfig& config, RemovedBias& bias, ComputePool& pool)
    : q_heads_(config.q_heads),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      group_(config.q_heads / config.kv_heads),
      bias_(bias),
      pool_(pool),
      scratch_(pool.threads()) {
  const std::size_t rows = std::max(kBlockRows, group_);
  for (auto& scratch : scratch_) {
    scratch.q.resize(rows * head_dim_);
    scratch.visible.resize(rows);
    if (bias_.most_pairs() > 0) {
      scratch.terms.resize(rows * 2 * bias_.most_pairs());
      scratch.turned.resize(scratch.terms.size());
      scratch.score_add.resize(rows * codec::kMaxTileTokens);
    }
    scratch.cell.resize(rows, head_dim_);
    scratch.total.resize(rows, head_dim_);
  }
}

void Attention::plan(const StepKv& step) {
  tasks_.clear();
  const std::uint32_t block_tokens = std::max(1u, kBlockRows / group_);
  std::size_t partials = 0;
  std::uint32_t most_tokens = 1;
  for (const auto& part : step.parts()) {
    bias_.reserve((part.last_tile() + 1) * (part.tile_tokens() / kGridTokens));
    const std::uint32_t tile_tokens = part.tile_tokens();
    for (std::uint32_t token = 0; token < part.rows;) {
      const std::uint32_t tile = (part.start + token) / tile_tokens;
      const std::uint32_t tile_end = std::min(part.rows, (tile + 1) * tile_tokens - part.start);
      const std::uint32_t tokens = std::min(block_tokens, tile_end - token);
      const std::uint32_t cells = tile * tile_tokens / kCellTokens + 1;
      for (std::uint32_t head = 0; head < kv_heads_; ++head) {
        tasks_.push_back({&part, tile, token, tokens, head, cells, partials});
        partials += cells;
      }
      most_tokens = std::max(most_tokens, tokens);
      token += tokens;
    }
  }
  // The longest walk last to start would leave threads idle at the end.
  std::stable_sort(tasks_.begin(), tasks_.end(),
                   [](const Task& a, const Task& b) { return a.cells > b.cells; });
  const auto threads = static_cast<std::size_t>(pool_.threads());
  split_ = threads > 1 && tasks_.size() < 2 * threads && partials > tasks_.size();
  partial_rows_ = std::size_t{most_tokens} * group_;
  if (split_) partial_.resize(partials * partial_rows_, head_dim_);
}

void Attention::run(const StepKv& step, std::uint32_t layer, const Input& input, Compute type,
                    std::byte* out) {
  const Call call{step, layer, input, type, out};
  if (split_) {
    run_split(call);
  } else {
    run_whole(call);
  }
}

void Attention::run_whole(const Call& call) {
  pool_.parallel_for(tasks_.size(), [&](std::size_t i, int worker) {
    const Task& task = tasks_[i];
    Scratch& scratch = scratch_[worker];
    gather_queries(call, task, scratch);
    const auto total = scratch.total.view(0, rows_of(task), head_dim_);
    const auto state = scratch.cell.view(0, rows_of(task), head_dim_);
    reset(total);
    for (std::uint32_t cell = 0; cell < task.cells; ++cell) {
      attend_cell(call, task, cell, scratch, state);
      kernels::dense_kernels().merge_states(total, state);
    }
    finish(call, task, total, scratch.q.data());
  });
}

void Attention::run_split(const Call& call) {
  struct Piece {
    std::uint32_t task, cell;
  };
  std::vector<Piece> pieces;
  for (std::uint32_t i = 0; i < tasks_.size(); ++i) {
    for (std::uint32_t cell = 0; cell < tasks_[i].cells; ++cell) pieces.push_back({i, cell});
  }
  const auto state_of = [&](const Task& task, std::uint32_t cell) {
    return partial_.view((task.partial + cell) * partial_rows_, rows_of(task), head_dim_);
  };
  pool_.parallel_for(pieces.size(), [&](std::size_t i, int worker) {
    const Task& task = tasks_[pieces[i].task];
    gather_queries(call, task, scratch_[worker]);
    attend_cell(call, task, pieces[i].cell, scratch_[worker], state_of(task, pieces[i].cell));
  });
  pool_.parallel_for(tasks_.size(), [&](std::size_t i, int worker) {
    const Task& task = tasks_[i];
    const auto total = scratch_[worker].total.view(0, rows_of(task), head_dim_);
    reset(total);
    for (std::uint32_t cell = 0; cell < task.cells; ++cell) {
      kernels::dense_kernels().merge_states(total, state_of(task, cell));
    }
    finish(call, task, total, scratch_[worker].q.data());
  });
}

// Rows in the order [token][query head of the group], scaled by 1/sqrt(head_dim).
void Attention::gather_queries(const Call& call, const Task& task, Scratch& scratch) const {
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
  const std::size_t width = std::size_t{group_} * head_dim_;
  for (std::uint32_t i = 0; i < task.tokens; ++i) {
    const std::size_t row = task.part->row0 + task.token0 + i;
    const float* from = call.input.q + row * call.input.q_stride + task.kv_head * width;
    float* to = scratch.q.data() + i * width;
    for (std::size_t j = 0; j < width; ++j) to[j] = from[j] * scale;
    const std::uint32_t slot = (task.part->start + task.token0 + i) % task.part->tile_tokens();
    std::fill_n(scratch.visible.data() + std::size_t{i} * group_, group_, slot + 1);
  }
  if (lacks_k_bias(call, task)) gather_terms(call, task, scratch);
}

bool Attention::lacks_k_bias(const Call& call, const Task& task) const {
  return task.part->kv->codec->traits().removes_bias && bias_.pairs(call.layer, task.kv_head) > 0;
}

// Rows as gather_queries has them, [2 * pairs of the head] each.
void Attention::gather_terms(const Call& call, const Task& task, Scratch& scratch) const {
  const std::size_t depth = 2 * bias_.pairs(call.layer, task.kv_head);
  const std::size_t stride = 2 * bias_.most_pairs();
  float* to = scratch.terms.data();
  for (std::uint32_t i = 0; i < task.tokens; ++i) {
    const std::size_t row = task.part->row0 + task.token0 + i;
    const float* from = call.input.terms + (row * q_heads_ + task.kv_head * group_) * stride;
    for (std::uint32_t h = 0; h < group_; ++h, from += stride, to += depth) {
      std::copy_n(from, depth, to);
    }
  }
}

void Attention::attend_cell(const Call& call, const Task& task, std::uint32_t cell,
                            Scratch& scratch, kernels::AttentionStates states) const {
  const codec::SequenceKv& kv = *task.part->kv;
  codec::QueryRows queries{scratch.q.data(), rows_of(task)};
  if (lacks_k_bias(call, task)) queries.score_add = scratch.score_add.data();
  reset(states);
  const std::uint32_t cell_tiles = kCellTokens / kv.tile_tokens();
  const std::uint32_t first = cell * cell_tiles;
  const std::uint32_t last = std::min(first + cell_tiles, task.tile);
  for (std::uint32_t tile = first; tile < last; ++tile) {
    // Two tiles ahead, into the next cell too: a thread goes there next, or its neighbour does.
    if (tile + 2 < task.tile) {
      codec::prefetch_head(kv.segment(call.layer, tile + 2), kv_heads_, task.kv_head);
    }
    score_tile(call, task, tile, scratch);
    kv.codec->attend(kv.geometry, kv.segment(call.layer, tile), task.kv_head, queries, states);
  }
  if (task.tile / cell_tiles == cell) {
    score_tile(call, task, task.tile, scratch);
    kv.codec->attend_open(kv.geometry, call.layer,
                          call.step.dense_tile(*task.part, call.layer, task.tile), task.kv_head,
                          queries, scratch.visible.data(), states);
  }
}

// What the removed bias adds to the tile's scores, one grid block behind the other.
void Attention::score_tile(const Call& call, const Task& task, std::uint32_t tile,
                           Scratch& scratch) const {
  if (!lacks_k_bias(call, task)) return;
  const std::uint32_t blocks = task.part->tile_tokens() / kGridTokens;
  const std::size_t rows = rows_of(task);
  for (std::uint32_t block = 0; block < blocks; ++block) {
    bias_.add_scores(call.layer, task.kv_head, tile * blocks + block, scratch.terms.data(), rows,
                     scratch.turned.data(), scratch.score_add.data() + block * rows * kGridTokens);
  }
}

void Attention::finish(const Call& call, const Task& task, kernels::AttentionStates total,
                       float* o) const {
  kernels::dense_kernels().normalize(total, o);
  const codec::Codec& codec = *task.part->kv->codec;
  codec.from_domain_o(o, total.rows, head_dim_);
  if (codec.traits().removes_bias && !call.input.v_bias.empty()) {
    const float* bias = call.input.v_bias.data() + std::size_t{task.kv_head} * head_dim_;
    for (std::uint32_t row = 0; row < total.rows; ++row) {
      kernels::dense_kernels().add(bias, head_dim_, o + std::size_t{row} * head_dim_);
    }
  }
  const std::size_t width = std::size_t{group_} * head_dim_;
  const std::size_t stride = std::size_t{q_heads_} * head_dim_;
  for (std::uint32_t i = 0; i < task.tokens; ++i) {
    const std::size_t row = task.part->row0 + task.token0 + i;
    const std::size_t at = row * stride + task.kv_head * width;
    if (call.type == Compute::kBf16) {
      kernels::dense_kernels().to_bf16(o + i * width, width,
                                       reinterpret_cast<std::uint16_t*>(call.out) + at);
    } else {
      std::memcpy(call.out + at * 4, o + i * width, width * 4);
    }
  }
}

}  // namespace kvferry::model

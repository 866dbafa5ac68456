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
      scratch.score_add.resize(rows * codec::kMaxTileTokens);
    }
    scratch.cell.resize(rows, head_dim_);
    scratch.total.resize(rows, head_dim_);
  }
}

void Attention::plan(const StepKv& step) {
  tasks_.clear();
  std::size_t pieces = 0;  // what there would be to share out if tasks took all heads
  for (const auto& part : step.parts()) {
    bias_.reserve((part.last_tile() + 1) * (part.tile_tokens() / kGridTokens));
    for_each_block(part, [&](const Block& block) { pieces += block.cells; });
  }
  for (const auto& part : step.parts()) {
    for_each_block(part, [&](const Block& block) {
      const std::uint32_t heads = heads_together(block.tokens * group_, pieces);
      for (std::uint32_t head = 0; head < kv_heads_; head += heads) {
        tasks_.push_back({&part, block, head, std::min(heads, kv_heads_ - head), 0});
      }
    });
  }
  // The longest walk last to start would leave threads idle at the end.
  std::stable_sort(tasks_.begin(), tasks_.end(),
                   [](const Task& a, const Task& b) { return a.block.cells > b.block.cells; });
  std::size_t rows = 0, cells = 0;
  for (Task& task : tasks_) {
    task.partial = rows;
    rows += std::size_t{task.block.cells} * rows_of(task);
    cells += task.block.cells;
  }
  const auto threads = static_cast<std::size_t>(pool_.threads());
  split_ = threads > 1 && tasks_.size() < 2 * threads && cells > tasks_.size();
  if (split_) partial_.resize(rows, head_dim_);
}

void Attention::for_each_block(const StepPart& part,
                               const std::function<void(const Block&)>& visit) const {
  const std::uint32_t most = std::max(1u, kBlockRows / group_);
  const std::uint32_t tile_tokens = part.tile_tokens();
  for (std::uint32_t token = 0; token < part.rows;) {
    const std::uint32_t tile = (part.start + token) / tile_tokens;
    const std::uint32_t tile_end = std::min(part.rows, (tile + 1) * tile_tokens - part.start);
    const Block block{tile, token, std::min(most, tile_end - token),
                      tile * tile_tokens / kCellTokens + 1};
    visit(block);
    token += block.tokens;
  }
}

// KV heads of a task whose heads have `rows` rows each: as many as its states have room for, and as
// leave every thread four pieces.
std::uint32_t Attention::heads_together(std::uint32_t rows, std::size_t pieces) const {
  std::size_t heads = std::min<std::size_t>(kv_heads_, kBlockRows / rows);
  if (pool_.threads() > 1) {
    heads = std::min(heads, pieces * kv_heads_ / (4 * static_cast<std::size_t>(pool_.threads())));
  }
  return static_cast<std::uint32_t>(std::max<std::size_t>(heads, 1));
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
    for (std::uint32_t cell = 0; cell < task.block.cells; ++cell) {
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
    const std::uint32_t cells = tasks_[i].block.cells;
    for (std::uint32_t cell = 0; cell < cells; ++cell) pieces.push_back({i, cell});
  }
  const auto state_of = [&](const Task& task, std::uint32_t cell) {
    return partial_.view(task.partial + std::size_t{cell} * rows_of(task), rows_of(task),
                         head_dim_);
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
    for (std::uint32_t cell = 0; cell < task.block.cells; ++cell) {
      kernels::dense_kernels().merge_states(total, state_of(task, cell));
    }
    finish(call, task, total, scratch_[worker].q.data());
  });
}

// The queries, scaled by 1/sqrt(head_dim).
void Attention::gather_queries(const Call& call, const Task& task, Scratch& scratch) const {
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
  const std::size_t width = std::size_t{group_} * head_dim_;
  float* to = scratch.q.data();
  for (std::uint32_t head = task.head0; head < task.head0 + task.heads; ++head) {
    for (std::uint32_t i = 0; i < task.block.tokens; ++i, to += width) {
      const float* from = call.input.q + row_of(task, i) * call.input.q_stride + head * width;
      for (std::size_t j = 0; j < width; ++j) to[j] = from[j] * scale;
    }
  }
  const std::uint32_t slot0 = (task.part->start + task.block.token0) % task.part->tile_tokens();
  for (std::uint32_t i = 0; i < task.block.tokens; ++i) {
    std::fill_n(scratch.visible.data() + std::size_t{i} * group_, group_, slot0 + i + 1);
  }
  if (task.part->kv->codec->traits().removes_bias) gather_terms(call, task, scratch);
}

// Rows as gather_queries has them, those of a head [2 * pairs of the head] each.
void Attention::gather_terms(const Call& call, const Task& task, Scratch& scratch) const {
  const std::size_t stride = 2 * bias_.most_pairs();
  for (std::uint32_t h = 0; h < task.heads; ++h) {
    const std::uint32_t head = task.head0 + h;
    const std::size_t depth = 2 * bias_.pairs(call.layer, head);
    float* to = scratch.terms.data() + h * rows_of_head(task) * stride;
    for (std::uint32_t i = 0; i < task.block.tokens && depth > 0; ++i) {
      const float* from = call.input.terms + (row_of(task, i) * q_heads_ + head * group_) * stride;
      for (std::uint32_t g = 0; g < group_; ++g, from += stride, to += depth) {
        std::copy_n(from, depth, to);
      }
    }
  }
}

// The queries of the task's h-th head, with what its removed bias adds to the tile's scores, one
// grid block behind the other, in score_add: [tile_tokens][rows_of_head].
codec::QueryRows Attention::queries_of(const Call& call, const Task& task, std::uint32_t tile,
                                       std::uint32_t h, Scratch& scratch, float* score_add) const {
  const std::size_t row0 = std::size_t{h} * rows_of_head(task);
  codec::QueryRows queries;
  queries.q = scratch.q.data() + row0 * head_dim_;
  queries.rows = rows_of_head(task);
  const std::uint32_t head = task.head0 + h;
  if (!task.part->kv->codec->traits().removes_bias || bias_.pairs(call.layer, head) == 0) {
    return queries;
  }
  const std::uint32_t blocks = task.part->tile_tokens() / kGridTokens;
  for (std::uint32_t block = 0; block < blocks; ++block) {
    bias_.add_scores(call.layer, head, tile * blocks + block,
                     scratch.terms.data() + row0 * 2 * bias_.most_pairs(), queries.rows,
                     score_add + std::size_t{block} * queries.rows * kGridTokens);
  }
  queries.score_add = score_add;
  return queries;
}

void Attention::attend_cell(const Call& call, const Task& task, std::uint32_t cell,
                            Scratch& scratch, kernels::AttentionStates states) const {
  const codec::SequenceKv& kv = *task.part->kv;
  const auto state_of = [&](std::uint32_t h) {
    const std::size_t row0 = std::size_t{h} * rows_of_head(task);
    return kernels::AttentionStates{states.m + row0, states.l + row0, states.o + row0 * head_dim_,
                                    rows_of_head(task), head_dim_};
  };
  reset(states);
  const std::uint32_t cell_tiles = kCellTokens / kv.tile_tokens();
  const std::uint32_t first = cell * cell_tiles;
  const std::uint32_t last = std::min(first + cell_tiles, task.block.tile);
  std::vector<codec::AttendWork>& works = scratch.works;
  const auto attend_works = [&] {
    kv.codec->attend_all(kv.geometry, works);
    works.clear();
  };
  const std::uint32_t rows = rows_of_head(task);
  for (std::uint32_t tile = first; tile < last; ++tile) {
    for (std::uint32_t h = 0; h < task.heads; ++h) {
      if ((works.size() + 1) * rows > std::max(kBlockRows, rows)) attend_works();
      float* score_add = scratch.score_add.data() + works.size() * rows * kv.tile_tokens();
      codec::AttendWork& work = works.emplace_back();
      work.layer = call.layer;
      work.tile = tile;
      work.segment = kv.segment(call.layer, tile);
      work.kv_head = task.head0 + h;
      work.queries = queries_of(call, task, tile, h, scratch, score_add);
      work.queries.ahead = ahead_of(call, task, tile, h);
      work.states = state_of(h);
    }
  }
  attend_works();
  if (task.block.cells != cell + 1) return;
  const codec::OpenTile own = call.step.dense_tile(*task.part, call.layer, task.block.tile);
  for (std::uint32_t h = 0; h < task.heads; ++h) {
    kv.codec->attend_open(
        kv.geometry, call.layer, task.block.tile, own, task.head0 + h,
        queries_of(call, task, task.block.tile, h, scratch, scratch.score_add.data()),
        scratch.visible.data(), state_of(h));
  }
}

// The part that is attended to after the next, in the next cell too: a thread goes there next, or
// its neighbour does.
kernels::Ahead Attention::ahead_of(const Call& call, const Task& task, std::uint32_t tile,
                                   std::uint32_t h) const {
  const codec::SequenceKv& kv = *task.part->kv;
  const std::uint32_t ahead = h + 2;
  const std::uint32_t tile_ahead = tile + ahead / task.heads;
  if (tile_ahead >= task.block.tile) return {};
  return codec::head_memory(kv.segment(call.layer, tile_ahead), kv_heads_,
                            task.head0 + ahead % task.heads);
}

void Attention::finish(const Call& call, const Task& task, kernels::AttentionStates total,
                       float* o) const {
  kernels::dense_kernels().normalize(total, o);
  const codec::Codec& codec = *task.part->kv->codec;
  codec.from_domain_o(o, total.rows, head_dim_);
  const std::size_t width = std::size_t{group_} * head_dim_;
  const std::size_t stride = std::size_t{q_heads_} * head_dim_;
  const float* from = o;
  for (std::uint32_t head = task.head0; head < task.head0 + task.heads; ++head) {
    if (codec.traits().removes_bias && !call.input.v_bias.empty()) {
      const float* bias = call.input.v_bias.data() + std::size_t{head} * head_dim_;
      float* rows = o + std::size_t{head - task.head0} * rows_of_head(task) * head_dim_;
      for (std::uint32_t row = 0; row < rows_of_head(task); ++row) {
        kernels::dense_kernels().add(bias, head_dim_, rows + std::size_t{row} * head_dim_);
      }
    }
    for (std::uint32_t i = 0; i < task.block.tokens; ++i, from += width) {
      const std::size_t at = row_of(task, i) * stride + head * width;
      if (call.type == Compute::kBf16) {
        kernels::dense_kernels().to_bf16(from, width,
                                         reinterpret_cast<std::uint16_t*>(call.out) + at);
      } else {
        std::memcpy(call.out + at * 4, from, width * 4);
      }
    }
  }
}

}  // namespace kvferry::model

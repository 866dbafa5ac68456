#include "model/step_kv.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/dense_kernels.h"

namespace kvferry::model {
namespace {

// Bytes of K (or V) of one open tile and layer.
std::size_t half_tile_bytes(const codec::SequenceKv& kv) {
  return std::size_t{kv.geometry.kv_heads} * kv.tile_tokens() * kv.geometry.head_dim *
         codec::bytes_of(kv.codec->traits().open_dtype);
}

}  // namespace

void StepKv::reserve(const codec::KvGeometry& geometry, std::size_t rows) {
  const std::size_t row_bytes = std::size_t{2} * geometry.kv_heads * geometry.head_dim *
                                codec::bytes_of(codec::OpenDtype::kF32);
  scratch_.reserve((rows + codec::kMaxTileTokens) * row_bytes);
}

void StepKv::begin_step(std::vector<StepPart> parts) {
  parts_ = std::move(parts);
  std::uint32_t row0 = 0;
  std::size_t scratch = 0;
  for (auto& part : parts_) {
    part.row0 = row0;
    part.scratch = scratch;
    row0 += part.rows;
    scratch += (part.last_tile() - part.first_tile()) * 2 * half_tile_bytes(*part.kv);
  }
  scratch_.resize(std::max(scratch_.size(), scratch));
}

codec::OpenTile StepKv::dense_tile(const StepPart& part, std::uint32_t layer,
                                   std::uint32_t tile) const {
  if (tile == part.first_tile()) return part.kv->open_tile(layer);
  const std::size_t half = half_tile_bytes(*part.kv);
  auto* base = const_cast<std::byte*>(scratch_.data()) + part.scratch +
               (tile - part.first_tile() - 1) * 2 * half;
  return {base, base + half};
}

void StepKv::begin_layer(std::uint32_t layer) {
  for (const auto& part : parts_) {
    const std::size_t half = half_tile_bytes(*part.kv);
    for (std::uint32_t tile : {part.first_tile(), part.last_tile()}) {
      const bool fresh = tile * part.tile_tokens() >= part.start;
      const bool partial = (tile + 1) * part.tile_tokens() > part.end();
      if (!fresh || !partial) continue;
      const auto memory = dense_tile(part, layer, tile);
      std::memset(memory.k, 0, half);
      std::memset(memory.v, 0, half);
    }
  }
}

void StepKv::write_row(const StepPart& part, std::uint32_t layer, std::uint32_t row, const float* k,
                       const float* v) {
  const std::uint32_t tokens = part.tile_tokens();
  const std::uint32_t position = part.start + row, slot = position % tokens;
  const auto tile = dense_tile(part, layer, position / tokens);
  const auto dtype = part.kv->codec->traits().open_dtype;
  const std::size_t d = part.kv->geometry.head_dim, bytes = codec::bytes_of(dtype);
  const auto put = [&](const float* from, std::byte* to) {
    if (dtype == codec::OpenDtype::kF32) {
      std::memcpy(to, from, d * 4);
    } else {
      kernels::dense_kernels().to_bf16(from, d, reinterpret_cast<std::uint16_t*>(to));
    }
  };
  for (std::size_t head = 0; head < part.kv->geometry.kv_heads; ++head) {
    const std::size_t at = (head * tokens + slot) * d * bytes;
    put(k + head * d, tile.k + at);
    put(v + head * d, tile.v + at);
  }
}

Status StepKv::encode(ComputePool& pool, std::uint32_t layer) {
  struct Task {
    const StepPart* part;
    std::uint32_t tile;
  };
  std::vector<Task> tasks;
  for (const auto& part : parts_) {
    for (std::uint32_t tile = part.first_tile(); tile < part.closed_end(); ++tile) {
      tasks.push_back({&part, tile});
    }
  }
  if (tasks.empty()) return ok_status();
  std::vector<Status> results(tasks.size());
  pool.parallel_for(tasks.size(), [&](std::size_t i, int) {
    const auto& [part, tile] = tasks[i];
    results[i] =
        part->kv->codec->encode(part->kv->geometry, layer, tile, part->tile_tokens(),
                                dense_tile(*part, layer, tile), part->kv->segment(layer, tile));
  });
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    if (!results[i].ok()) {
      return results[i].with_context("layer " + std::to_string(layer) + ", tile " +
                                     std::to_string(tasks[i].tile));
    }
  }
  return ok_status();
}

void StepKv::end_layer(std::uint32_t layer) {
  for (const auto& part : parts_) {
    if (part.last_tile() == part.first_tile() || part.end() % part.tile_tokens() == 0) continue;
    const auto from = dense_tile(part, layer, part.last_tile());
    const auto to = part.kv->open_tile(layer);
    const std::size_t half = half_tile_bytes(*part.kv);
    std::memcpy(to.k, from.k, half);
    std::memcpy(to.v, from.v, half);
  }
}

}  // namespace kvferry::model

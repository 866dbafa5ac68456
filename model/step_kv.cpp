#include "model/step_kv.h"

#include <algorithm>
#include <cstring>
#include <string>

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

void StepKv::write_row(const StepPart& part, std::uint32_t layer, std::uint32_t row, float* k,
                       float* v) {
  const std::uint32_t tokens = part.tile_tokens();
  const std::uint32_t position = part.start + row;
  const auto tile = dense_tile(part, layer, position / tokens);
  const codec::KvGeometry& geometry = part.kv->geometry;
  const codec::Codec& codec = *part.kv->codec;
  const std::size_t slot_bytes = geometry.head_dim * codec::bytes_of(codec.traits().open_dtype);
  const std::size_t slot = position % tokens * slot_bytes, head = tokens * slot_bytes;
  codec.write_open_k(k, geometry.kv_heads, geometry.head_dim, tile.k + slot, head);
  codec.write_open_v(v, geometry.kv_heads, geometry.head_dim, tile.v + slot, head);
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

#include "bench/decode_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/compute_pool.h"
#include "base/extent_pool.h"
#include "bench/kv_data.h"
#include "bench/machine.h"
#include "codec/codec.h"
#include "codec/sequence_kv.h"
#include "kernels/isa.h"

namespace kvferry::bench {
namespace {

constexpr std::uint32_t kDistinctTiles = 4;  // the others are copies
constexpr std::int32_t kToken = 17;          // that every sequence is given

using CodecPtr = std::shared_ptr<const codec::Codec>;

// Sequences of equal content, each in memory of its own.
class Batch {
 public:
  static Result<std::unique_ptr<Batch>> create(const CodecPtr& codec,
                                               const codec::KvGeometry& geometry,
                                               const DecodeBenchOptions& options,
                                               ComputePool& pool);

  // One token for each sequence.
  Status step(model::Model& model, std::vector<float>& logits);
  void rewind(std::uint32_t length) {
    for (auto& kv : sequences_) kv.length = length;
  }
  std::uint64_t closed_bytes() const;  // that attention reads in a step
  std::span<const std::byte> memory() const { return memory_->arena(); }

 private:
  Status take(std::size_t bytes, std::byte*& data);
  Status fill_first(ComputePool& pool);

  std::unique_ptr<ExtentPool> memory_;
  std::vector<Extent> extents_;
  std::vector<codec::SequenceKv> sequences_;
};

// Tiles [0, n) of every layer of the first sequence from made-up values, the rest as copies.
Status Batch::fill_first(ComputePool& pool) {
  const codec::SequenceKv& kv = sequences_.front();
  const auto& geometry = kv.geometry;
  const std::uint32_t tokens = kv.codec->traits().tile_tokens;
  const auto tiles = static_cast<std::uint32_t>(kv.blocks.size());
  const std::uint32_t distinct = std::min(tiles, 1 + kDistinctTiles);
  const auto values =
      make_values(Kind::kGaussian, 1, 2 * geometry.kv_heads * tokens * distinct, geometry.head_dim);
  const std::size_t half = std::size_t{geometry.kv_heads} * tokens * geometry.head_dim;
  std::vector<Status> results(std::size_t{geometry.layers} * distinct);
  pool.parallel_for(results.size(), [&](std::size_t i, int) {
    const auto layer = static_cast<std::uint32_t>(i / distinct);
    const auto tile = static_cast<std::uint32_t>(i % distinct);
    auto* k = reinterpret_cast<std::byte*>(const_cast<std::uint16_t*>(values.data())) +
              2 * tile * half * sizeof(std::uint16_t);
    results[i] = kv.codec->encode(geometry, layer, tile, tokens,
                                  {k, k + half * sizeof(std::uint16_t)}, kv.segment(layer, tile));
  });
  for (const Status& result : results) KVF_RETURN_IF_ERROR(result);
  for (std::uint32_t tile = distinct; tile < tiles; ++tile) {
    std::memcpy(kv.blocks[tile], kv.blocks[1 + tile % kDistinctTiles], kv.layout.block_bytes(tile));
  }
  return ok_status();
}

Result<std::unique_ptr<Batch>> Batch::create(const CodecPtr& codec,
                                             const codec::KvGeometry& geometry,
                                             const DecodeBenchOptions& options, ComputePool& pool) {
  const std::uint32_t tile_tokens = codec->traits().tile_tokens;
  const std::uint32_t tiles = (options.context + options.steps + 2) / tile_tokens;
  const std::size_t open_bytes = codec::SequenceKv::open_bytes(*codec, geometry);
  std::size_t bytes = open_bytes + ExtentPool::kUnit;
  const codec::BlockLayout layout(*codec, geometry);
  for (std::uint32_t tile = 0; tile < tiles; ++tile) {
    bytes += layout.block_bytes(tile) + ExtentPool::kUnit;
  }
  auto batch = std::make_unique<Batch>();
  KVF_ASSIGN_OR_RETURN(batch->memory_, ExtentPool::create(bytes * options.batch));
  for (std::uint32_t i = 0; i < options.batch; ++i) {
    codec::SequenceKv& kv = batch->sequences_.emplace_back(codec, geometry);
    for (std::uint32_t tile = 0; tile < tiles; ++tile) {
      KVF_RETURN_IF_ERROR(batch->take(layout.block_bytes(tile), kv.blocks.emplace_back()));
    }
    KVF_RETURN_IF_ERROR(batch->take(open_bytes, kv.open));
    std::memset(kv.open, 0, open_bytes);
    if (i == 0) {
      KVF_RETURN_IF_ERROR(batch->fill_first(pool));
      continue;
    }
    for (std::uint32_t tile = 0; tile < tiles; ++tile) {
      std::memcpy(kv.blocks[tile], batch->sequences_.front().blocks[tile],
                  layout.block_bytes(tile));
    }
  }
  return batch;
}

Status Batch::take(std::size_t bytes, std::byte*& data) {
  KVF_ASSIGN_OR_RETURN(Extent extent, memory_->allocate(bytes, ExtentClass::kClosed));
  data = extent.data();
  extents_.push_back(std::move(extent));
  return ok_status();
}

Status Batch::step(model::Model& model, std::vector<float>& logits) {
  std::vector<model::SequenceChunk> chunks;
  for (auto& kv : sequences_) {
    chunks.push_back({&kv, std::span(&kToken, 1), model::SequenceChunk::Logits::kLast});
  }
  return model.forward(chunks, logits, nullptr);
}

std::uint64_t Batch::closed_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& kv : sequences_) {
    for (std::uint32_t tile = 0; tile < kv.closed_tiles(); ++tile) {
      bytes += kv.layout.block_bytes(tile);
    }
  }
  return bytes;
}

Status check_answer(model::Model& model, Batch& batch, const DecodeBenchOptions& options) {
  std::vector<float> first, second;
  KVF_RETURN_IF_ERROR(batch.step(model, first));
  batch.rewind(options.context);
  KVF_RETURN_IF_ERROR(batch.step(model, second));
  batch.rewind(options.context);
  if (first != second) return internal_error("the same step twice gave other logits");
  const std::size_t vocab = model.config().vocab;
  for (std::uint32_t i = 1; i < options.batch; ++i) {
    if (!std::equal(first.begin(), first.begin() + vocab, first.begin() + i * vocab)) {
      return internal_error("equal sequences of a batch gave other logits");
    }
  }
  return ok_status();
}

// The weights of the linear layers, which a step reads once.
std::uint64_t weight_bytes(const model::ModelConfig& c, model::Compute compute) {
  const std::uint64_t q = std::uint64_t{c.q_heads} * c.head_dim;
  const std::uint64_t kv = std::uint64_t{c.kv_heads} * c.head_dim;
  const std::uint64_t layer = c.hidden * (2 * q + 2 * kv + 3 * std::uint64_t{c.intermediate});
  const std::uint64_t values = c.layers * layer + std::uint64_t{c.hidden} * c.vocab;
  return values * (compute == model::Compute::kBf16 ? 2 : 4);
}

void fill_timings(std::vector<model::StepTimings> steps, DecodeBenchReport& r) {
  std::vector<double> ms;
  for (const auto& step : steps) ms.push_back(static_cast<double>(step.total_ns) * 1e-6);
  r.step_ms = spread_of(ms);
  std::sort(steps.begin(), steps.end(),
            [](const auto& a, const auto& b) { return a.total_ns < b.total_ns; });
  const model::StepTimings& median = steps[steps.size() / 2];
  const auto total = static_cast<double>(median.total_ns);
  const auto attention_ns = static_cast<double>(median.attention_ns);
  const auto gemm_ns = static_cast<double>(median.gemm_ns);
  r.tokens_per_second = r.batch / total * 1e9;
  r.attention_share = attention_ns / total;
  r.gemm_share = gemm_ns / total;
  r.other_share = std::max(0.0, 1.0 - r.attention_share - r.gemm_share);
  r.attention_gbyte_s = static_cast<double>(r.kv_bytes) / attention_ns;
  r.gemm_gbyte_s = static_cast<double>(r.weight_bytes) / gemm_ns;
}

Status check_options(const DecodeBenchOptions& options, const model::ModelConfig& config) {
  if (options.context == 0 || options.batch == 0 || options.steps < 1 || options.threads < 1) {
    return invalid_argument("bench decode needs at least one token, sequence, step and thread");
  }
  if (options.context + options.steps + 1 > config.context) {
    return invalid_argument(fmt::format("{} tokens and {} steps exceed the model's context of {}",
                                        options.context, options.steps, config.context));
  }
  return ok_status();
}

}  // namespace

Result<DecodeBenchReport> run_decode_bench(const DecodeBenchOptions& options) {
  KVF_ASSIGN_OR_RETURN(const auto config, model::load_config(options.model));
  KVF_RETURN_IF_ERROR(check_options(options, config));
  KVF_ASSIGN_OR_RETURN(const auto codec, codec::make_codec(options.codec));
  KVF_RETURN_IF_ERROR(codec->supports(config.kv_geometry()));
  ComputePool pool(options.threads);
  model::LoadOptions load;
  load.compute = options.compute;
  load.pool = &pool;
  load.progress = options.loading;
  KVF_ASSIGN_OR_RETURN(const auto model, model::load_model(options.model, load));
  KVF_ASSIGN_OR_RETURN(const auto batch,
                       Batch::create(codec, model->config().kv_geometry(), options, pool));
  batch->rewind(options.context);
  KVF_RETURN_IF_ERROR(check_answer(*model, *batch, options));

  DecodeBenchReport report;
  report.model = config.name;
  report.codec = codec->spec();
  report.compute = model->compute() == model::Compute::kBf16 ? "bf16" : "f32";
  report.isa = kernels::isa_name(kernels::active_isa());
  report.cpu = cpu_name();
  report.context = options.context;
  report.batch = options.batch;
  report.threads = options.threads;
  report.steps = options.steps;
  report.kv_bytes = batch->closed_bytes();
  report.weight_bytes = weight_bytes(config, model->compute());
  std::vector<model::StepTimings> steps;
  std::vector<double> reads;
  std::vector<float> logits;
  for (int step = 0; step <= options.steps; ++step) {
    KVF_RETURN_IF_ERROR(batch->step(*model, logits));
    reads.push_back(read_ceiling_gbyte_s(pool, batch->memory()));
    if (step > 0) steps.push_back(model->last_step());
  }
  report.read_ceiling_gbyte_s = spread_of(reads).median;
  fill_timings(std::move(steps), report);
  return report;
}

boost::json::object to_json(const DecodeBenchReport& r) {
  return {{"bench", "decode"},
          {"model", r.model},
          {"codec", r.codec},
          {"compute", r.compute},
          {"isa", r.isa},
          {"cpu", r.cpu},
          {"context", r.context},
          {"batch", r.batch},
          {"threads", r.threads},
          {"steps", r.steps},
          {"tokens_per_second", r.tokens_per_second},
          {"step_ms", r.step_ms.median},
          {"step_ms_min", r.step_ms.min},
          {"step_ms_max", r.step_ms.max},
          {"attention_share", r.attention_share},
          {"gemm_share", r.gemm_share},
          {"other_share", r.other_share},
          {"kv_bytes", r.kv_bytes},
          {"weight_bytes", r.weight_bytes},
          {"attention_gbyte_s", r.attention_gbyte_s},
          {"gemm_gbyte_s", r.gemm_gbyte_s},
          {"read_ceiling_gbyte_s", r.read_ceiling_gbyte_s}};
}

std::string to_text(const DecodeBenchReport& r) {
  return fmt::format(
      "{}, {} sequences of {} tokens, codec {}, {} on {} kernels, {} threads, {}\n"
      "  {:.1f} tokens/s: a step takes {:.2f} ms ({:.2f} to {:.2f} in {} steps)\n"
      "  attention {:.2f} of it ({:.1f} GB/s), products {:.2f} ({:.1f} GB/s), other {:.2f}; "
      "reading: {:.1f} GB/s\n",
      r.model, r.batch, r.context, r.codec, r.compute, r.isa, r.threads, r.cpu, r.tokens_per_second,
      r.step_ms.median, r.step_ms.min, r.step_ms.max, r.steps, r.attention_share,
      r.attention_gbyte_s, r.gemm_share, r.gemm_gbyte_s, r.other_share, r.read_ceiling_gbyte_s);
}

}  // namespace kvferry::bench

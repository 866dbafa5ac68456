#include "bench/attention_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/extent_pool.h"
#include "bench/attention_peer.h"
#include "bench/kv_data.h"
#include "bench/machine.h"
#include "bench/oracle.h"
#include "bench/spread.h"
#include "kernels/dense_kernels.h"
#include "model/attention.h"

namespace kvferry::bench {
namespace {

using codec::kMaxTileTokens;

constexpr std::size_t kLeastWorkingSet = std::size_t{256} << 20;
constexpr std::uint32_t kDistinctTiles = 8;  // the others are copies
constexpr std::uint32_t kCheckedTokens = 1000;
constexpr std::uint32_t kMostLayers = 4096;  // that a profile names
constexpr std::uint64_t kSeed = 1;           // of the values

// A long sequence in one codec, and one query token's attention over a layer of it.
class Subject {
 public:
  static Result<std::unique_ptr<Subject>> create(std::shared_ptr<const codec::Codec> codec,
                                                 const AttentionBenchOptions& options,
                                                 ComputePool& pool);

  // One pass over all layers, in nanoseconds per query token, cached token and KV head.
  double run() { return run(plain_); }
  double run_with_k_bias() { return run(biased_); }
  Status add_k_bias();
  std::size_t k_bias_pairs() const { return biased_.bias->most_pairs(); }
  std::size_t bytes() const { return bytes_; }
  double bytes_per_token_kv_head() const {
    return static_cast<double>(bytes_) / config_.layers / tokens_ / config_.kv_heads;
  }
  std::span<const std::byte> memory() const { return memory_->arena(); }
  const std::string& spec() const { return kv_.codec->spec(); }
  std::uint32_t tile_tokens() const { return kv_.codec->tile_tokens(); }

 private:
  Subject(const AttentionBenchOptions& options, ComputePool& pool)
      : pool_(pool), tokens_(options.tokens), queries_(options.queries) {}
  Status choose_layers(const codec::Codec& codec, std::size_t wanted);
  Status fill(std::shared_ptr<const codec::Codec> codec, const AttentionBenchOptions& options);
  void prepare_queries();

  // Attention with what the codec leaves out of K.
  struct Walk {
    std::unique_ptr<model::RemovedBias> bias;
    std::unique_ptr<model::Attention> attention;
    std::vector<float> terms;  // of a layer: they are alike
  };
  void prepare(std::span<const model::RemovedBias::Layer> layers, Walk& walk);
  double run(const Walk& walk);

  ComputePool& pool_;
  const std::uint32_t tokens_, queries_;
  model::ModelConfig config_;
  codec::SequenceKv kv_;
  std::size_t bytes_ = 0;               // of closed tiles, in all layers
  std::unique_ptr<ExtentPool> memory_;  // as a worker's: in huge pages where there are
  std::vector<Extent> extents_;
  Status take(std::size_t bytes, std::byte*& data);
  model::StepKv step_;
  Walk plain_, biased_;
  std::vector<float> q_;
  std::vector<std::byte> out_;
};

Result<std::unique_ptr<Subject>> Subject::create(std::shared_ptr<const codec::Codec> codec,
                                                 const AttentionBenchOptions& options,
                                                 ComputePool& pool) {
  std::unique_ptr<Subject> subject(new Subject(options, pool));
  KVF_RETURN_IF_ERROR(subject->fill(std::move(codec), options));
  subject->prepare_queries();
  return subject;
}

// The least number of layers that the codec serves: those that a profile names, else one.
Result<std::uint32_t> least_layers(const codec::Codec& codec, codec::KvGeometry geometry) {
  Status why = ok_status();
  for (geometry.layers = 1; geometry.layers <= kMostLayers; ++geometry.layers) {
    why = codec.supports(geometry);
    if (why.ok()) return geometry.layers;
  }
  return why;
}

std::size_t closed_bytes(const codec::Codec& codec, const codec::KvGeometry& geometry,
                         std::uint32_t tokens) {
  const codec::BlockLayout layout(codec, geometry);
  const std::uint32_t tiles = tokens / codec.tile_tokens();
  return layout.block_bytes(0) + (tiles - 1) * layout.block_bytes(1);
}

// So many that a pass reads `wanted` bytes. Those behind the last one that a profile names are
// alike.
Status Subject::choose_layers(const codec::Codec& codec, std::size_t wanted) {
  KVF_ASSIGN_OR_RETURN(config_.layers, least_layers(codec, config_.kv_geometry()));
  bytes_ = closed_bytes(codec, config_.kv_geometry(), tokens_);
  if (bytes_ >= wanted) return ok_status();
  codec::KvGeometry more = config_.kv_geometry();
  ++more.layers;
  if (!codec.supports(more).ok()) {
    return invalid_argument(
        fmt::format("the {} layers of {} hold {} bytes of {} tokens, less than the {} that a "
                    "measurement reads; give more tokens, or the profile a \"default\"",
                    config_.layers, codec.spec(), bytes_, tokens_, wanted));
  }
  const std::size_t each = closed_bytes(codec, more, tokens_) - bytes_;
  const std::size_t added = (wanted - bytes_ + each - 1) / each;
  config_.layers += static_cast<std::uint32_t>(added);
  bytes_ += added * each;
  return codec.supports(config_.kv_geometry());
}

Status Subject::fill(std::shared_ptr<const codec::Codec> codec,
                     const AttentionBenchOptions& options) {
  config_.kv_heads = options.kv_heads;
  config_.q_heads = options.kv_heads * options.group;
  config_.head_dim = options.head_dim;
  std::size_t wanted = options.least_working_set;
  if (wanted == 0) wanted = std::max(kLeastWorkingSet, 8 * last_level_cache());
  KVF_RETURN_IF_ERROR(choose_layers(*codec, wanted));
  const std::uint32_t tile_tokens = codec->tile_tokens();
  KVF_ASSIGN_OR_RETURN(const EncodedSequence few,
                       encode_sequence(codec->spec(), config_.kv_geometry(),
                                       (kDistinctTiles + 1) * tile_tokens, Kind::kGaussian, kSeed));
  kv_ = codec::SequenceKv(std::move(codec), config_.kv_geometry());
  const std::size_t open_bytes = codec::SequenceKv::open_bytes(*kv_.codec, kv_.geometry);
  // Later queries attend to the tiles of those before them, too.
  const std::uint32_t closed = (tokens_ + queries_ - 1) / tile_tokens;
  const std::size_t later = (closed - tokens_ / tile_tokens) * kv_.layout.block_bytes(1);
  KVF_ASSIGN_OR_RETURN(
      memory_, ExtentPool::create(bytes_ + later + open_bytes + (closed + 1) * ExtentPool::kUnit));
  for (std::uint32_t tile = 0; tile < closed; ++tile) {
    const std::size_t block_bytes = kv_.layout.block_bytes(tile);
    KVF_RETURN_IF_ERROR(take(block_bytes, kv_.blocks.emplace_back()));
    const std::uint32_t from = tile == 0 ? 0 : 1 + tile % kDistinctTiles;
    std::memcpy(kv_.blocks.back(), few.kv().blocks[from], block_bytes);
  }
  KVF_RETURN_IF_ERROR(take(open_bytes, kv_.open));
  std::memset(kv_.open, 0, open_bytes);
  kv_.length = tokens_;
  return ok_status();
}

Status Subject::take(std::size_t bytes, std::byte*& data) {
  KVF_ASSIGN_OR_RETURN(Extent extent, memory_->allocate(bytes, ExtentClass::kClosed));
  data = extent.data();
  extents_.push_back(std::move(extent));
  return ok_status();
}

void Subject::prepare_queries() {
  model::StepPart part;
  part.kv = &kv_;
  part.start = tokens_;
  part.rows = queries_;
  step_.begin_step({part});
  const std::size_t width = std::size_t{config_.q_heads} * config_.head_dim;
  q_ = make_queries(2, config_.q_heads * queries_, config_.head_dim);
  out_.resize(width * queries_ * sizeof(float));
  prepare(std::vector<model::RemovedBias::Layer>(config_.layers), plain_);
}

void Subject::prepare(std::span<const model::RemovedBias::Layer> layers, Walk& walk) {
  std::vector<double> frequencies;
  for (std::uint32_t i = 0; i < config_.head_dim / 2; ++i) {
    frequencies.push_back(std::pow(1e6, -2.0 * i / config_.head_dim));
  }
  walk.bias = std::make_unique<model::RemovedBias>(config_, frequencies, layers);
  walk.attention = std::make_unique<model::Attention>(config_, *walk.bias, pool_);
  walk.attention->plan(step_);
  const std::size_t stride = 2 * walk.bias->most_pairs();
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  const std::size_t rows = std::size_t{queries_} * config_.q_heads;
  walk.terms.resize(rows * stride);
  for (std::size_t row = 0; row < rows && stride > 0; ++row) {
    const auto head = static_cast<std::uint32_t>(row % config_.q_heads);
    walk.bias->query_terms(0, head * config_.kv_heads / config_.q_heads,
                           q_.data() + row * config_.head_dim, scale,
                           walk.terms.data() + row * stride);
  }
}

// A bias of ten deviations in every channel.
Status Subject::add_k_bias() {
  if (!kv_.codec->traits().removes_bias) {
    return invalid_argument("--k-bias: " + spec() +
                            " keeps the bias of K; codecs such as hack(k=2,v=2) do not");
  }
  const std::size_t channels = std::size_t{config_.kv_heads} * config_.head_dim;
  const std::vector<float> bias(channels, 10.0f), deviation(channels, 1.0f);
  const model::RemovedBias::Layer layer{bias, {}, deviation};
  prepare(std::vector<model::RemovedBias::Layer>(config_.layers, layer), biased_);
  return ok_status();
}

double Subject::run(const Walk& walk) {
  const std::size_t stride = std::size_t{config_.q_heads} * config_.head_dim;
  model::Attention::Input input;
  input.q = q_.data();
  input.q_stride = stride;
  input.terms = walk.terms.data();
  const std::uint64_t begin_ns = monotonic_ns();
  for (std::uint32_t layer = 0; layer < config_.layers; ++layer) {
    walk.attention->run(step_, layer, input, model::Compute::kF32, out_.data());
  }
  const auto ns = static_cast<double>(monotonic_ns() - begin_ns);
  return ns / config_.layers / tokens_ / config_.kv_heads / queries_;
}

// How far attention over one layer is from the oracle.
struct Errors {
  double square = 0.0, predicted = 0.0;
  std::size_t count = 0;

  Status add(const std::vector<float>& got, const OracleAnswer& want,
             AttentionBenchReport& report) {
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double error = std::fabs(got[i] - want.output[i]);
      if (!(error <= want.bound[i])) {
        return internal_error(
            fmt::format("value {} is off by {}, more than its bound {}", i, error, want.bound[i]));
      }
      square += error * error;
      predicted += want.predicted_square[i];
      report.max_error = std::max(report.max_error, error);
      report.error_bound = std::max(report.error_bound, want.bound[i]);
    }
    count += got.size();
    return ok_status();
  }
};

// A short sequence of the same shape against the oracle.
Status check_answer(const codec::Codec& codec, const AttentionBenchOptions& options,
                    AttentionBenchReport& report) {
  codec::KvGeometry geometry{1, 1, options.group, options.head_dim};
  KVF_ASSIGN_OR_RETURN(geometry.layers, least_layers(codec, geometry));
  KVF_ASSIGN_OR_RETURN(const EncodedSequence sequence,
                       encode_sequence(codec.spec(), geometry, kCheckedTokens, Kind::kGaussian, 3));
  const std::vector<float> queries = make_queries(4, options.group, options.head_dim);
  Errors errors;
  for (const std::uint32_t layer : layers_that_differ(codec, geometry.layers)) {
    const std::vector<float> got = attend_sequence(sequence.kv(), layer, 0, queries);
    const OracleAnswer want = oracle(decode_head(sequence.kv(), layer, 0), queries, 5);
    KVF_RETURN_IF_ERROR(
        errors.add(got, want, report).with_context("layer " + std::to_string(layer)));
  }
  const auto n = static_cast<double>(errors.count);
  report.rms_error = std::sqrt(errors.square / n);
  report.predicted_rms_error = std::sqrt(errors.predicted / n);
  return ok_status();
}

double median(std::vector<double> values) { return spread_of(std::move(values)).median; }

// The values that a Subject is filled with, and its queries.
PeerTensors peer_tensors(const AttentionBenchOptions& options, std::uint32_t tile_tokens,
                         std::size_t working_set) {
  PeerTensors tensors;
  tensors.tokens = options.tokens;
  tensors.kv_heads = options.kv_heads;
  tensors.head_dim = options.head_dim;
  tensors.group = options.group;
  tensors.queries = options.queries;
  tensors.threads = options.threads;
  tensors.least_working_set = working_set;
  tensors.q = make_queries(2, options.kv_heads * options.group * options.queries, options.head_dim);
  const std::size_t tile_values = std::size_t{tile_tokens} * options.head_dim;
  const auto copy_tiles = [&](std::uint64_t seed, std::vector<float>& to) {
    const auto few =
        make_values(Kind::kGaussian, seed, (kDistinctTiles + 1) * tile_tokens, options.head_dim);
    for (std::uint32_t tile = 0; tile < options.tokens / tile_tokens; ++tile) {
      const std::size_t from = (tile == 0 ? 0 : 1 + tile % kDistinctTiles) * tile_values;
      const std::size_t at = to.size();
      to.resize(at + tile_values);
      kernels::dense_kernels().from_bf16(few.data() + from, tile_values, to.data() + at);
    }
  };
  for (std::uint32_t head = 0; head < options.kv_heads; ++head) {
    copy_tiles(kSeed + 1000 * head, tensors.k);  // encode_sequence's seeds
    copy_tiles(kSeed + 1000 * head + 500, tensors.v);
  }
  return tensors;
}

// The peers that the program was built with, each measured once a run.
class Peers {
 public:
  Status create(const AttentionBenchOptions& options, std::uint32_t tile_tokens,
                std::size_t working_set) {
    if (!kAttentionPeers) return ok_status();
    tensors_ = peer_tensors(options, tile_tokens, working_set);
    KVF_ASSIGN_OR_RETURN(peers_, attention_peers(tensors_));
    ns_.resize(peers_.size());
    return ok_status();
  }
  void run(bool counts) {
    for (std::size_t i = 0; i < peers_.size(); ++i) {
      const double ns = peers_[i]->run();
      if (counts) ns_[i].push_back(ns);
    }
  }
  std::vector<AttentionBenchReport::Peer> reports(double own_ns) const {
    std::vector<AttentionBenchReport::Peer> reports;
    for (std::size_t i = 0; i < peers_.size(); ++i) {
      const Spread ns = spread_of(ns_[i]);
      reports.push_back({peers_[i]->name(), ns.median, ns.min, ns.max,
                         peers_[i]->bytes_per_token_kv_head(), peers_[i]->rms_error(),
                         ns.median / own_ns});
    }
    return reports;
  }

 private:
  PeerTensors tensors_;
  std::vector<std::unique_ptr<AttentionPeer>> peers_;
  std::vector<std::vector<double>> ns_;
};

void fill_ratios(const Subject& subject, const Subject& bf16, AttentionBenchReport& r) {
  const double operations = 2.0 * 2.0 * r.group * r.head_dim;
  r.bytes_per_token_kv_head = subject.bytes_per_token_kv_head();
  r.speedup_over_bf16 = r.bf16_ns_per_token_kv_head / r.ns_per_token_kv_head;
  const double bytes_each = r.bytes_per_token_kv_head / r.queries;
  r.read_gbyte_s = bytes_each / r.ns_per_token_kv_head;
  r.roofline_ns = std::max(bytes_each / r.read_ceiling_gbyte_s, operations / r.dot_ceiling_gops);
  r.over_roofline = r.ns_per_token_kv_head / r.roofline_ns;
  r.bf16_roofline_ns = std::max(bf16.bytes_per_token_kv_head() / r.queries / r.read_ceiling_gbyte_s,
                                operations / r.bf16_dot_ceiling_gops);
  r.bf16_over_roofline = r.bf16_ns_per_token_kv_head / r.bf16_roofline_ns;
}

}  // namespace

Result<AttentionBenchReport> run_attention_bench(const AttentionBenchOptions& options) {
  if (options.tokens == 0 || options.tokens % kMaxTileTokens != 0 || options.queries == 0 ||
      options.runs < 1 || options.threads < 1 || options.kv_heads == 0 || options.group == 0) {
    return invalid_argument(
        "bench attention needs tokens in multiples of 128, and at least one "
        "head, query, run and thread");
  }
  AttentionBenchReport report;
  KVF_ASSIGN_OR_RETURN(const auto codec, codec::make_codec(options.codec));
  KVF_ASSIGN_OR_RETURN(const auto raw, codec::make_codec("raw"));
  KVF_RETURN_IF_ERROR(check_answer(*codec, options, report));
  ComputePool pool(options.threads);
  KVF_ASSIGN_OR_RETURN(const auto subject, Subject::create(codec, options, pool));
  KVF_ASSIGN_OR_RETURN(const auto bf16, Subject::create(raw, options, pool));
  if (options.k_bias) KVF_RETURN_IF_ERROR(subject->add_k_bias());
  report.codec = subject->spec();
  report.cpu = cpu_name();
  report.isa = kernels::isa_name(kernels::active_isa());
  report.tokens = options.tokens;
  report.kv_heads = options.kv_heads;
  report.head_dim = options.head_dim;
  report.group = options.group;
  report.queries = options.queries;
  report.threads = options.threads;
  report.runs = options.runs;
  report.working_set_bytes = subject->bytes();
  Peers peers;
  KVF_RETURN_IF_ERROR(peers.create(options, subject->tile_tokens(), bf16->bytes()));
  std::vector<double> ns, bias_ns, bf16_ns, reads, dots, float_dots;
  for (int run = 0; run <= options.runs; ++run) {
    const double read = read_ceiling_gbyte_s(pool, bf16->memory());
    const double dot = dot_ceiling_gops(pool);
    const double float_dot = float_dot_ceiling_gops(pool);
    const double own = subject->run();
    const double biased = options.k_bias ? subject->run_with_k_bias() : 0.0;
    const double dense = bf16->run();
    peers.run(run > 0);
    if (run == 0) continue;  // warm-up
    reads.push_back(read);
    dots.push_back(dot);
    float_dots.push_back(float_dot);
    ns.push_back(own);
    bias_ns.push_back(biased);
    bf16_ns.push_back(dense);
  }
  report.ns_per_token_kv_head = median(ns);
  report.ns_min = *std::min_element(ns.begin(), ns.end());
  report.ns_max = *std::max_element(ns.begin(), ns.end());
  report.bf16_ns_per_token_kv_head = median(bf16_ns);
  if (options.k_bias) {
    report.k_bias_pairs = static_cast<std::uint32_t>(subject->k_bias_pairs());
    report.k_bias_ns_per_token_kv_head = median(bias_ns);
    report.k_bias_cost = report.k_bias_ns_per_token_kv_head / report.ns_per_token_kv_head;
  }
  report.read_ceiling_gbyte_s = median(reads);
  report.dot_ceiling_gops = median(dots);
  report.bf16_dot_ceiling_gops = median(float_dots);
  report.peers = peers.reports(report.ns_per_token_kv_head);
  fill_ratios(*subject, *bf16, report);
  return report;
}

boost::json::object to_json(const AttentionBenchReport& r) {
  boost::json::array peers;
  for (const auto& peer : r.peers) {
    peers.push_back(boost::json::object{{"name", peer.name},
                                        {"ns_per_token_kv_head", peer.ns_per_token_kv_head},
                                        {"ns_min", peer.ns_min},
                                        {"ns_max", peer.ns_max},
                                        {"bytes_per_token_kv_head", peer.bytes_per_token_kv_head},
                                        {"relative_error", peer.rms_error},
                                        {"speedup_over_peer", peer.speedup_over_peer}});
  }
  return {{"bench", "attention"},
          {"codec", r.codec},
          {"cpu", r.cpu},
          {"isa", r.isa},
          {"tokens", r.tokens},
          {"kv_heads", r.kv_heads},
          {"head_dim", r.head_dim},
          {"group", r.group},
          {"queries", r.queries},
          {"threads", r.threads},
          {"runs", r.runs},
          {"working_set_bytes", r.working_set_bytes},
          {"ns_per_token_kv_head", r.ns_per_token_kv_head},
          {"ns_min", r.ns_min},
          {"ns_max", r.ns_max},
          {"bf16_ns_per_token_kv_head", r.bf16_ns_per_token_kv_head},
          {"speedup_over_bf16", r.speedup_over_bf16},
          {"bf16_dot_ceiling_gops", r.bf16_dot_ceiling_gops},
          {"bf16_roofline_ns", r.bf16_roofline_ns},
          {"bf16_over_roofline", r.bf16_over_roofline},
          {"k_bias_pairs", r.k_bias_pairs},
          {"k_bias_ns_per_token_kv_head", r.k_bias_ns_per_token_kv_head},
          {"k_bias_cost", r.k_bias_cost},
          {"bytes_per_token_kv_head", r.bytes_per_token_kv_head},
          {"read_gbyte_s", r.read_gbyte_s},
          {"read_ceiling_gbyte_s", r.read_ceiling_gbyte_s},
          {"dot_ceiling_gops", r.dot_ceiling_gops},
          {"roofline_ns", r.roofline_ns},
          {"over_roofline", r.over_roofline},
          {"rms_error", r.rms_error},
          {"predicted_rms_error", r.predicted_rms_error},
          {"max_error", r.max_error},
          {"error_bound", r.error_bound},
          {"peers", std::move(peers)}};
}

std::string to_text(const AttentionBenchReport& r) {
  std::string text = fmt::format(
      "{}, {} tokens, {} KV heads x {}, {} query heads each, {} query tokens, {} threads, {}\n"
      "  {:.2f} ns per token and KV head ({:.2f} to {:.2f} in {} runs), bf16 {:.2f}: {:.1f} times\n"
      "  {:.1f} bytes each, {:.1f} GB/s of {:.1f}; roofline {:.2f} ns ({:.0f} GOP/s): {:.2f} over\n"
      "  bf16's roofline {:.2f} ns ({:.0f} GFLOP/s of f32): {:.2f} over\n"
      "  error: rms {:.2e} (predicted {:.2e}), largest {:.2e} (bound {:.2e})\n",
      r.codec, r.tokens, r.kv_heads, r.head_dim, r.group, r.queries, r.threads, r.isa,
      r.ns_per_token_kv_head, r.ns_min, r.ns_max, r.runs, r.bf16_ns_per_token_kv_head,
      r.speedup_over_bf16, r.bytes_per_token_kv_head, r.read_gbyte_s, r.read_ceiling_gbyte_s,
      r.roofline_ns, r.dot_ceiling_gops, r.over_roofline, r.bf16_roofline_ns,
      r.bf16_dot_ceiling_gops, r.bf16_over_roofline, r.rms_error, r.predicted_rms_error,
      r.max_error, r.error_bound);
  if (r.k_bias_pairs > 0) {
    text +=
        fmt::format("  with K's bias in {} pairs left out of the codes: {:.2f} ns, {:.2f} times\n",
                    r.k_bias_pairs, r.k_bias_ns_per_token_kv_head, r.k_bias_cost);
  }
  for (const auto& peer : r.peers) {
    text +=
        fmt::format("  ggml {}: {:.2f} ns ({:.2f} to {:.2f}), {:.1f} bytes: {:.1f} times as long\n",
                    peer.name, peer.ns_per_token_kv_head, peer.ns_min, peer.ns_max,
                    peer.bytes_per_token_kv_head, peer.speedup_over_peer);
  }
  return text;
}

}  // namespace kvferry::bench

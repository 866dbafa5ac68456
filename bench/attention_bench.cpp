#include "bench/attention_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>
#include <span>
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
// The others are copies. As many as the answer is checked over, because equal tiles round alike,
// and what is predicted of their errors takes them for independent.
constexpr std::uint32_t kDistinctTiles = 64;
constexpr std::uint32_t kCheckedTokens = 4096;  // at most
constexpr std::uint32_t kMostLayers = 4096;     // that a profile names
constexpr std::uint64_t kSeed = 1;              // of the values
// The bias of K, in deviations of its channels, and the rope that turns it.
constexpr float kKBias = 10.0f;
constexpr double kTheta = 1e6;

std::vector<double> frequencies_of(std::uint32_t head_dim) {
  std::vector<double> frequencies;
  for (std::uint32_t i = 0; i < head_dim / 2; ++i) {
    frequencies.push_back(std::pow(kTheta, -2.0 * i / head_dim));
  }
  return frequencies;
}

// Which of the copied tiles stands at a place.
std::uint32_t source_tile(std::uint32_t tile) { return tile == 0 ? 0 : 1 + tile % kDistinctTiles; }

// How far attention is from the oracle.
struct Errors {
  double square = 0.0, predicted = 0.0, largest = 0.0, bound = 0.0;
  std::size_t count = 0;

  // got: one row, in the codec's domain; the oracle's begins at `at`.
  Status add(std::span<const float> got, const OracleAnswer& want, std::size_t at) {
    double norm = 0.0;
    for (const float x : got) norm += double{x} * x;
    const double slop = kDomainSlop * std::sqrt(norm);
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double error = std::fabs(got[i] - want.output[at + i]);
      if (!(error <= want.bound[at + i] + slop)) {
        return internal_error(fmt::format("value {} is off by {}, more than its bound {}", i, error,
                                          want.bound[at + i]));
      }
      square += error * error;
      predicted += want.predicted_square[at + i];
      largest = std::max(largest, error);
      bound = std::max(bound, want.bound[at + i]);
    }
    count += got.size();
    return ok_status();
  }

 private:
  // Going out of the domain and in again in f32, of the row's norm.
  static constexpr double kDomainSlop = 2e-6;
};

// The head with K's bias given back: as many channels more, which hold the bias of `pairs` pairs as
// rope turns it and no codes, to be multiplied by the query again.
DecodedHead with_k_bias(const DecodedHead& head, std::size_t pairs) {
  const std::size_t dim = head.head_dim, half = dim / 2;
  DecodedHead out;
  out.tokens = head.tokens;
  out.head_dim = 2 * head.head_dim;
  out.rounding = head.rounding;
  const auto widened = [&](const std::vector<double>& from) {
    std::vector<double> to(2 * from.size(), 0.0);
    for (std::size_t t = 0; t < head.tokens; ++t) {
      std::copy_n(from.begin() + t * dim, dim, to.begin() + 2 * t * dim);
    }
    return to;
  };
  for (auto of :
       {&DecodedHead::k, &DecodedHead::v, &DecodedHead::k_scale, &DecodedHead::v_scale,
        &DecodedHead::k_code, &DecodedHead::v_code, &DecodedHead::k_size, &DecodedHead::v_size}) {
    out.*of = widened(head.*of);
  }
  const auto frequencies = frequencies_of(head.head_dim);
  for (std::size_t t = 0; t < head.tokens; ++t) {
    for (std::size_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(t) * frequencies[i];
      const std::size_t at = (2 * t + 1) * dim + i;
      out.k[at] = kKBias * (std::cos(angle) - std::sin(angle));
      out.k[at + half] = kKBias * (std::cos(angle) + std::sin(angle));
      out.k_size[at] = std::fabs(out.k[at]);
      out.k_size[at + half] = std::fabs(out.k[at + half]);
    }
  }
  return out;
}

// A long sequence in one codec, and one query token's attention over a layer of it.
class Subject {
 public:
  static Result<std::unique_ptr<Subject>> create(std::shared_ptr<const codec::Codec> codec,
                                                 const AttentionBenchOptions& options,
                                                 ComputePool& pool);

  // One pass over all layers, in nanoseconds per query token, token that it attends to and KV head.
  double run() { return run(plain_); }
  double run_with_k_bias() { return run(biased_); }
  Status add_k_bias();
  std::size_t k_bias_pairs() const { return biased_.bias->most_pairs(); }
  std::size_t bytes() const { return bytes_; }
  double bytes_per_token_kv_head() const {
    return static_cast<double>(bytes_) / config_.layers / tokens_ / config_.kv_heads;
  }
  // Of closed tiles, per query token, token that it attends to and KV head.
  double bytes_read_each() const {
    return static_cast<double>(bytes_ + later_bytes_) / config_.layers / config_.kv_heads /
           attended_;
  }
  double attended() const { return attended_ / queries_; }
  double closed_share() const { return closed_attended_ / attended_; }  // of tokens attended to

  // Attends in a layer as run() does, and holds the answer to the oracle.
  Status check(std::uint32_t layer, Errors& errors);
  Status check_k_bias(std::uint32_t layer);
  std::uint32_t layers() const { return config_.layers; }
  const codec::Codec& codec() const { return *kv_.codec; }

  std::span<const std::byte> memory() const { return memory_->arena(); }
  const std::string& spec() const { return kv_.codec->spec(); }
  std::uint32_t tile_tokens() const { return kv_.codec->tile_tokens(); }

 private:
  Subject(const AttentionBenchOptions& options, ComputePool& pool)
      : pool_(pool), tokens_(options.tokens), queries_(options.queries) {}
  void begin_step(const EncodedSequence& few);
  void count_attended();
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
  void attend(const Walk& walk, std::uint32_t layer);

  // A query token of a KV head, for the oracle.
  struct Place {
    std::uint32_t row, kv_head;
  };
  std::vector<Place> checked_places() const;
  std::vector<std::uint32_t> checked_heads(const Place& place) const;  // query heads
  DecodedHead decoded(std::uint32_t layer, const Place& place) const;
  const float* query(const Place& place, std::uint32_t head) const {
    return q_.data() + (std::size_t{place.row} * config_.q_heads + head) * config_.head_dim;
  }
  std::vector<float> answer(const Place& place, std::uint32_t head) const;

  ComputePool& pool_;
  const std::uint32_t tokens_, queries_;
  model::ModelConfig config_;
  codec::SequenceKv kv_;
  std::size_t bytes_ = 0;               // of closed tiles, in all layers
  std::size_t later_bytes_ = 0;         // of those that the queries close
  double attended_ = 0.0;               // tokens, summed over the queries
  double closed_attended_ = 0.0;        // of them those in closed tiles
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
  later_bytes_ = (closed - tokens_ / tile_tokens) * kv_.layout.block_bytes(1);
  KVF_ASSIGN_OR_RETURN(memory_, ExtentPool::create(bytes_ + later_bytes_ + open_bytes +
                                                   (closed + 1) * ExtentPool::kUnit));
  for (std::uint32_t tile = 0; tile < closed; ++tile) {
    const std::size_t block_bytes = kv_.layout.block_bytes(tile);
    KVF_RETURN_IF_ERROR(take(block_bytes, kv_.blocks.emplace_back()));
    std::memcpy(kv_.blocks.back(), few.kv().blocks[source_tile(tile)], block_bytes);
  }
  KVF_RETURN_IF_ERROR(take(open_bytes, kv_.open));
  std::memset(kv_.open, 0, open_bytes);
  kv_.length = tokens_;
  begin_step(few);
  count_attended();
  return ok_status();
}

// The queries' own tiles lie dense, of the values that their closed ones are made of: the first in
// each layer's memory, the others in the step's.
void Subject::begin_step(const EncodedSequence& few) {
  model::StepPart part;
  part.kv = &kv_;
  part.start = tokens_;
  part.rows = queries_;
  step_.begin_step({part});
  const model::StepPart& begun = step_.parts().front();
  const std::size_t values = std::size_t{kv_.tile_tokens()} * config_.head_dim;
  const std::size_t bytes = values * sizeof(std::uint16_t);
  for (std::uint32_t layer = 0; layer < config_.layers; ++layer) {
    const std::uint32_t last = layer == 0 ? begun.last_tile() : begun.first_tile();
    for (std::uint32_t tile = begun.first_tile(); tile <= last; ++tile) {
      const codec::OpenTile to = step_.dense_tile(begun, layer, tile);
      const std::size_t from = source_tile(tile) * values;
      for (std::uint32_t head = 0; head < config_.kv_heads; ++head) {
        std::memcpy(to.k + head * bytes, few.k[head].data() + from, bytes);
        std::memcpy(to.v + head * bytes, few.v[head].data() + from, bytes);
      }
    }
  }
}

void Subject::count_attended() {
  for (std::uint32_t row = 0; row < queries_; ++row) {
    attended_ += tokens_ + row + 1.0;
    closed_attended_ += (tokens_ + row) / kv_.tile_tokens() * kv_.tile_tokens();
  }
}

Status Subject::take(std::size_t bytes, std::byte*& data) {
  KVF_ASSIGN_OR_RETURN(Extent extent, memory_->allocate(bytes, ExtentClass::kClosed));
  data = extent.data();
  extents_.push_back(std::move(extent));
  return ok_status();
}

void Subject::prepare_queries() {
  const std::size_t width = std::size_t{config_.q_heads} * config_.head_dim;
  q_ = make_queries(2, config_.q_heads * queries_, config_.head_dim);
  // Attention scales them.
  for (float& q : q_) q *= std::sqrt(static_cast<float>(config_.head_dim));
  out_.resize(width * queries_ * sizeof(float));
  prepare(std::vector<model::RemovedBias::Layer>(config_.layers), plain_);
}

void Subject::prepare(std::span<const model::RemovedBias::Layer> layers, Walk& walk) {
  walk.bias =
      std::make_unique<model::RemovedBias>(config_, frequencies_of(config_.head_dim), layers);
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

// kKBias in every channel.
Status Subject::add_k_bias() {
  if (!kv_.codec->traits().removes_bias) {
    return invalid_argument("--k-bias: " + spec() +
                            " keeps the bias of K; codecs such as hack(k=2,v=2) do not");
  }
  const std::size_t channels = std::size_t{config_.kv_heads} * config_.head_dim;
  const std::vector<float> bias(channels, kKBias), deviation(channels, 1.0f);
  const model::RemovedBias::Layer layer{bias, {}, deviation};
  prepare(std::vector<model::RemovedBias::Layer>(config_.layers, layer), biased_);
  return ok_status();
}

void Subject::attend(const Walk& walk, std::uint32_t layer) {
  model::Attention::Input input;
  input.q = q_.data();
  input.q_stride = std::size_t{config_.q_heads} * config_.head_dim;
  input.terms = walk.terms.data();
  walk.attention->run(step_, layer, input, model::Compute::kF32, out_.data());
}

double Subject::run(const Walk& walk) {
  const std::uint64_t begin_ns = monotonic_ns();
  for (std::uint32_t layer = 0; layer < config_.layers; ++layer) attend(walk, layer);
  const auto ns = static_cast<double>(monotonic_ns() - begin_ns);
  return ns / config_.layers / config_.kv_heads / attended_;
}

// The first, middle and last query token, or those before them that do not fill their tile: the
// oracle takes a full one for closed.
std::vector<Subject::Place> Subject::checked_places() const {
  std::vector<Place> places;
  for (std::uint32_t row : std::set{0u, queries_ / 2, queries_ - 1}) {
    if ((tokens_ + row + 1) % kv_.tile_tokens() == 0) --row;
    for (const std::uint32_t head : std::set{0u, config_.kv_heads - 1})
      places.push_back({row, head});
  }
  return places;
}

std::vector<std::uint32_t> Subject::checked_heads(const Place& place) const {
  const std::uint32_t group = config_.q_heads / config_.kv_heads, first = place.kv_head * group;
  const std::set heads{first, first + group - 1};
  return {heads.begin(), heads.end()};
}

// What the token at that place attends to.
DecodedHead Subject::decoded(std::uint32_t layer, const Place& place) const {
  codec::SequenceKv seen = kv_;
  seen.length = tokens_ + place.row + 1;
  std::vector<std::byte> open(codec::SequenceKv::open_bytes(*kv_.codec, kv_.geometry));
  seen.open = open.data();
  const std::size_t half = open.size() / (2 * config_.layers);
  const auto from = step_.dense_tile(step_.parts().front(), layer, seen.closed_tiles());
  std::memcpy(seen.open_tile(layer).k, from.k, half);
  std::memcpy(seen.open_tile(layer).v, from.v, half);
  return decode_head(seen, layer, place.kv_head);
}

// Of the last attend(), in the codec's domain.
std::vector<float> Subject::answer(const Place& place, std::uint32_t head) const {
  const std::size_t dim = config_.head_dim;
  std::vector<float> got(dim);
  std::memcpy(got.data(),
              out_.data() + (std::size_t{place.row} * config_.q_heads + head) * dim * sizeof(float),
              dim * sizeof(float));
  kv_.codec->to_domain_v(got.data(), 1, dim);
  return got;
}

Status Subject::check(std::uint32_t layer, Errors& errors) {
  attend(plain_, layer);
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  for (const Place& place : checked_places()) {
    const auto heads = checked_heads(place);
    std::vector<float> queries;
    for (const std::uint32_t head : heads) {
      const float* q = query(place, head);
      for (std::uint32_t d = 0; d < config_.head_dim; ++d) queries.push_back(q[d] * scale);
    }
    const OracleAnswer want = oracle(decoded(layer, place), queries, 5 + place.row);
    for (std::size_t i = 0; i < heads.size(); ++i) {
      KVF_RETURN_IF_ERROR(errors.add(answer(place, heads[i]), want, i * config_.head_dim)
                              .with_context(fmt::format("{}, layer {}, query {}, head {}", spec(),
                                                        layer, place.row, heads[i])));
    }
  }
  return ok_status();
}

Status Subject::check_k_bias(std::uint32_t layer) {
  attend(biased_, layer);
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  Errors errors;
  for (const Place& place : checked_places()) {
    const DecodedHead head = with_k_bias(decoded(layer, place), k_bias_pairs());
    for (const std::uint32_t q_head : checked_heads(place)) {
      std::vector<float> q(2 * config_.head_dim);  // for the codes and for the bias
      for (std::uint32_t d = 0; d < 2 * config_.head_dim; ++d) {
        q[d] = query(place, q_head)[d % config_.head_dim] * scale;
      }
      KVF_RETURN_IF_ERROR(
          errors.add(answer(place, q_head), oracle_bounds(head, q), 0)
              .with_context(fmt::format("{} with K's bias, layer {}, query {}, head {}", spec(),
                                        layer, place.row, q_head)));
    }
  }
  return ok_status();
}

// What will be timed, over fewer tokens where those are many, against the oracle.
Status check_answer(std::shared_ptr<const codec::Codec> codec, const AttentionBenchOptions& options,
                    ComputePool& pool, Errors& errors) {
  AttentionBenchOptions shorter = options;
  shorter.tokens = std::min(options.tokens, kCheckedTokens);
  shorter.least_working_set = 1;
  KVF_ASSIGN_OR_RETURN(const auto subject, Subject::create(std::move(codec), shorter, pool));
  const auto layers = layers_that_differ(subject->codec(), subject->layers());
  for (const std::uint32_t layer : layers) KVF_RETURN_IF_ERROR(subject->check(layer, errors));
  if (!options.k_bias || !subject->codec().traits().removes_bias) return ok_status();
  KVF_RETURN_IF_ERROR(subject->add_k_bias());
  for (const std::uint32_t layer : layers) KVF_RETURN_IF_ERROR(subject->check_k_bias(layer));
  return ok_status();
}

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
      const std::size_t from = source_tile(tile) * tile_values;
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
  // own_ns: of the same runs.
  std::vector<AttentionBenchReport::Peer> reports(const std::vector<double>& own_ns) const {
    std::vector<AttentionBenchReport::Peer> reports;
    for (std::size_t i = 0; i < peers_.size(); ++i) {
      reports.push_back({peers_[i]->name(), spread_of(ns_[i]), peers_[i]->bytes_per_token_kv_head(),
                         peers_[i]->rms_error(), median_ratio(ns_[i], own_ns)});
    }
    return reports;
  }

 private:
  PeerTensors tensors_;
  std::vector<std::unique_ptr<AttentionPeer>> peers_;
  std::vector<std::vector<double>> ns_;
};

// What was measured, run by run.
struct Runs {
  std::vector<double> own, biased, bf16;       // nanoseconds, as Subject::run() has them
  std::vector<double> read, dots, float_dots;  // ceilings

  // The longer of reading and computing at the ceilings of each run; integer dots in closed tiles.
  std::vector<double> rooflines(const Subject& subject, const std::vector<double>& closed_dots,
                                double operations) const {
    std::vector<double> ns;
    for (std::size_t i = 0; i < read.size(); ++i) {
      const double compute = operations * (subject.closed_share() / closed_dots[i] +
                                           (1.0 - subject.closed_share()) / float_dots[i]);
      ns.push_back(std::max(subject.bytes_read_each() / read[i], compute));
    }
    return ns;
  }
};

void fill_report(const Subject& subject, const Subject& bf16, const Runs& runs,
                 AttentionBenchReport& r) {
  r.tokens_attended = subject.attended();
  r.ns_per_token_kv_head = spread_of(runs.own);
  r.bf16_ns_per_token_kv_head = spread_of(runs.bf16);
  r.speedup_over_bf16 = median_ratio(runs.bf16, runs.own);
  r.bytes_per_token_kv_head = subject.bytes_per_token_kv_head();
  r.read_gbyte_s = subject.bytes_read_each() / r.ns_per_token_kv_head.median;
  r.read_ceiling_gbyte_s = spread_of(runs.read);
  r.dot_ceiling_gops = spread_of(runs.dots);
  r.bf16_dot_ceiling_gops = spread_of(runs.float_dots);
  const double operations = 2.0 * 2.0 * r.group * r.head_dim;
  const auto own = runs.rooflines(subject, runs.dots, operations);
  r.roofline_ns = spread_of(own).median;
  r.over_roofline = median_ratio(runs.own, own);
  const auto dense = runs.rooflines(bf16, runs.float_dots, operations);
  r.bf16_roofline_ns = spread_of(dense).median;
  r.bf16_over_roofline = median_ratio(runs.bf16, dense);
  if (runs.biased.empty()) return;
  r.k_bias_pairs = static_cast<std::uint32_t>(subject.k_bias_pairs());
  r.k_bias_ns_per_token_kv_head = spread_of(runs.biased);
  r.k_bias_cost = median_ratio(runs.biased, runs.own);
}

void describe(const AttentionBenchOptions& options, AttentionBenchReport& report) {
  report.cpu = cpu_name();
  report.isa = kernels::isa_name(kernels::active_isa());
  report.tokens = options.tokens;
  report.kv_heads = options.kv_heads;
  report.head_dim = options.head_dim;
  report.group = options.group;
  report.queries = options.queries;
  report.threads = options.threads;
  report.runs = options.runs;
}

// The errors of the codec; those of bf16 need only be in their bounds.
Status check_answers(const std::shared_ptr<const codec::Codec>& codec,
                     const std::shared_ptr<const codec::Codec>& raw,
                     const AttentionBenchOptions& options, ComputePool& pool,
                     AttentionBenchReport& report) {
  Errors errors, of_raw;
  KVF_RETURN_IF_ERROR(check_answer(codec, options, pool, errors));
  KVF_RETURN_IF_ERROR(check_answer(raw, options, pool, of_raw));
  const auto n = static_cast<double>(errors.count);
  report.rms_error = std::sqrt(errors.square / n);
  report.predicted_rms_error = std::sqrt(errors.predicted / n);
  report.max_error = errors.largest;
  report.error_bound = errors.bound;
  return ok_status();
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
  ComputePool pool(options.threads);
  KVF_RETURN_IF_ERROR(check_answers(codec, raw, options, pool, report));
  KVF_ASSIGN_OR_RETURN(const auto subject, Subject::create(codec, options, pool));
  KVF_ASSIGN_OR_RETURN(const auto bf16, Subject::create(raw, options, pool));
  if (options.k_bias) KVF_RETURN_IF_ERROR(subject->add_k_bias());
  report.codec = subject->spec();
  describe(options, report);
  report.working_set_bytes = subject->bytes();
  Peers peers;
  KVF_RETURN_IF_ERROR(peers.create(options, subject->tile_tokens(), bf16->bytes()));
  Runs runs;
  for (int run = 0; run <= options.runs; ++run) {
    if (options.progress) options.progress(run / (options.runs + 1.0));
    if (run == 1) runs = {};  // the first warms up
    runs.read.push_back(read_ceiling_gbyte_s(pool, bf16->memory()));
    runs.dots.push_back(dot_ceiling_gops(pool));
    runs.float_dots.push_back(float_dot_ceiling_gops(pool));
    runs.own.push_back(subject->run());
    if (options.k_bias) runs.biased.push_back(subject->run_with_k_bias());
    if (options.progress) options.progress((run + 0.5) / (options.runs + 1.0));
    runs.bf16.push_back(bf16->run());
    peers.run(run > 0);
  }
  if (options.progress) options.progress(1.0);
  fill_report(*subject, *bf16, runs, report);
  report.peers = peers.reports(runs.own);
  return report;
}

}  // namespace kvferry::bench

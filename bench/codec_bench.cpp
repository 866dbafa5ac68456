#include "bench/codec_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/extent_pool.h"
#include "base/memory_limits.h"
#include "bench/kv_data.h"
#include "bench/machine.h"
#include "bench/wire_bench.h"
#include "codec/dense.h"
#include "kernels/dense_kernels.h"

namespace kvferry::bench {
namespace {

constexpr std::size_t kCeilingBytes = std::size_t{256} << 20;
constexpr std::uint32_t kOutlierStep = 10;  // channels of which one is an outlier
constexpr float kOutlierFactor = 20.0f;
constexpr std::uint32_t kCheckedTiles = 3, kCheckedQueries = 4;
// Rounding q and p to 8 bits costs about 0.005 of the output's rms, a wrong answer above 1.
constexpr double kMostAttendError = 0.05;

enum class Data { kGaussian, kOutliers };

// Values of one tile in the codec's domain: as computed and as they lie in the open tile.
struct Tile {
  std::vector<float> k, v;                    // [kv_heads][tokens][head_dim]
  std::vector<std::uint16_t> k_open, v_open;  // the same in bf16

  codec::OpenTile open() {
    return {reinterpret_cast<std::byte*>(k_open.data()),
            reinterpret_cast<std::byte*>(v_open.data())};
  }
};

class Subject {
 public:
  static Result<Subject> create(const CodecBenchOptions& options) {
    KVF_ASSIGN_OR_RETURN(auto codec, codec::make_codec(options.codec));
    if (codec->traits().open_dtype != codec::OpenDtype::kBf16) {
      return unsupported("bench codec measures codecs of bf16 values");
    }
    if (codec->spec().find("profile(") != std::string::npos) {
      return unsupported("bench codec measures one storage, and a profile has several: name one");
    }
    const codec::KvGeometry geometry{1, options.kv_heads, options.kv_heads, options.head_dim};
    KVF_RETURN_IF_ERROR(codec->supports(geometry));
    return Subject(std::move(codec), geometry);
  }

  Status encode(std::uint32_t tile, Tile& values) {
    auto& segment = segments_[tile];
    segment.resize(codec_->segment_bytes(geometry_, 0, tile + 1, tokens()));
    return codec_->encode(geometry_, 0, tile + 1, tokens(), values.open(), segment);
  }
  void reconstruct(std::uint32_t tile, std::uint32_t head, float* k, float* v) const {
    codec_->reconstruct(geometry_, segments_[tile], head, k, v);
  }
  void resize(std::uint32_t tiles) { segments_.resize(tiles); }

  Tile make_tile(Data data, std::uint64_t seed) const;
  void to_domain(Tile& tile) const;
  Result<double> relative_error(Data data, std::uint32_t tiles);
  Result<double> attend_error();

  const codec::Codec& codec() const { return *codec_; }
  const codec::KvGeometry& geometry() const { return geometry_; }
  std::uint32_t tokens() const { return codec_->traits().tile_tokens; }
  std::size_t tile_values() const {  // of K, and of V
    return std::size_t{geometry_.kv_heads} * tokens() * geometry_.head_dim;
  }
  const std::vector<std::byte>& segment(std::uint32_t tile) const { return segments_[tile]; }

 private:
  Subject(std::shared_ptr<const codec::Codec> codec, const codec::KvGeometry& geometry)
      : codec_(std::move(codec)), geometry_(geometry) {}

  std::shared_ptr<const codec::Codec> codec_;
  codec::KvGeometry geometry_;
  std::vector<std::vector<std::byte>> segments_;
};

void Subject::to_domain(Tile& tile) const {
  const std::size_t rows = geometry_.kv_heads * tokens();
  codec_->to_domain_k(tile.k.data(), rows, geometry_.head_dim);
  codec_->to_domain_v(tile.v.data(), rows, geometry_.head_dim);
}

Tile Subject::make_tile(Data data, std::uint64_t seed) const {
  Tile tile;
  tile.k.resize(tile_values());
  tile.v.resize(tile_values());
  for (std::size_t i = 0; i < tile_values(); ++i) {
    const bool outlier = data == Data::kOutliers && i % geometry_.head_dim % kOutlierStep == 5;
    const float factor = outlier ? kOutlierFactor : 1.0f;
    tile.k[i] = factor * static_cast<float>(gaussian(seed, 2 * i));
    tile.v[i] = factor * static_cast<float>(gaussian(seed, 2 * i + 1));
  }
  to_domain(tile);
  tile.k_open.resize(tile_values());
  tile.v_open.resize(tile_values());
  kernels::dense_kernels().to_bf16(tile.k.data(), tile_values(), tile.k_open.data());
  kernels::dense_kernels().to_bf16(tile.v.data(), tile_values(), tile.v_open.data());
  return tile;
}

Result<double> Subject::relative_error(Data data, std::uint32_t tiles) {
  resize(tiles);
  double error = 0.0, square = 0.0;
  const std::size_t n = std::size_t{tokens()} * geometry_.head_dim;
  std::vector<float> k(n), v(n);
  for (std::uint32_t i = 0; i < tiles; ++i) {
    Tile tile = make_tile(data, 100 + i);
    KVF_RETURN_IF_ERROR(encode(i, tile));
    for (std::uint32_t head = 0; head < geometry_.kv_heads; ++head) {
      reconstruct(i, head, k.data(), v.data());
      for (std::size_t j = 0; j < n; ++j) {
        const double x = tile.k[head * n + j], y = tile.v[head * n + j];
        error += (k[j] - x) * (k[j] - x) + (v[j] - y) * (v[j] - y);
        square += x * x + y * y;
      }
    }
  }
  return std::sqrt(error / square);
}

// Exact attention of one query [head_dim] over `tokens` values: out [head_dim].
void attend_exactly(const float* q, const std::vector<float>& k, const std::vector<float>& v,
                    std::vector<double>& out) {
  const std::size_t dim = out.size(), tokens = k.size() / dim;
  std::vector<double> p(tokens);
  double most = -std::numeric_limits<double>::infinity(), sum = 0.0;
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t d = 0; d < dim; ++d) p[t] += double{q[d]} * k[t * dim + d];
    most = std::max(most, p[t]);
  }
  for (double& score : p) sum += score = std::exp(score - most);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t d = 0; d < dim; ++d) out[d] += p[t] / sum * v[t * dim + d];
  }
}

// Of the tiles that are encoded, one head.
Result<double> Subject::attend_error() {
  const std::uint32_t dim = geometry_.head_dim;
  const std::size_t n = std::size_t{tokens()} * dim;
  const auto tiles = static_cast<std::uint32_t>(segments_.size());
  std::vector<float> k(tiles * n), v(tiles * n);
  const std::vector<float> q = make_queries(7, kCheckedQueries, dim);
  std::vector<float> m(kCheckedQueries, -std::numeric_limits<float>::infinity());
  std::vector<float> l(kCheckedQueries, 0.0f), o(q.size(), 0.0f), got(q.size());
  const kernels::AttentionStates states{m.data(), l.data(), o.data(), kCheckedQueries, dim};
  for (std::uint32_t tile = 0; tile < tiles; ++tile) {
    const auto& segment = segments_[tile];
    KVF_RETURN_IF_ERROR(codec_->validate(geometry_, 0, tile + 1, tokens(), segment));
    reconstruct(tile, 0, k.data() + tile * n, v.data() + tile * n);
    codec_->attend(geometry_, segment, 0, {q.data(), kCheckedQueries}, states);
  }
  kernels::dense_kernels().normalize(states, got.data());
  double error = 0.0, square = 0.0;
  for (std::uint32_t row = 0; row < kCheckedQueries; ++row) {
    std::vector<double> want(dim);
    attend_exactly(q.data() + row * dim, k, v, want);
    for (std::uint32_t d = 0; d < dim; ++d) {
      const double off = got[row * dim + d] - want[d];
      error += off * off;
      square += want[d] * want[d];
    }
  }
  const double relative = std::sqrt(error / square);
  if (!(relative <= kMostAttendError)) {
    return internal_error(fmt::format("attention on segments is off by {} of its size", relative));
  }
  return relative;
}

// What is timed: the tiles of one run, one after the other.
class Runs {
 public:
  Runs(Subject& subject, std::uint32_t tiles) : subject_(subject) {
    for (std::uint32_t i = 0; i < tiles; ++i) {
      tiles_.push_back(subject.make_tile(Data::kGaussian, i));
    }
    subject.resize(tiles);
    written_.assign(tiles_.begin(), tiles_.begin() + std::min<std::size_t>(tiles, kWrittenTiles));
    const std::size_t head_values = std::size_t{subject.tokens()} * 2 * kernels::kMaxHeadDim;
    decoded_.resize(head_values);
  }

  std::vector<Tile>& tiles() { return tiles_; }
  std::size_t bytes() const {
    return tiles_.size() * 2 * subject_.tile_values() * sizeof(std::uint16_t);
  }
  double rate(std::uint64_t begin_ns) const {
    return static_cast<double>(bytes()) / static_cast<double>(monotonic_ns() - begin_ns);
  }
  Result<double> encode() {
    const std::uint64_t begin_ns = monotonic_ns();
    for (std::uint32_t i = 0; i < tiles_.size(); ++i) {
      KVF_RETURN_IF_ERROR(subject_.encode(i, tiles_[i]));
    }
    return rate(begin_ns);
  }
  double reconstruct(std::uint32_t kv_heads) {
    const std::uint64_t begin_ns = monotonic_ns();
    for (std::uint32_t i = 0; i < tiles_.size(); ++i) {
      for (std::uint32_t head = 0; head < kv_heads; ++head) {
        subject_.reconstruct(i, head, decoded_.data(), decoded_.data() + decoded_.size() / 2);
      }
    }
    return rate(begin_ns);
  }
  // Of writing tokens to open tiles and encoding them at `encode_ns` a token, what the domain
  // takes: of pairs of a write by the codec and one by `raw`, which only rounds.
  void domain_shares(const codec::Codec& raw, double encode_ns, std::vector<double>& shares) {
    write_ns(subject_.codec());  // brings the tiles into the cache
    write_ns(raw);
    for (int i = 0; i < kPairs; ++i) {
      const double own = write_ns(subject_.codec());
      shares.push_back((own - write_ns(raw)) / (own + encode_ns));
    }
  }
  // Writes tokens to open tiles as `codec` does; nanoseconds of one token.
  double write_ns(const codec::Codec& codec) {
    const std::size_t dim = subject_.geometry().head_dim, heads = subject_.geometry().kv_heads;
    const std::size_t head_bytes = subject_.tokens() * dim * sizeof(std::uint16_t);
    Tile& row = tiles_.front();
    const std::uint64_t begin_ns = monotonic_ns();
    for (Tile& tile : written_) {
      const codec::OpenTile open = tile.open();
      for (std::size_t t = 0; t < subject_.tokens(); ++t) {
        const std::size_t slot = t * dim * sizeof(std::uint16_t);
        codec.write_open_k(row.k.data(), heads, dim, open.k + slot, head_bytes);
        codec.write_open_v(row.v.data(), heads, dim, open.v + slot, head_bytes);
      }
    }
    const auto tokens = static_cast<double>(written_.size() * subject_.tokens());
    return static_cast<double>(monotonic_ns() - begin_ns) / tokens;
  }
  // Nanoseconds of a query head's way into the domain and an output's way out of it.
  double query_ns() {
    constexpr int kRepeats = 1000;
    const std::size_t dim = subject_.geometry().head_dim, heads = subject_.geometry().kv_heads;
    float* row = tiles_.front().k.data();
    const std::uint64_t begin_ns = monotonic_ns();
    for (int i = 0; i < kRepeats; ++i) {
      subject_.codec().to_domain_q(row, heads, dim);
      subject_.codec().from_domain_o(row, heads, dim);
    }
    return static_cast<double>(monotonic_ns() - begin_ns) / static_cast<double>(kRepeats * heads);
  }

 private:
  static constexpr int kPairs = 8;                 // a run
  static constexpr std::size_t kWrittenTiles = 4;  // 4 MiB of 8 heads of 128 with their f32

  Subject& subject_;
  std::vector<Tile> tiles_, written_;
  std::vector<float> decoded_;
};

// Wrapping by the codec's wire stage, if it has one, and by zstd beside it.
class WireRuns {
 public:
  Status prepare(const Subject& subject, std::vector<Tile>& tiles) {
    if (!subject.codec().traits().wraps) return ok_status();
    std::vector<codec::OpenTile> open;
    for (Tile& tile : tiles) open.push_back(tile.open());
    KVF_RETURN_IF_ERROR(add(subject.codec().spec(), subject.geometry(), open));
    const std::string& spec = subject.codec().spec();
    const std::string zstd = spec.substr(0, spec.rfind('|')) + "| zstd(level=1)";
    return add(zstd, subject.geometry(), open);
  }
  Status run() {
    for (WireBench& bench : benches_) KVF_RETURN_IF_ERROR(bench.run());
    return ok_status();
  }
  void report(CodecBenchReport& report) const {
    if (benches_.empty()) return;
    report.wire = benches_[0].report();
    report.zstd = benches_[1].report();
  }

 private:
  Status add(const std::string& spec, const codec::KvGeometry& geometry,
             std::span<const codec::OpenTile> tiles) {
    KVF_ASSIGN_OR_RETURN(auto codec, codec::make_codec(spec));
    KVF_ASSIGN_OR_RETURN(auto bench, WireBench::create(std::move(codec), geometry, tiles));
    benches_.push_back(std::move(bench));
    return ok_status();
  }

  std::vector<WireBench> benches_;
};

// Encodes the tiles again and compares.
Status check_repeats(Subject& subject, Runs& runs, std::uint32_t tiles) {
  std::vector<std::vector<std::byte>> first;
  for (std::uint32_t i = 0; i < tiles; ++i) first.push_back(subject.segment(i));
  KVF_RETURN_IF_ERROR(runs.encode().status());
  for (std::uint32_t i = 0; i < tiles; ++i) {
    if (subject.segment(i) != first[i]) return internal_error("encoding twice gave other bytes");
  }
  return ok_status();
}

// Whether the codec has a domain of its own: whether going into it changes values.
bool changes_domain(const Subject& subject) {
  const std::size_t dim = subject.geometry().head_dim;
  const auto changes = [&](void (codec::Codec::*go)(float*, std::size_t, std::size_t) const) {
    const std::vector<float> before = make_queries(8, 1, subject.geometry().head_dim);
    std::vector<float> after = before;
    (subject.codec().*go)(after.data(), 1, dim);
    return before != after;
  };
  return changes(&codec::Codec::to_domain_k) || changes(&codec::Codec::to_domain_v) ||
         changes(&codec::Codec::to_domain_q);
}

void describe_machine(const CodecBenchOptions& options, CodecBenchReport& report) {
  report.cpu = cpu_name();
  report.isa = kernels::isa_name(kernels::active_isa());
  report.kv_heads = options.kv_heads;
  report.head_dim = options.head_dim;
  report.tiles = options.tiles;
  report.runs = options.runs;
}

// f32 and bf16 of each value, its segment, kept twice, and the wire form.
Status check_memory(const Subject& subject, std::uint32_t tiles) {
  constexpr double kBytesOfValue = 12.0;
  const double wanted = kBytesOfValue * 2.0 * static_cast<double>(subject.tile_values()) * tiles;
  const auto there =
      static_cast<double>(std::min(available_memory_bytes(), container_limit_bytes()));
  if (wanted < there) return ok_status();
  return resource_exhausted(fmt::format(
      "bench codec needs about {:.0f} MiB for {} tiles, and {:.0f} MiB are free; ask for fewer",
      wanted / (1 << 20), tiles, there / (1 << 20)));
}

}  // namespace

Result<CodecBenchReport> run_codec_bench(const CodecBenchOptions& options) {
  if (options.tiles == 0 || options.runs < 1 || options.kv_heads == 0) {
    return invalid_argument("bench codec needs at least one tile, head and run");
  }
  KVF_ASSIGN_OR_RETURN(Subject subject, Subject::create(options));
  KVF_RETURN_IF_ERROR(check_memory(subject, options.tiles));
  CodecBenchReport report;
  describe_machine(options, report);
  report.codec = subject.codec().spec();
  KVF_ASSIGN_OR_RETURN(report.rmse_outliers,
                       subject.relative_error(Data::kOutliers, kCheckedTiles));
  KVF_ASSIGN_OR_RETURN(report.rmse_gaussian,
                       subject.relative_error(Data::kGaussian, kCheckedTiles));
  KVF_ASSIGN_OR_RETURN(report.attend_error, subject.attend_error());

  Runs runs(subject, options.tiles);
  report.input_bytes = runs.bytes();
  KVF_RETURN_IF_ERROR(runs.encode().status());
  KVF_RETURN_IF_ERROR(check_repeats(subject, runs, options.tiles));
  report.bits_per_value = 8.0 * static_cast<double>(subject.segment(0).size()) /
                          static_cast<double>(2 * subject.tile_values());
  WireRuns wires;
  KVF_RETURN_IF_ERROR(wires.prepare(subject, runs.tiles()));
  ComputePool pool(1);
  KVF_ASSIGN_OR_RETURN(const auto memory, ExtentPool::create(kCeilingBytes));
  KVF_ASSIGN_OR_RETURN(const auto raw, codec::make_codec("raw"));
  const double token_bytes = 4.0 * options.kv_heads * options.head_dim;
  const bool domain = changes_domain(subject);
  std::vector<double> encode, reconstruct, shares, query, read;
  for (int run = 0; run < options.runs; ++run) {
    read.push_back(read_ceiling_gbyte_s(pool, memory->arena()));
    KVF_ASSIGN_OR_RETURN(encode.emplace_back(), runs.encode());
    reconstruct.push_back(runs.reconstruct(options.kv_heads));
    if (domain) {
      runs.domain_shares(*raw, token_bytes / encode.back(), shares);
      query.push_back(runs.query_ns());
    }
    KVF_RETURN_IF_ERROR(wires.run());
  }
  wires.report(report);
  report.encode_gbyte_s = spread_of(encode);
  report.reconstruct_gbyte_s = spread_of(reconstruct);
  report.read_ceiling_gbyte_s = spread_of(read).median;
  report.encode_share_of_read = report.encode_gbyte_s.median / report.read_ceiling_gbyte_s;
  if (domain) {
    report.domain_share_of_encode = std::max(0.0, spread_of(shares).median);
    report.domain_ns_per_query_head = spread_of(query).median;
  }
  return report;
}

boost::json::object to_json(const CodecBenchReport& r) {
  boost::json::object report{{"bench", "codec"},
                             {"codec", r.codec},
                             {"cpu", r.cpu},
                             {"isa", r.isa},
                             {"kv_heads", r.kv_heads},
                             {"head_dim", r.head_dim},
                             {"tiles", r.tiles},
                             {"runs", r.runs},
                             {"input_bytes", r.input_bytes},
                             {"bits_per_value", r.bits_per_value},
                             {"encode_gbyte_s", r.encode_gbyte_s.median},
                             {"encode_gbyte_s_min", r.encode_gbyte_s.min},
                             {"encode_gbyte_s_max", r.encode_gbyte_s.max},
                             {"read_ceiling_gbyte_s", r.read_ceiling_gbyte_s},
                             {"encode_share_of_read", r.encode_share_of_read},
                             {"domain_share_of_encode", r.domain_share_of_encode},
                             {"domain_ns_per_query_head", r.domain_ns_per_query_head},
                             {"reconstruct_gbyte_s", r.reconstruct_gbyte_s.median},
                             {"rmse_gaussian", r.rmse_gaussian},
                             {"rmse_outliers", r.rmse_outliers},
                             {"attend_error", r.attend_error}};
  const auto add_wire = [&](const std::string& name, const WireReport& wire) {
    report[name + "bits_per_value"] = wire.bits_per_value;
    report[name + "wrap_gbyte_s"] = wire.wrap_gbyte_s;
    report[name + "unpack_gbyte_s"] = wire.unpack_gbyte_s;
  };
  if (r.wire.bits_per_value > 0.0) {
    add_wire("wire_", r.wire);
    add_wire("zstd_", r.zstd);
  }
  return report;
}

std::string to_text(const CodecBenchReport& r) {
  std::string text = fmt::format(
      "{}, {} tiles of {} KV heads x {}, one core, {}\n"
      "  encodes {:.2f} GB/s ({:.2f} to {:.2f} in {} runs), 1/{:.0f} of reading's {:.1f}; its "
      "domain takes {:.3f} of writing and encoding, {:.0f} ns of a query head\n"
      "  reconstructs {:.2f} GB/s; {:.3f} bits per value\n"
      "  relative error {:.4f} on Gaussian values, {:.4f} with outliers; attention off by {:.1e}\n",
      r.codec, r.tiles, r.kv_heads, r.head_dim, r.isa, r.encode_gbyte_s.median,
      r.encode_gbyte_s.min, r.encode_gbyte_s.max, r.runs, 1.0 / r.encode_share_of_read,
      r.read_ceiling_gbyte_s, r.domain_share_of_encode, r.domain_ns_per_query_head,
      r.reconstruct_gbyte_s.median, r.bits_per_value, r.rmse_gaussian, r.rmse_outliers,
      r.attend_error);
  if (r.wire.bits_per_value > 0.0) {
    text += fmt::format(
        "  on the wire {:.3f} bits, wrapped at {:.2f} GB/s, unpacked at {:.2f}; by zstd {:.3f}, "
        "{:.2f} and {:.2f}\n",
        r.wire.bits_per_value, r.wire.wrap_gbyte_s, r.wire.unpack_gbyte_s, r.zstd.bits_per_value,
        r.zstd.wrap_gbyte_s, r.zstd.unpack_gbyte_s);
  }
  return text;
}

}  // namespace kvferry::bench

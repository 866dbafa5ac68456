#include "bench/codec_measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "base/compute_pool.h"
#include "bench/layer_errors.h"
#include "bench/machine.h"
#include "codec/describe.h"
#include "kernels/isa.h"

namespace kvferry::bench {
namespace {

constexpr std::size_t kQueriesOfPassage = 32;

using CodecPtr = std::shared_ptr<const codec::Codec>;

// A prefill of one passage under one codec.
struct Run {
  codec::OwnedSequenceKv kv;
  AttentionTrace trace;
  std::vector<float> logits;  // [compared positions][vocab]
};

// Up to kQueriesOfPassage of the compared positions, evenly.
std::vector<std::uint32_t> query_positions(const Passage& passage) {
  const std::size_t n = std::min(kQueriesOfPassage, passage.measured.size());
  std::vector<std::uint32_t> some;
  for (std::size_t i = 0; i < n; ++i) {
    some.push_back(passage.measured[i * passage.measured.size() / n]);
  }
  return some;
}

Result<std::unique_ptr<Run>> prefill(model::Model& model, const CodecPtr& codec,
                                     const Passage& passage) {
  const auto& config = model.config();
  const auto tokens = static_cast<std::uint32_t>(passage.ids.size());
  auto run = std::make_unique<Run>(
      Run{{codec, config.kv_geometry(), tokens},
          AttentionTrace(config.kv_geometry(), tokens, query_positions(passage)),
          {}});
  model.observe([&](const model::AttentionInputs& inputs) { run->trace.record(inputs, *codec); });
  std::vector<float> all;
  const model::SequenceChunk chunk{&run->kv.kv(), passage.ids, model::SequenceChunk::Logits::kAll};
  const Status status = model.forward(std::span(&chunk, 1), all, nullptr);
  model.observe(nullptr);
  KVF_RETURN_IF_ERROR(status);
  run->logits.reserve(passage.measured.size() * config.vocab);
  for (const std::uint32_t position : passage.measured) {
    const auto row = all.begin() + std::size_t{position} * config.vocab;
    run->logits.insert(run->logits.end(), row, row + config.vocab);
  }
  return run;
}

// Bytes that a wire stage spares on the closed tiles.
std::uint64_t spared_bytes(const codec::SequenceKv& kv, ComputePool& pool) {
  if (!kv.codec->traits().wraps) return 0;
  const std::uint32_t layers = kv.geometry.layers;
  std::vector<std::uint64_t> spared(std::size_t{layers} * kv.closed_tiles());
  pool.parallel_for(spared.size(), [&](std::size_t i, int) {
    const auto segment =
        kv.segment(static_cast<std::uint32_t>(i % layers), static_cast<std::uint32_t>(i / layers));
    std::vector<std::byte> wire(segment.size());
    spared[i] = segment.size() - kv.codec->wrap(kv.geometry, segment, wire);
  });
  return std::accumulate(spared.begin(), spared.end(), std::uint64_t{0});
}

// Sums over passages, for one codec.
struct Totals {
  Divergence divergence;
  std::uint64_t spared_bytes = 0, tokens = 0;
  std::uint32_t without_closed_tile = 0;  // passages
  std::vector<double> kl_of_passage;
  std::vector<LayerErrors> layers;

  void add(const Divergence& more) {
    divergence.kl_sum += more.kl_sum;
    divergence.nll_sum += more.nll_sum;
    divergence.positions += more.positions;
    divergence.agreed += more.agreed;
    divergence.answers += more.answers;
    divergence.exact += more.exact;
    kl_of_passage.push_back(more.kl_sum / static_cast<double>(more.positions));
  }
  void add(const std::vector<LayerErrors>& more) {
    layers.resize(more.size());
    for (std::size_t i = 0; i < more.size(); ++i) layers[i].add(more[i]);
  }
};

std::optional<double> standard_error(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  if (values.size() < 2) return std::nullopt;
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double square = 0.0;
  for (const double value : values) square += (value - mean) * (value - mean);
  return std::sqrt(square / (n - 1) / n);
}

double share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

double perplexity(const Divergence& d) {
  return std::exp(d.nll_sum / static_cast<double>(d.positions));
}

Result<CodecQuality> quality_of(const codec::Codec& codec, const codec::KvGeometry& geometry,
                                std::uint32_t tokens, const Totals& totals) {
  CodecQuality quality;
  quality.spec = codec.spec();
  KVF_ASSIGN_OR_RETURN(const auto cost, codec::describe_codec(codec.spec(), geometry, {tokens}));
  const auto values = static_cast<double>(totals.tokens * geometry.values_per_token());
  quality.bits_per_value =
      cost.points[0].bits_per_value - 8.0 * static_cast<double>(totals.spared_bytes) / values;
  quality.closed_bits_per_value = cost.points[0].closed_bits_per_value;
  const Divergence& d = totals.divergence;
  quality.kl = d.kl_sum / static_cast<double>(d.positions);
  quality.kl_standard_error = standard_error(totals.kl_of_passage);
  quality.top1_agreement = share(d.agreed, d.positions);
  quality.perplexity = perplexity(d);
  quality.exact_answers = share(d.exact, d.answers);
  quality.passages_without_closed_tile = totals.without_closed_tile;
  for (const LayerErrors& layer : totals.layers) quality.layers.push_back({layer.k(), layer.v()});
  return quality;
}

Result<std::vector<Passage>> read_passages(const CodecMeasureOptions& options,
                                           std::uint32_t context) {
  if (options.text.empty() == options.questions.empty()) {
    return invalid_argument("codec measure needs either a text or questions");
  }
  KVF_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::load(options.model));
  if (options.text.empty()) {
    KVF_ASSIGN_OR_RETURN(const std::string lines, read_passage_file(options.questions));
    return question_passages(*tokenizer, lines, context, options.passages);
  }
  KVF_ASSIGN_OR_RETURN(const std::string text, read_passage_file(options.text));
  return text_passages(*tokenizer, text, std::min(options.window, context), options.passages);
}

Result<std::vector<CodecPtr>> make_codecs(const std::vector<std::string>& specs,
                                          const codec::KvGeometry& geometry) {
  if (specs.empty()) return invalid_argument("codec measure needs at least one codec");
  std::vector<CodecPtr> codecs;
  for (const std::string& spec : specs) {
    auto made = codec::make_codec(spec);
    const Status status = made.ok() ? (*made)->supports(geometry) : made.status();
    KVF_RETURN_IF_ERROR(status.with_context(spec));
    codecs.push_back(std::move(*made));
  }
  return codecs;
}

void describe_run(const CodecMeasureOptions& options, const model::Model& model,
                  const std::vector<Passage>& passages, CodecMeasureReport& report) {
  report.model = model.config().name;
  report.source = options.text.empty() ? options.questions : options.text;
  report.compute = model.compute() == model::Compute::kBf16 ? "bf16" : "f32";
  report.cpu = cpu_name();
  report.isa = kernels::isa_name(kernels::active_isa());
  report.passages = static_cast<std::uint32_t>(passages.size());
  std::size_t tokens = 0;
  for (const Passage& passage : passages) tokens += passage.ids.size();
  report.tokens_mean = static_cast<std::uint32_t>(tokens / passages.size());
}

}  // namespace

Result<CodecMeasureReport> run_codec_measure(const CodecMeasureOptions& options) {
  if (options.model.starts_with("random:")) {
    return invalid_argument(
        "a random model has no tokenizer; give --model a checkpoint's directory");
  }
  ComputePool pool(std::max(1, options.threads));
  model::LoadOptions load;
  load.compute = options.compute;
  load.pool = &pool;
  load.progress = options.loading;
  KVF_ASSIGN_OR_RETURN(const auto model, model::load_model(options.model, load));
  const codec::KvGeometry geometry = model->config().kv_geometry();
  KVF_ASSIGN_OR_RETURN(const auto codecs, make_codecs(options.codecs, geometry));
  KVF_ASSIGN_OR_RETURN(const auto raw, codec::make_codec("raw"));
  KVF_RETURN_IF_ERROR(raw->supports(geometry));
  KVF_ASSIGN_OR_RETURN(const auto passages, read_passages(options, model->config().context));

  CodecMeasureReport report;
  describe_run(options, *model, passages, report);
  Totals raw_totals;
  std::vector<Totals> totals(codecs.size());
  std::size_t done = 0;
  for (const Passage& passage : passages) {
    const auto compare = [&](const Run& base, const Run& run) {
      return divergence(passage, base.logits, run.logits, model->config().vocab, pool);
    };
    KVF_ASSIGN_OR_RETURN(const auto base, prefill(*model, raw, passage));
    const auto exact = exact_attention(base->trace, pool);
    raw_totals.add(compare(*base, *base));
    for (std::size_t i = 0; i < codecs.size(); ++i) {
      KVF_ASSIGN_OR_RETURN(const auto run, prefill(*model, codecs[i], passage));
      totals[i].add(compare(*base, *run));
      totals[i].spared_bytes += spared_bytes(run->kv.kv(), pool);
      totals[i].tokens += passage.ids.size();
      totals[i].without_closed_tile += run->kv.kv().closed_tiles() == 0 ? 1 : 0;
      totals[i].add(layer_errors(base->trace, exact, run->trace, run->kv.kv(), pool));
    }
    if (options.measuring) {
      options.measuring(static_cast<double>(++done) / static_cast<double>(passages.size()));
    }
  }
  report.positions = raw_totals.divergence.positions;
  report.answers = raw_totals.divergence.answers;
  report.raw_perplexity = perplexity(raw_totals.divergence);
  report.raw_exact_answers = share(raw_totals.divergence.exact, report.answers);
  for (std::size_t i = 0; i < codecs.size(); ++i) {
    KVF_ASSIGN_OR_RETURN(report.codecs.emplace_back(),
                         quality_of(*codecs[i], geometry, report.tokens_mean, totals[i]));
    report.codecs.back().given = options.codecs[i];
  }
  return report;
}

namespace {

// Logits of one position as logarithms of probabilities, minus `shift` each.
double log_sum(std::span<const float> logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - most);
  return most + std::log(sum);
}

std::size_t top(std::span<const float> logits) {  // the lowest of equals
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

struct PositionDivergence {
  double kl = 0.0, nll = 0.0;
  bool agreed = false, right = false;
};

PositionDivergence compare_position(std::span<const float> raw, std::span<const float> codec,
                                    std::int32_t next) {
  const double raw_sum = log_sum(raw), codec_sum = log_sum(codec);
  PositionDivergence result;
  for (std::size_t i = 0; i < raw.size(); ++i) {
    const double p = raw[i] - raw_sum;
    result.kl += std::exp(p) * (p - (codec[i] - codec_sum));
  }
  result.nll = codec_sum - codec[static_cast<std::size_t>(next)];
  const std::size_t best = top(codec);
  result.agreed = top(raw) == best;
  result.right = best == static_cast<std::size_t>(next);
  return result;
}

}  // namespace

Divergence divergence(const Passage& passage, std::span<const float> raw,
                      std::span<const float> codec, std::uint32_t vocab, ComputePool& pool) {
  std::vector<PositionDivergence> positions(passage.measured.size());
  pool.parallel_for(positions.size(), [&](std::size_t i, int) {
    positions[i] = compare_position(raw.subspan(i * vocab, vocab), codec.subspan(i * vocab, vocab),
                                    passage.ids[passage.measured[i] + 1]);
  });
  Divergence total;
  total.positions = positions.size();
  for (const auto& position : positions) {
    total.kl_sum += position.kl;
    total.nll_sum += position.nll;
    total.agreed += position.agreed ? 1 : 0;
  }
  total.answers = passage.answers.size();
  for (const auto& answer : passage.answers) {
    total.exact += std::all_of(positions.begin() + answer.first, positions.begin() + answer.last,
                               [](const PositionDivergence& p) { return p.right; });
  }
  return total;
}

boost::json::object to_json(const CodecMeasureReport& r) {
  boost::json::array codecs;
  for (const CodecQuality& codec : r.codecs) {
    boost::json::array layers;
    for (std::size_t i = 0; i < codec.layers.size(); ++i) {
      layers.push_back(boost::json::object{{"layer", i},
                                           {"k_score_error", codec.layers[i].k_score_error},
                                           {"v_output_error", codec.layers[i].v_output_error}});
    }
    boost::json::object entry{{"spec", codec.spec},
                              {"given", codec.given},
                              {"bits_per_value", codec.bits_per_value},
                              {"closed_bits_per_value", codec.closed_bits_per_value},
                              {"kl", codec.kl},
                              {"top1_agreement", codec.top1_agreement},
                              {"perplexity", codec.perplexity},
                              {"passages_without_closed_tile", codec.passages_without_closed_tile},
                              {"layers", std::move(layers)}};
    if (codec.kl_standard_error) entry["kl_standard_error"] = *codec.kl_standard_error;
    if (r.answers > 0) entry["exact_answers"] = codec.exact_answers;
    codecs.push_back(std::move(entry));
  }
  boost::json::object report{{"measure", "codec"},
                             {"model", r.model},
                             {"source", r.source},
                             {"compute", r.compute},
                             {"cpu", r.cpu},
                             {"isa", r.isa},
                             {"passages", r.passages},
                             {"tokens_mean", r.tokens_mean},
                             {"positions", r.positions},
                             {"answers", r.answers},
                             {"raw_perplexity", r.raw_perplexity},
                             {"codecs", std::move(codecs)}};
  if (r.answers > 0) report["raw_exact_answers"] = r.raw_exact_answers;
  return report;
}

namespace {

// Of the table; ends in a newline.
std::string row(const CodecQuality& codec, bool errors, bool answers) {
  double k = 0.0, v = 0.0;
  for (const LayerQuality& layer : codec.layers) {
    k += layer.k_score_error / static_cast<double>(codec.layers.size());
    v += layer.v_output_error / static_cast<double>(codec.layers.size());
  }
  std::string text = fmt::format("{:6.3f} {:7.3f} {:10.3e}", codec.bits_per_value,
                                 codec.closed_bits_per_value, codec.kl);
  if (errors) text += fmt::format(" {:10.3e}", codec.kl_standard_error.value_or(0.0));
  text += fmt::format(" {:7.4f} {:11.4f}", codec.top1_agreement, codec.perplexity);
  if (answers) text += fmt::format(" {:7.3f}", codec.exact_answers);
  const std::string given = codec.given == codec.spec ? "" : codec.given + " = ";
  return text + fmt::format(" {:9.4f} {:9.4f}  {}{}\n", k, v, given, codec.spec);
}

}  // namespace

std::string to_text(const CodecMeasureReport& r) {
  std::string text = fmt::format(
      "{} on {}: {} passages of {} tokens on average, {} positions compared, {} on {} kernels\n"
      "with raw: perplexity {:.4f}",
      r.model, r.source, r.passages, r.tokens_mean, r.positions, r.compute, r.isa,
      r.raw_perplexity);
  if (r.answers > 0) {
    text += fmt::format(", {:.3f} of {} answers exact", r.raw_exact_answers, r.answers);
  }
  const bool errors = r.passages > 1;  // of KL
  text += "\n\n  bits  closed         KL";
  if (errors) text += "         +-";
  text += "   top-1  perplexity";
  if (r.answers > 0) text += "   exact";
  text += "  K scores     V out  codec\n";
  for (const CodecQuality& codec : r.codecs) text += row(codec, errors, r.answers > 0);
  for (const CodecQuality& codec : r.codecs) {
    if (codec.passages_without_closed_tile == 0) continue;
    text += fmt::format("{}: {} of {} passages close no tile, so nothing is encoded of them\n",
                        codec.spec, codec.passages_without_closed_tile, r.passages);
  }
  return text;
}

}  // namespace kvferry::bench

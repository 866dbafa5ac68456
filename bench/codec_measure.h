// `kvferry codec measure`: what codecs cost in quality, on the KV of a model over given tokens.
//
// Method: each passage (bench/passages.h) is prefilled with `raw` and with every codec, all tokens
// given (teacher-forced). Of the distributions of the next token, p with raw and p' with the codec,
// at every compared position: KL(p | p') = SUM p ln(p / p'), in nats, from the logits in double
// precision; top-1 agreement, whether both have the same most likely token; and the perplexity of
// the tokens that follow. An answer counts as exact where every one of its tokens is the most
// likely. By layer, the errors of bench/layer_errors.h, of queries at up to 32 compared positions
// of a passage. Bits are those of `codec describe`, all bytes counted, for the mean length of a
// passage, less what a wire stage has spared on the closed tiles. The standard error of KL is that
// of a mean over passages.
//
// Thread contract: one thread, which drives the compute pool.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "bench/passages.h"
#include "model/model.h"

namespace kvferry::bench {

struct CodecMeasureOptions {
  std::string model;                // a directory with a tokenizer
  std::string text, questions;      // a file; one of the two
  std::vector<std::string> codecs;  // specs
  std::uint32_t window = 1024;      // tokens; cut to the model's context
  std::uint32_t passages = 0;       // at most; 0: all
  model::Compute compute = model::Compute::kAuto;
  int threads = 1;
  std::function<void(double fraction)> loading, measuring;  // may be empty
};

struct LayerQuality {
  double k_score_error = 0.0, v_output_error = 0.0;  // relative
};

struct CodecQuality {
  std::string spec;   // normalised
  std::string given;  // as it was asked for
  double bits_per_value = 0.0, closed_bits_per_value = 0.0;
  double kl = 0.0, top1_agreement = 0.0, perplexity = 0.0;
  std::optional<double> kl_standard_error;  // of two passages or more
  double exact_answers = 0.0;               // share, of questions
  std::uint32_t passages_without_closed_tile = 0;
  std::vector<LayerQuality> layers;
};

struct CodecMeasureReport {
  std::string model, source, compute, cpu, isa;
  std::uint32_t passages = 0, tokens_mean = 0;
  std::uint64_t positions = 0, answers = 0;
  double raw_perplexity = 0.0, raw_exact_answers = 0.0;
  std::vector<CodecQuality> codecs;
};

Result<CodecMeasureReport> run_codec_measure(const CodecMeasureOptions& options);

boost::json::object to_json(const CodecMeasureReport& report);
std::string to_text(const CodecMeasureReport& report);  // a table, ends in a newline

// How the distributions of the next token differ over the compared positions of a passage. Logits:
// [compared positions][vocab].
struct Divergence {
  double kl_sum = 0.0, nll_sum = 0.0;  // of the codec's run, in nats
  std::uint64_t positions = 0, agreed = 0, answers = 0, exact = 0;
};
Divergence divergence(const Passage& passage, std::span<const float> raw,
                      std::span<const float> codec, std::uint32_t vocab, ComputePool& pool);

}  // namespace kvferry::bench

#include "bench/tokenize_bench.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

#include "base/clock.h"
#include "bench/machine.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace kvferry::bench {
namespace {

constexpr int kMaxRuns = 1000;

Result<std::string> read_text(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return not_found("no text in " + file);
  std::string text(text::Tokenizer::kMaxTextBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(in.gcount()));
  if (text.empty() || text.size() > text::Tokenizer::kMaxTextBytes) {
    return invalid_argument(file + " is empty or longer than " +
                            std::to_string(text::Tokenizer::kMaxTextBytes) + " bytes");
  }
  return text;
}

double median(std::vector<double>& times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

template <class F>
double ms_of(const F& call) {
  const std::uint64_t begin = monotonic_ns();
  call();
  return static_cast<double>(monotonic_ns() - begin) * 1e-6;
}

}  // namespace

Result<TokenizeBenchReport> run_tokenize_bench(const TokenizeBenchOptions& options) {
  if (options.runs < 1 || options.runs > kMaxRuns) {
    return invalid_argument("bench tokenize needs from 1 to " + std::to_string(kMaxRuns) + " runs");
  }
  KVF_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::load(options.model));
  KVF_ASSIGN_OR_RETURN(const std::string text, read_text(options.text));
  const text::Tokenizer::EncodeOptions encode = {.specials = text::Tokenizer::Specials::kTokens};
  KVF_ASSIGN_OR_RETURN(const std::vector<std::int32_t> ids, tokenizer->encode(text, encode));

  std::vector<double> encodes, decodes, checks;
  std::string decoded;
  bool same = true;
  for (int run = 0; run < options.runs; ++run) {
    encodes.push_back(ms_of([&] {
      const auto again = tokenizer->encode(text, encode);
      same = same && again.ok() && *again == ids;
    }));
    decodes.push_back(ms_of([&] { decoded = tokenizer->decode(ids, text::SpecialTokens::kKeep); }));
    checks.push_back(ms_of([&] { same = text::is_utf8(text) && same; }));
  }
  if (!same) return invalid_argument("the text is not UTF-8, or two encodes of it differ");

  TokenizeBenchReport report{options.model, options.text, cpu_name(), text.size(), ids.size()};
  report.runs = options.runs;
  report.encode_ms = median(encodes);
  report.encode_ms_min = encodes.front();
  report.encode_ms_max = encodes.back();
  report.decode_ms = median(decodes);
  const auto mb_per_s = [&](double ms) { return static_cast<double>(text.size()) * 1e-3 / ms; };
  report.encode_mb_per_s = mb_per_s(report.encode_ms);
  report.decode_mb_per_s = mb_per_s(report.decode_ms);
  report.utf8_check_mb_per_s = mb_per_s(median(checks));
  report.round_trip = decoded == text;
  return report;
}

boost::json::object to_json(const TokenizeBenchReport& report) {
  return {{"bench", "tokenize"},
          {"model", report.model},
          {"text", report.text},
          {"cpu", report.cpu},
          {"threads", 1},
          {"runs", report.runs},
          {"bytes", report.bytes},
          {"tokens", report.tokens},
          {"encode_ms", report.encode_ms},
          {"encode_ms_min", report.encode_ms_min},
          {"encode_ms_max", report.encode_ms_max},
          {"decode_ms", report.decode_ms},
          {"encode_mb_per_s", report.encode_mb_per_s},
          {"decode_mb_per_s", report.decode_mb_per_s},
          {"utf8_check_mb_per_s", report.utf8_check_mb_per_s},
          {"round_trip", report.round_trip}};
}

std::string to_text(const TokenizeBenchReport& report) {
  char lines[1024];
  std::snprintf(lines, sizeof lines,
                "%s, 1 thread, %d runs: %zu bytes, %zu tokens\n"
                "encode %8.1f ms (%.1f to %.1f), %.1f MB/s\n"
                "decode %8.1f ms, %.1f MB/s; the text %s\n"
                "ceiling, checking UTF-8: %.0f MB/s\n",
                report.cpu.c_str(), report.runs, report.bytes, report.tokens, report.encode_ms,
                report.encode_ms_min, report.encode_ms_max, report.encode_mb_per_s,
                report.decode_ms, report.decode_mb_per_s,
                report.round_trip ? "comes back as it was" : "is normalized on the way",
                report.utf8_check_mb_per_s);
  return lines;
}

}  // namespace kvferry::bench

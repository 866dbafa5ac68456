// `kvferry bench tokenize`: how fast a checkpoint's tokenizer encodes and decodes a text.
//
// Method: one warm-up, then `runs` times encode and decode of the whole text in one thread, as one
// request does it: nothing is kept from one call to the next. Reported are the medians. The ceiling
// of the same run is the check that the text is UTF-8, which looks at each byte once. The run fails
// if two encodes differ. bench/compare_tokenizers.py runs Hugging Face's tokenizers beside it.
//
// Thread contract: one thread.
#pragma once

#include <boost/json/object.hpp>
#include <cstddef>
#include <string>

#include "base/status.h"

namespace kvferry::bench {

struct TokenizeBenchOptions {
  std::string model;  // a checkpoint's directory
  std::string text;   // a file, at most Tokenizer::kMaxTextBytes
  int runs = 7;
};

struct TokenizeBenchReport {
  std::string model, text, cpu;
  std::size_t bytes = 0, tokens = 0;
  int runs = 0;
  double encode_ms = 0.0, encode_ms_min = 0.0, encode_ms_max = 0.0;
  double decode_ms = 0.0;
  double encode_mb_per_s = 0.0, decode_mb_per_s = 0.0, utf8_check_mb_per_s = 0.0;  // 1e6 bytes
  // Whether the decoded text is the text; a normalizer or SentencePiece's first space changes it.
  bool round_trip = false;
};

Result<TokenizeBenchReport> run_tokenize_bench(const TokenizeBenchOptions& options);

boost::json::object to_json(const TokenizeBenchReport& report);
std::string to_text(const TokenizeBenchReport& report);  // a few lines, ends in a newline

}  // namespace kvferry::bench

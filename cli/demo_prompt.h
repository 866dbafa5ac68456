// The retrieval question of the quick start: a JSON object of random keys and values, and one key
// to look up. Made from a seed, so that every run asks the same. Thread contract: pure function.
#pragma once

#include <cstdint>
#include <string>

namespace kvferry::cli {

struct DemoPrompt {
  std::string text;  // {"QIRN": "PTRAT", ...}\n"KEY":
  std::string key;
  std::string answer;  // the value of KEY
};

// `entries` keys of four letters with values of five; 100 entries are about 1,500 tokens of the
// bundled model's tokenizer.
DemoPrompt make_demo_prompt(std::uint64_t seed, std::uint32_t entries);

}  // namespace kvferry::cli

#include "cli/demo_prompt.h"

#include "base/hash.h"

namespace kvferry::cli {
namespace {

std::string letters(std::uint64_t seed, std::uint64_t counter, int count) {
  std::uint64_t bits = counter_random(seed, counter);
  std::string text;
  for (int i = 0; i < count; ++i, bits /= 26) text += static_cast<char>('A' + bits % 26);
  return text;
}

}  // namespace

DemoPrompt make_demo_prompt(std::uint64_t seed, std::uint32_t entries) {
  DemoPrompt prompt;
  const std::uint32_t asked = entries * 2 / 5;
  for (std::uint32_t i = 0; i < entries; ++i) {
    const std::string key = letters(seed, 2 * i, 4), value = letters(seed, 2 * i + 1, 5);
    prompt.text += (i == 0 ? "{\"" : ", \"") + key + "\": \"" + value + "\"";
    if (i == asked) {
      prompt.key = key;
      prompt.answer = value;
    }
  }
  prompt.text += "}\n\"" + prompt.key + "\":";
  return prompt;
}

}  // namespace kvferry::cli

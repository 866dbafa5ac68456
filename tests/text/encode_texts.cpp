// encode_texts MODEL: texts from standard input, each a line with its length in bytes and then the
// bytes; for each a line of its ids, special tokens as tokens, and a line of its ids with special
// tokens as text. Of a text with a code point that this machine's PCRE2 has not assigned, both
// lines are "unassigned". For tests/fuzz/compare_encode.py.
#include <cstdio>
#include <iostream>
#include <string>

#include "text/regex.h"
#include "text/tokenizer.h"

using kvferry::text::Regex;
using kvferry::text::Tokenizer;

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "encode_texts MODEL < TEXTS\n";
    return 2;
  }
  const auto tokenizer = Tokenizer::load(argv[1]);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status().to_string() << "\n";
    return 1;
  }
  const auto unassigned = Regex::compile("\\p{Cn}", false);
  if (!unassigned.ok()) return 1;
  Regex::Scratch scratch(*unassigned);
  for (std::string line; std::getline(std::cin, line);) {
    std::string text(std::stoul(line), '\0');
    if (!std::cin.read(text.data(), static_cast<std::streamsize>(text.size()))) return 1;
    const auto found = unassigned->find(text, 0, scratch);
    if (!found.ok()) return 1;
    if (found->found) {
      std::cout << "unassigned\nunassigned\n";
      continue;
    }
    for (const auto specials : {Tokenizer::Specials::kTokens, Tokenizer::Specials::kText}) {
      const auto ids = (*tokenizer)->encode(text, {.specials = specials});
      if (!ids.ok()) return 1;
      for (const std::int32_t id : *ids) std::cout << id << ' ';
      std::cout << '\n';
    }
  }
  return 0;
}

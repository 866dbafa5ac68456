// PCRE2 with UTF, Unicode properties and JIT where the machine allows it, held to what Oniguruma,
// the engine behind Hugging Face's tokenizers, means by the same pattern: \s is White_Space, ^ and
// $ match at lines, and what the two read differently is refused. Letters and numbers are those of
// Unicode 14. For text/ only.
// Thread contract: immutable; find from any thread, with a Scratch of its own.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "base/status.h"

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;

namespace kvferry::text {

class Regex {
 public:
  // literal: the pattern is the text itself. kInvalidArgument when it does not compile, and
  // kUnsupported for escapes other than \s \S \d \D \p \P \r \n \t \f \x \A \z and those of
  // punctuation, and for classes within classes.
  static Result<Regex> compile(std::string_view pattern, bool literal);

  class Scratch {
   public:
    explicit Scratch(const Regex& regex);

   private:
    friend class Regex;
    struct Free {
      void operator()(pcre2_real_match_data_8* data) const;
      void operator()(pcre2_real_match_context_8* context) const;
    };
    std::unique_ptr<pcre2_real_match_data_8, Free> data_;
    std::unique_ptr<pcre2_real_match_context_8, Free> context_;
  };

  struct Match {
    bool found = false;
    std::size_t begin = 0, end = 0;
  };
  // The first match at or after `from` in valid UTF-8. kResourceExhausted past kMatchLimit.
  Result<Match> find(std::string_view text, std::size_t from, Scratch& scratch) const;

  // Backtracking steps of one match: an honest pattern takes a few for each character.
  static constexpr unsigned kMatchLimit = 10'000'000;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::unique_ptr<pcre2_real_code_8, Free> code_;
};

}  // namespace kvferry::text

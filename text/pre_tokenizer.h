// How a text is cut into pieces before merges run within each: the pre_tokenizer of tokenizer.json.
// Understood: Digits, Split (Regex or String; Isolated or Removed; invert) and Sequence of these,
// with exactly one ByteLevel at the end. Patterns run in PCRE2 with Unicode properties; it differs
// from the Rust library's engine in one character: \s holds U+180E too.
// Thread contract: immutable after make; split may run in any number of threads.
#pragma once

#include <boost/json/value.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace kvferry::text {

class PreTokenizer {
 public:
  static constexpr int kMaxSteps = 16;

  // kUnsupported, by name, for anything but the above.
  static Result<PreTokenizer> make(const boost::json::value& description);
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  // The pieces of a valid UTF-8 text in order, none empty. They point into `text` or, where a space
  // was put before a piece, into `added`, which must outlive them.
  // kResourceExhausted when a pattern runs into PCRE2's limits.
  struct Pieces {
    std::vector<std::string_view> all;
    std::vector<std::unique_ptr<std::string>> added;
  };
  Status split(std::string_view text, Pieces& pieces) const;

 private:
  struct Step;
  PreTokenizer();
  Status add_steps(const boost::json::value& description, int depth);
  Status add_split(const boost::json::value& description);
  std::vector<Step> steps_;
  bool ends_in_bytes_ = false;
};

}  // namespace kvferry::text

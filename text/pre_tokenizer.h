// How a text is cut into pieces before merges run within each: the pre_tokenizer of tokenizer.json.
// Understood: Digits, Split (Regex or String; Isolated or Removed; invert), Metaspace, ByteLevel at
// the end, and Sequence of these; null cuts nothing.
// Thread contract: immutable after make; split may run in any number of threads.
#pragma once

#include <boost/json/value.hpp>
#include <deque>
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

  // Whether the pieces are bytes of a byte-level vocabulary, rather than characters.
  bool ends_in_bytes() const { return ends_in_bytes_; }

  // Appends the pieces of a valid UTF-8 text in order, none empty. They point into `text` or, where
  // a step has changed them, into `changed`, which must outlive them. `is_first`: `text` is the
  // begin of what was given to the tokenizer.
  // kResourceExhausted when a pattern runs into PCRE2's limits.
  struct Pieces {
    std::vector<std::string_view> all;
    std::deque<std::string> changed;
  };
  Status split(std::string_view text, bool is_first, Pieces& pieces) const;

 private:
  struct Step;
  PreTokenizer();
  Status add_steps(const boost::json::value& description, int depth);
  Status add_split(const boost::json::value& description);
  std::vector<Step> steps_;
  bool ends_in_bytes_ = false;
};

}  // namespace kvferry::text

// What is done to a text before it is cut up: the normalizer of tokenizer.json. Understood: NFC,
// Prepend, Replace and Sequence of these.
// Thread contract: immutable after make; any number of threads.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "text/replacement.h"

namespace kvferry::text {

class Normalizer {
 public:
  static constexpr std::size_t kMaxSteps = 16;
  static constexpr std::size_t kMaxBytes = 64u << 20;  // of a normalized text

  // Null is a normalizer that does nothing. kUnsupported, by name, for anything but the above.
  static Result<Normalizer> make(const boost::json::value& description);

  bool does_nothing() const { return steps_.empty(); }
  // Bytes of text that one byte of normalized text can stand for, at most; 0: any number.
  std::size_t most_shrinkage() const;

  // Of valid UTF-8. kInvalidArgument when the result would be longer than kMaxBytes.
  Result<std::string> apply(std::string_view text) const;

 private:
  struct Nfc {};
  struct Prepend {
    std::string text;
  };
  Status add_steps(const boost::json::value& description, int depth);

  std::vector<std::variant<Nfc, Prepend, Replacement>> steps_;
};

}  // namespace kvferry::text

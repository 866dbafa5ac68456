// The token sequences over which codecs are measured: windows of a text, or questions with their
// answers.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/tokenizer.h"

namespace kvferry::bench {

inline constexpr std::uint32_t kLeastWindow = 256;             // tokens: two of the longest tiles
inline constexpr std::size_t kMaxPassageFileBytes = 64 << 20;  // of a text or of questions

struct Passage {
  std::vector<std::int32_t> ids;
  // Positions whose next tokens are compared, ascending; none is the last.
  std::vector<std::uint32_t> measured;
  // Where answers lie in `measured`: [first, last). Empty of texts.
  struct Answer {
    std::size_t first = 0, last = 0;
  };
  std::vector<Answer> answers;
};

// A form feed starts a new document; each is cut into windows of `window` tokens, which begin with
// BOS where the tokenizer has it so. What is left at a document's end counts if it has at least
// kLeastWindow tokens. Compared are the positions behind the first tile, where a token has encoded
// ones before it. At most `count` windows, evenly out of all. kInvalidArgument when there is none.
Result<std::vector<Passage>> text_passages(const text::Tokenizer& tokenizer, std::string_view text,
                                           std::uint32_t window, std::uint32_t count);

// One JSON array a line: strings that follow each other in one sequence, a prompt, its answer, the
// next prompt, its answer and so on. Compared are the tokens of the answers. At most `count` lines,
// evenly out of all. kInvalidArgument for anything else, or when one is longer than `context`.
Result<std::vector<Passage>> question_passages(const text::Tokenizer& tokenizer,
                                               std::string_view lines, std::uint32_t context,
                                               std::uint32_t count);

// The whole file. kNotFound, or kInvalidArgument above kMaxPassageFileBytes, of a directory, or of
// what is not UTF-8.
Result<std::string> read_passage_file(const std::filesystem::path& path);

}  // namespace kvferry::bench

// The sampling of one choice of a request: what must be known of the tokens before the next one
// (penalties, min_tokens), and the choice of the next. A function of the ids and the parameters
// alone, so that a request which goes on elsewhere goes on alike.
// Thread contract: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "model/sampling.h"

namespace kvferry::model {

class ChoiceSampler {
 public:
  // ids: what the next token comes behind; all but the first prompt_tokens were generated.
  ChoiceSampler(SamplingParams params, std::span<const std::int32_t> ids,
                std::uint32_t prompt_tokens);
  // The same for another choice. The ids of the prompt are shared.
  ChoiceSampler for_choice(std::uint32_t choice) const;

  // The next token; it counts only once appended. scratch: of any content, to be used again.
  std::int32_t choose(std::span<const float> logits, std::vector<float>& scratch) const;
  void append(std::int32_t id);

 private:
  bool adjusts() const;
  void adjust(std::span<float> logits) const;

  SamplingParams params_;
  std::uint32_t position_ = 0;                               // of the next token
  std::uint32_t generated_ = 0;                              // tokens
  bool counts_ = false;                                      // some penalty is in effect
  std::shared_ptr<const std::vector<std::int32_t>> prompt_;  // distinct; for repetition_penalty
  std::unordered_map<std::int32_t, std::uint32_t> times_;    // generated ids, how often
};

}  // namespace kvferry::model

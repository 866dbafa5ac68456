#include "model/choice_sampler.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace kvferry::model {

ChoiceSampler::ChoiceSampler(SamplingParams params, std::span<const std::int32_t> ids,
                             std::uint32_t prompt_tokens)
    : params_(std::move(params)), position_(prompt_tokens) {
  const bool repetition = params_.repetition_penalty != 1.0f;
  counts_ = repetition || params_.presence_penalty != 0.0f || params_.frequency_penalty != 0.0f;
  std::vector<std::int32_t> prompt;
  if (repetition) {
    prompt.assign(ids.begin(), ids.begin() + prompt_tokens);
    std::sort(prompt.begin(), prompt.end());
    prompt.erase(std::unique(prompt.begin(), prompt.end()), prompt.end());
  }
  prompt_ = std::make_shared<const std::vector<std::int32_t>>(std::move(prompt));
  for (const std::int32_t id : ids.subspan(prompt_tokens)) append(id);
}

ChoiceSampler ChoiceSampler::for_choice(std::uint32_t choice) const {
  ChoiceSampler other = *this;
  other.params_.choice = choice;
  return other;
}

void ChoiceSampler::append(std::int32_t id) {
  ++position_;
  ++generated_;
  if (counts_) ++times_[id];
}

bool ChoiceSampler::adjusts() const {
  return counts_ || !params_.logit_bias.empty() || generated_ < params_.min_tokens;
}

std::int32_t ChoiceSampler::choose(std::span<const float> logits,
                                   std::vector<float>& scratch) const {
  if (!adjusts()) return sample(logits, params_, position_);
  scratch.assign(logits.begin(), logits.end());
  adjust(scratch);
  return sample(scratch, params_, position_);
}

void ChoiceSampler::adjust(std::span<float> logits) const {
  const auto known = [&](std::int32_t id) {
    return id >= 0 && static_cast<std::size_t>(id) < logits.size();
  };
  if (generated_ < params_.min_tokens) {
    for (const std::int32_t id : params_.stop_ids) {
      if (known(id)) logits[id] = -std::numeric_limits<float>::infinity();
    }
  }
  for (const auto& [id, bias] : params_.logit_bias) {
    if (known(id)) logits[id] += bias;
  }
  const float repetition = params_.repetition_penalty;
  const auto repeat = [&](std::int32_t id) {
    logits[id] = logits[id] > 0 ? logits[id] / repetition : logits[id] * repetition;
  };
  for (const std::int32_t id : *prompt_) {
    if (known(id)) repeat(id);
  }
  for (const auto& [id, times] : times_) {
    if (!known(id)) continue;
    // Once for prompt and answer together.
    if (!std::binary_search(prompt_->begin(), prompt_->end(), id)) repeat(id);
    logits[id] -= params_.frequency_penalty * static_cast<float>(times);
    logits[id] -= params_.presence_penalty;
  }
}

}  // namespace kvferry::model

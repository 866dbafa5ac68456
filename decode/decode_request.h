// A request on a decode worker, and its choices: one prompt, and up to n answers that share the KV
// of its closed tiles.
// Internal to decode/. Thread contract: of each member, as said below.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "codec/codec_set.h"
#include "codec/pooled_sequence.h"
#include "control.pb.h"
#include "model/choice_sampler.h"
#include "model/model.h"
#include "transport/kv_transfer.h"

namespace kvferry::decode {

// The engine thread's, but for `sequence` until the request is handed to it.
struct Choice {
  explicit Choice(model::ChoiceSampler from) : sampler(std::move(from)) {}
  std::uint32_t index = 0;                          // among the n of the request
  std::unique_ptr<codec::PooledSequence> sequence;  // gone when the choice has ended
  model::ChoiceSampler sampler;
  std::int32_t last_id = 0;
  std::uint32_t generated = 0;
  bool ended = false;
};

struct DecodeRequest {
  // Set by make_request, then read by both threads.
  proto::Plan plan;  // without its ids
  std::vector<std::int32_t> ids;
  std::uint64_t owner = 0;
  transport::TransferIdentity identity;
  bool remote_prefill = false;
  std::uint64_t received_ns = 0;
  std::uint64_t deadline_ns = 0;
  std::atomic<bool> ended{false};

  // Reactor's.
  std::uint32_t holding = 0;  // choices that count in DecodeEngine::holding_
  bool receiving = false;     // the receiver knows it
  Timers::Id deadline = 0;

  // The reactor's until the request is handed to the engine thread, then that thread's.
  std::vector<Choice> choices;
  transport::TransferStats stats;
  std::uint64_t ready_ns = 0;  // the prompt's KV was complete
  std::uint64_t first_decode_ns = 0;

  std::uint32_t prompt() const { return identity.tokens; }
  codec::SequenceShape shape() const {
    return {prompt(), prompt() + plan.max_tokens(), plan.choices()};
  }
  // Where the prompt's KV is written; the other choices copy its open tile.
  codec::PooledSequence& prompt_sequence() const { return *choices.front().sequence; }
};

// What an order asks for, checked against the model and the codecs. kInvalidArgument says what is
// wrong with it.
Result<std::shared_ptr<DecodeRequest>> make_request(const proto::StartDecode& order,
                                                    const model::Model& model,
                                                    const codec::CodecSet& codecs);

}  // namespace kvferry::decode

// `kvferry generate`: the whole life of a request in this process.

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cstdio>

#include "cli/commands.h"
#include "cli/engine_setup.h"
#include "cli/in_process.h"
#include "codec/pooled_sequence.h"
#include "codec/wire_forms.h"
#include "text/detokenizer.h"
#include "text/stop_buffer.h"
#include "text/tokenizer.h"
#include "transport/transfer_config.h"

namespace kvferry::cli {
namespace {

namespace json = boost::json;

struct Generated {
  std::string text;
  std::vector<std::int32_t> ids;  // those that the text comes from
  std::string finish_reason;
};

// The text up to a stop string, and the ids up to the one that completed it.
Result<Generated> cut_at_stop(const InProcessCluster::Answer& answer,
                              const std::shared_ptr<const text::Tokenizer>& tokenizer,
                              const std::vector<std::string>& stops) {
  KVF_ASSIGN_OR_RETURN(text::StopBuffer buffer, text::StopBuffer::make(stops));
  text::Detokenizer detokenizer(tokenizer);
  Generated generated;
  generated.finish_reason = answer.choices.front().finish_reason;
  for (const std::int32_t id : answer.choices.front().ids()) {
    generated.ids.push_back(id);
    generated.text += buffer.feed(detokenizer.feed(id));
    if (buffer.hit() >= 0) {
      generated.finish_reason = "stop";
      return generated;
    }
  }
  generated.text += buffer.feed(detokenizer.finish());
  if (buffer.hit() < 0) generated.text += buffer.finish();
  return generated;
}

proto::Plan make_plan(const GenerateOptions& options, const std::vector<std::int32_t>& prompt,
                      const model::ModelConfig& config) {
  proto::Plan plan;
  plan.set_request_id(1);
  plan.set_transfer_id(1);
  plan.mutable_ids()->Add(prompt.begin(), prompt.end());
  plan.set_max_tokens(options.max_tokens);
  plan.mutable_stop_ids()->Add(config.eos_ids.begin(), config.eos_ids.end());
  plan.set_codec(options.codec);
  proto::Sampling& sampling = *plan.mutable_sampling();
  sampling.set_temperature(options.temperature);
  sampling.set_top_k(options.top_k);
  sampling.set_top_p(options.top_p);
  sampling.set_seed(options.seed);
  sampling.set_repetition_penalty(1);
  plan.set_prompt_tokens(static_cast<std::uint32_t>(prompt.size()));
  plan.set_choices(1);
  plan.set_deadline_ms(3'600'000);
  return plan;
}

json::object to_json(const Generated& generated, const std::vector<std::int32_t>& prompt,
                     const std::string& codec, const InProcessCluster::Answer& answer) {
  const proto::KvUsage& usage = answer.usage;
  return {{"text", generated.text},
          {"ids", json::value_from(generated.ids)},
          {"prompt_ids", json::value_from(prompt)},
          {"finish_reason", generated.finish_reason},
          {"codec", codec},
          {"kv", json::object{{"values", usage.values()},
                              {"raw_bytes", usage.raw_bytes()},
                              {"sent_bytes", usage.sent_bytes()},
                              {"bits_per_value", usage.bits_per_value()},
                              {"closed_bits_per_value", usage.closed_bits_per_value()}}},
          {"timings_ms", json::object{{"queue", usage.queue_ms()},
                                      {"prefill", usage.prefill_ms()},
                                      {"encode", usage.encode_ms()},
                                      {"transfer", usage.transfer_ms()},
                                      {"first_token", answer.ttft_ms},
                                      {"first_decode", usage.first_decode_ms()},
                                      {"total", answer.total_ms}}}};
}

Status generate(GenerateOptions options) {
  if (options.engine.model.starts_with("random:")) {
    return invalid_argument(
        "a random model has no tokenizer; use `kvferry logits` or `kvferry bench` with it");
  }
  if (options.prompt.empty() && options.prompt_file.empty()) {
    return invalid_argument("what is the prompt? Give --prompt TEXT or --prompt-file FILE");
  }
  KVF_ASSIGN_OR_RETURN(const codec::CodecSet codecs, codec::CodecSet::parse({options.codec}));
  if (!options.prompt_file.empty()) {
    KVF_ASSIGN_OR_RETURN(options.prompt, read_file(options.prompt_file));
  }
  KVF_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::load(options.engine.model));
  KVF_ASSIGN_OR_RETURN(const auto prompt, tokenizer->encode(options.prompt, tokenizer->add_bos()));
  KVF_ASSIGN_OR_RETURN(LoadedEngine engine, load_engine(options.engine));
  const model::ModelConfig& config = engine.model->config();
  if (prompt.empty()) return invalid_argument("the prompt is empty");
  if (prompt.size() >= config.context) {
    return invalid_argument(fmt::format("the prompt has {} tokens; the model's context is {}",
                                        prompt.size(), config.context));
  }
  options.max_tokens =
      std::min(options.max_tokens, config.context - static_cast<std::uint32_t>(prompt.size()));
  KVF_RETURN_IF_ERROR(codecs.codecs().front()->supports(config.kv_geometry()));
  options.codec = codecs.codecs().front()->spec();  // which names no files

  InProcessOptions in_process;
  const codec::Codec& codec = *codecs.codecs().front();
  const auto tokens = static_cast<std::uint32_t>(prompt.size());
  const std::size_t needed =
      codec::PooledSequence::bytes_needed(codec, config.kv_geometry(),
                                          {tokens, tokens + options.max_tokens}) +
      codec::WireForms::bytes_needed(codec, config.kv_geometry(), tokens);
  in_process.pool_bytes = transport::TransferConfig{}.staging_bytes() + needed;
  KVF_ASSIGN_OR_RETURN(const auto cluster,
                       InProcessCluster::start(*engine.model, codecs, in_process));
  KVF_ASSIGN_OR_RETURN(const auto answer, cluster->answer(make_plan(options, prompt, config)));
  KVF_ASSIGN_OR_RETURN(const Generated generated, cut_at_stop(answer, tokenizer, options.stop));
  if (options.json) {
    fmt::print("{}\n", json::serialize(
                           to_json(generated, prompt, codecs.codecs().front()->spec(), answer)));
  } else {
    fmt::print("{}\n", generated.text);
  }
  return ok_status();
}

}  // namespace

int run_generate(const GenerateOptions& options) {
  quiet_logs();
  return report("generate", generate(options));
}

}  // namespace kvferry::cli

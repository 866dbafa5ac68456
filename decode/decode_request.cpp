#include "decode/decode_request.h"

#include <string>

#include "cluster/messages.h"

namespace kvferry::decode {
namespace {

Status check_lengths(const proto::StartDecode& order, std::uint32_t context) {
  const proto::Plan& plan = order.plan();
  const auto prompt = static_cast<std::uint64_t>(plan.ids_size());
  const std::uint64_t generate = plan.max_tokens();
  if (prompt == 0 || prompt + generate > context) {
    return invalid_argument(
        "a prompt of " + std::to_string(prompt) + " and " + std::to_string(generate) +
        " tokens to generate do not fit a context of " + std::to_string(context));
  }
  if (order.remote_prefill() && (generate == 0 || plan.prompt_logprobs())) {
    return invalid_argument(
        "a prompt of which nothing is generated, or whose log-probabilities are asked for, is "
        "prefilled by its decode worker");
  }
  return ok_status();
}

}  // namespace

Result<std::shared_ptr<DecodeRequest>> make_request(const proto::StartDecode& order,
                                                    const model::Model& model,
                                                    const codec::CodecSet& codecs) {
  const model::ModelConfig& config = model.config();
  const proto::Plan& plan = order.plan();
  KVF_RETURN_IF_ERROR(check_lengths(order, config.context));
  KVF_RETURN_IF_ERROR(cluster::check_plan(plan, config.vocab));
  auto request = std::make_shared<DecodeRequest>();
  request->plan = plan;
  request->plan.clear_ids();
  request->ids.assign(plan.ids().begin(), plan.ids().end());
  transport::TransferIdentity& identity = request->identity;
  KVF_ASSIGN_OR_RETURN(identity.codec, codecs.find(plan.codec()));
  KVF_RETURN_IF_ERROR(identity.codec->supports(model.config().kv_geometry()));
  identity.request_id = plan.request_id();
  identity.transfer_id = plan.transfer_id();
  identity.model_fingerprint = model.fingerprint();
  identity.numerics_class = model.numerics_class();
  identity.tokens = static_cast<std::uint32_t>(request->ids.size());
  identity.geometry = config.kv_geometry();
  request->remote_prefill = order.remote_prefill();

  const model::ChoiceSampler first(cluster::sampling_params<model::SamplingParams>(plan),
                                   request->ids, plan.prompt_tokens());
  for (std::uint32_t i = 0; i < plan.choices(); ++i) {
    request->choices.emplace_back(first.for_choice(plan.first_choice() + i));
    request->choices.back().index = plan.first_choice() + i;
  }
  return request;
}

}  // namespace kvferry::decode

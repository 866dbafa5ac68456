// Configuration of a gateway. docs/operations.md is its reference.
// Thread contract: values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/yaml_config.h"
#include "cluster/control.h"
#include "cluster/http_server.h"
#include "gateway/request_manager.h"

namespace kvferry::gateway {

struct GatewayConfig {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;                // 0: any free one
  std::string model;                        // a Hugging Face directory
  std::string served_model_name;            // in the API; empty: the directory's
  std::string chat_template;                // as text::ChatTemplate::load takes it
  std::vector<cluster::Member> workers;     // of both kinds; they say which they are
  std::vector<std::string> codecs;          // that requests may choose; the first is the default
  std::uint32_t local_prefill_tokens = 64;  // shorter prompts are prefilled by their decode worker
  std::string policy = "least_loaded";
  std::string api_keys;  // a file (gateway/api_keys.h); empty: everybody may use the API
  std::uint32_t default_max_tokens = 512;
  std::uint64_t timeout_ns = 120 * kSecond;  // of a request, from its arrival
  // /readyz answers 503 with fewer workers up.
  std::uint32_t ready_prefill_workers = 0;
  std::uint32_t ready_decode_workers = 1;
  cluster::LivenessConfig liveness;
  RequestLimits requests;
  cluster::HttpLimits http;

  // Reads and checks; the caller calls reader.finish(), which has the errors.
  static GatewayConfig read(YamlReader& reader);
};

// A file, checked; errors name file, line and key.
Result<GatewayConfig> load_gateway_config(const std::string& file);

}  // namespace kvferry::gateway

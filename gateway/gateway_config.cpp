#include "gateway/gateway_config.h"

#include "codec/codec.h"
#include "codec/codec_set.h"
#include "scheduler/router.h"

namespace kvferry::gateway {
namespace {

constexpr std::uint32_t kMaxSeconds = 86400;

std::uint64_t seconds(YamlReader& reader, const char* key, std::uint64_t otherwise_ns) {
  const auto otherwise = static_cast<std::uint32_t>(otherwise_ns / kSecond);
  return reader.u32(key, otherwise, 1, kMaxSeconds) * kSecond;
}

void read_http(YamlReader reader, cluster::HttpLimits& limits) {
  limits.header_bytes =
      reader.u32("header_bytes", static_cast<std::uint32_t>(limits.header_bytes), 1024, 1 << 20);
  limits.body_bytes =
      reader.u32("body_bytes", static_cast<std::uint32_t>(limits.body_bytes), 1024, 64 << 20);
  limits.output_bytes =
      reader.u32("output_bytes", static_cast<std::uint32_t>(limits.output_bytes), 4096, 64 << 20);
  limits.connections =
      reader.u32("connections", static_cast<std::uint32_t>(limits.connections), 1, 1 << 20);
  limits.idle_ns = seconds(reader, "idle_s", limits.idle_ns);
  limits.read_ns = seconds(reader, "read_s", limits.read_ns);
  limits.write_ns = seconds(reader, "write_s", limits.write_ns);
}

void read_limits(YamlReader reader, RequestLimits& limits) {
  limits.admission.running = reader.u32("running", limits.admission.running, 1, 1 << 16);
  limits.admission.queued = reader.u32("queued", limits.admission.queued, 0, 1 << 20);
  limits.max_failures = reader.u32("failures", limits.max_failures, 1, 100);
  limits.max_attempts = reader.u32("attempts", limits.max_attempts, 1, 10000);
}

}  // namespace

GatewayConfig GatewayConfig::read(YamlReader& reader) {
  GatewayConfig config;
  config.host = reader.string("host", config.host);
  config.port = static_cast<std::uint16_t>(reader.u32("port", config.port, 0, 65535));
  config.model = reader.required_string("model");
  for (YamlReader& worker : reader.maps("workers")) {
    cluster::Member member;
    member.host = worker.required_string("host");
    if (!worker.has("control_port")) worker.refuse("control_port", "is missing");
    member.control_port = static_cast<std::uint16_t>(worker.u32("control_port", 1, 1, 65535));
    config.workers.push_back(std::move(member));
  }
  if (config.workers.empty()) {
    reader.refuse("workers", "must list at least one worker as {host, control_port}");
  }
  config.codecs = reader.strings("codecs", {std::string(codec::kDefaultSpec)});
  const auto codecs = codec::CodecSet::parse(config.codecs);
  if (!codecs.ok()) {
    reader.refuse("codecs", codecs.status().message());
  } else if (!codecs->missing_artifacts().empty()) {
    reader.refuse("codecs", "a gateway needs the files of its profiles: name the file, not " +
                                codecs->missing_artifacts().front());
  }
  config.local_prefill_tokens =
      reader.u32("local_prefill_tokens", config.local_prefill_tokens, 0, 1 << 24);
  config.policy = reader.string("policy", config.policy);
  const auto policy = scheduler::make_policy(config.policy);
  if (!policy.ok()) reader.refuse("policy", policy.status().message());
  config.api_keys = reader.string("api_keys", config.api_keys);
  config.served_model_name = reader.string("served_model_name", config.served_model_name);
  config.chat_template = reader.string("chat_template", config.chat_template);
  config.default_max_tokens =
      reader.u32("default_max_tokens", config.default_max_tokens, 1, 1 << 24);
  config.timeout_ns = seconds(reader, "timeout_s", config.timeout_ns);
  YamlReader ready = reader.map("ready");
  config.ready_prefill_workers =
      ready.u32("prefill_workers", config.ready_prefill_workers, 0, 1024);
  config.ready_decode_workers = ready.u32("decode_workers", config.ready_decode_workers, 1, 1024);
  YamlReader liveness = reader.map("liveness");
  config.liveness.beat_ns = liveness.u32("beat_ms", 1000, 10, 60000) * kMillisecond;
  config.liveness.missed_beats_dead = liveness.u32("missed_beats_dead", 3, 1, 100);
  read_limits(reader.map("limits"), config.requests);
  read_http(reader.map("http"), config.http);
  return config;
}

Result<GatewayConfig> load_gateway_config(const std::string& file) {
  KVF_ASSIGN_OR_RETURN(YamlReader reader, YamlReader::load(file));
  GatewayConfig config = GatewayConfig::read(reader);
  KVF_RETURN_IF_ERROR(reader.finish());
  return config;
}

}  // namespace kvferry::gateway

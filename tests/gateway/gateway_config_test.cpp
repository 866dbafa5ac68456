#include "gateway/gateway_config.h"

#include <gtest/gtest.h>

namespace kvferry::gateway {
namespace {

Result<GatewayConfig> parse(const std::string& yaml) {
  KVF_ASSIGN_OR_RETURN(YamlReader reader, YamlReader::parse(yaml, "gateway.yaml"));
  GatewayConfig config = GatewayConfig::read(reader);
  KVF_RETURN_IF_ERROR(reader.finish());
  return config;
}

constexpr const char* kLeast =
    "model: models/mini\nworkers:\n  - {host: 127.0.0.1, control_port: 9001}\n";

TEST(GatewayConfig, LittleIsNeeded) {
  const auto config = parse(kLeast);
  ASSERT_TRUE(config.ok()) << config.status().to_string();
  EXPECT_EQ(config->port, 8080);
  EXPECT_EQ(config->workers[0].control_port, 9001);
  EXPECT_EQ(config->codecs.size(), 1u);
  EXPECT_EQ(config->timeout_ns, 120 * kSecond);
}

TEST(GatewayConfig, EverythingCanBeSaid) {
  const auto config = parse(
      std::string(kLeast) +
      "host: 0.0.0.0\nport: 0\ncodecs: [raw, \"hack(k=2,v=2)\"]\nlocal_prefill_tokens: 10\n"
      "policy: round_robin\ndefault_max_tokens: 7\ntimeout_s: 5\napi_keys: keys.yaml\n"
      "ready: {prefill_workers: 1, decode_workers: 2}\n"
      "liveness: {beat_ms: 100, missed_beats_dead: 2}\n"
      "limits: {running: 3, queued: 4, failures: 5, attempts: 6}\n"
      "http: {header_bytes: 2048, body_bytes: 4096, output_bytes: 8192, connections: 9, idle_s: "
      "10, read_s: 11, write_s: 12}\n");
  ASSERT_TRUE(config.ok()) << config.status().to_string();
  EXPECT_EQ(config->host, "0.0.0.0");
  EXPECT_EQ(config->codecs.size(), 2u);
  EXPECT_EQ(config->api_keys, "keys.yaml");
  EXPECT_EQ(config->local_prefill_tokens, 10u);
  EXPECT_EQ(config->ready_decode_workers, 2u);
  EXPECT_EQ(config->liveness.beat_ns, 100 * kMillisecond);
  EXPECT_EQ(config->requests.admission.queued, 4u);
  EXPECT_EQ(config->requests.max_attempts, 6u);
  EXPECT_EQ(config->http.body_bytes, 4096u);
  EXPECT_EQ(config->http.write_ns, 12 * kSecond);
}

TEST(GatewayConfig, MistakesAreNamed) {
  const std::pair<std::string, std::string> cases[] = {
      {"model: m\n", "workers"},
      {"workers: [{host: a, control_port: 1}]\n", "model"},
      {std::string(kLeast) + "prot: 80\n", "prot"},
      {std::string(kLeast) + "port: 70000\n", "port"},
      {std::string(kLeast) + "codecs: [zip]\n", "codecs"},
      {std::string(kLeast) + "codecs: []\n", "codecs"},
      {std::string(kLeast) + "policy: best\n", "policy"},
      {"model: m\nworkers: [{host: a}]\n", "control_port"},
      {std::string(kLeast) + "http: {body_byte: 5000}\n", "body_byte"},
  };
  for (const auto& [yaml, key] : cases) {
    const auto config = parse(yaml);
    ASSERT_FALSE(config.ok()) << yaml;
    EXPECT_EQ(config.status().code(), Code::kInvalidArgument);
    EXPECT_NE(config.status().message().find(key), std::string::npos) << config.status().message();
  }
}

}  // namespace
}  // namespace kvferry::gateway

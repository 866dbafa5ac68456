#include "model/config.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/model/model_fixture.h"

namespace kvferry::model {
namespace {

namespace json = boost::json;

json::object good() {
  return json::parse(R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 256,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "intermediate_size": 768, "vocab_size": 1024, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
    "max_position_embeddings": 2048, "hidden_act": "silu", "tie_word_embeddings": true,
    "bos_token_id": 1, "eos_token_id": 0, "rope_scaling": null})")
      .get_object();
}

Result<ModelConfig> parse_with(std::string_view key, const json::value& value) {
  json::object object = good();
  object[key] = value;
  return parse_config(json::serialize(object), "m");
}

TEST(Config, ReadsTheBundledModel) {
  const auto config = load_config(mini_path());
  ASSERT_TRUE(config.ok()) << config.status().to_string();
  EXPECT_EQ(config->name, "mini");
  EXPECT_EQ(config->hidden, 256u);
  EXPECT_EQ(config->intermediate, 768u);
  EXPECT_EQ(config->layers, 4u);
  EXPECT_EQ(config->q_heads, 4u);
  EXPECT_EQ(config->kv_heads, 2u);
  EXPECT_EQ(config->head_dim, 64u);
  EXPECT_EQ(config->vocab, 1024u);
  EXPECT_EQ(config->context, 2048u);
  EXPECT_TRUE(config->tied_embeddings);
  EXPECT_EQ(config->bos_id, 1);
  EXPECT_EQ(config->eos_ids, (std::vector<std::int32_t>{0}));
}

TEST(Config, DefaultsAndLists) {
  json::object object = good();
  object.erase("head_dim");
  object.erase("num_key_value_heads");
  object["eos_token_id"] = json::array{3, 7};
  auto config = parse_config(json::serialize(object), "m");
  ASSERT_TRUE(config.ok()) << config.status().to_string();
  EXPECT_EQ(config->head_dim, 64u);
  EXPECT_EQ(config->kv_heads, 4u);
  EXPECT_EQ(config->eos_ids, (std::vector<std::int32_t>{3, 7}));
  ASSERT_TRUE(add_generation_config(R"({"eos_token_id": [7, 9]})", *config).ok());
  EXPECT_EQ(config->eos_ids, (std::vector<std::int32_t>{3, 7, 9}));
  EXPECT_FALSE(add_generation_config(R"({"eos_token_id": 5000})", *config).ok());
  EXPECT_FALSE(add_generation_config("[]", *config).ok());
}

struct Refusal {
  const char* key;
  const char* value;  // JSON
  Code code;
};

class Refused : public testing::TestWithParam<Refusal> {};

// The message names the key, so that the reader knows what to change.
TEST_P(Refused, ByName) {
  const auto& [key, value, code] = GetParam();
  const auto config = parse_with(key, json::parse(value));
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().code(), code) << config.status().to_string();
  EXPECT_NE(config.status().message().find(key), std::string::npos) << config.status().to_string();
}

INSTANTIATE_TEST_SUITE_P(
    All, Refused,
    testing::Values(Refusal{"architectures", R"(["Qwen2ForCausalLM"])", Code::kUnsupported},
                    Refusal{"architectures", R"("LlamaForCausalLM")", Code::kUnsupported},
                    Refusal{"rope_scaling", R"({"rope_type": "llama3", "factor": 8.0})",
                            Code::kUnsupported},
                    Refusal{"rope_parameters", R"({"rope_theta": 1e4})", Code::kUnsupported},
                    Refusal{"quantization_config", R"({"bits": 4})", Code::kUnsupported},
                    Refusal{"attention_bias", "true", Code::kUnsupported},
                    Refusal{"mlp_bias", "true", Code::kUnsupported},
                    Refusal{"mlp_bias", "1", Code::kInvalidArgument},
                    Refusal{"hidden_act", R"("gelu")", Code::kUnsupported},
                    Refusal{"head_dim", "72", Code::kUnsupported},
                    Refusal{"head_dim", "512", Code::kInvalidArgument},
                    Refusal{"hidden_size", "0", Code::kInvalidArgument},
                    Refusal{"hidden_size", "-256", Code::kInvalidArgument},
                    Refusal{"hidden_size", "4294967296", Code::kInvalidArgument},
                    Refusal{"hidden_size", "1e300", Code::kInvalidArgument},
                    Refusal{"hidden_size", R"("256")", Code::kInvalidArgument},
                    Refusal{"num_hidden_layers", "99999", Code::kInvalidArgument},
                    Refusal{"intermediate_size", "null", Code::kInvalidArgument},
                    Refusal{"num_key_value_heads", "3", Code::kInvalidArgument},
                    Refusal{"vocab_size", "9223372036854775807", Code::kInvalidArgument},
                    Refusal{"max_position_embeddings", "1.5", Code::kInvalidArgument},
                    Refusal{"rope_theta", "0", Code::kInvalidArgument},
                    Refusal{"rms_norm_eps", R"("x")", Code::kInvalidArgument},
                    Refusal{"tie_word_embeddings", R"("yes")", Code::kInvalidArgument},
                    Refusal{"eos_token_id", "1024", Code::kInvalidArgument},
                    Refusal{"eos_token_id", R"([0, "a"])", Code::kInvalidArgument},
                    Refusal{"bos_token_id", "-2", Code::kInvalidArgument}));

TEST(Config, NotJson) {
  for (const char* text : {"", "{", "[]", "null", "{\"architectures\""}) {
    EXPECT_EQ(parse_config(text, "m").status().code(), Code::kInvalidArgument) << text;
  }
  std::string deep(100000, '[');
  EXPECT_FALSE(parse_config(deep, "m").ok());
}

TEST(Config, MissingThingsSayWhatToDo) {
  const auto missing = load_config("/no/such/model");
  EXPECT_EQ(missing.status().code(), Code::kNotFound);
  EXPECT_NE(missing.status().message().find("random:NAME"), std::string::npos);
  const auto random = load_config("random:huge");
  EXPECT_EQ(random.status().code(), Code::kNotFound);
  EXPECT_NE(random.status().message().find("tiny"), std::string::npos);
  const auto shape = load_config("random:llama-3.1-8b-4layers");
  ASSERT_TRUE(shape.ok());
  EXPECT_EQ(shape->head_dim, 128u);
}

}  // namespace
}  // namespace kvferry::model

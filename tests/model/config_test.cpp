#include "model/config.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <string>

#include "model/rope.h"
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
    testing::Values(
        Refusal{"architectures", R"(["GemmaForCausalLM"])", Code::kUnsupported},
        Refusal{"architectures", R"(["MixtralForCausalLM"])", Code::kUnsupported},
        Refusal{"architectures", R"(["LlamaForCausalLM", "Q"])", Code::kUnsupported},
        Refusal{"architectures", R"([7])", Code::kUnsupported},
        Refusal{"num_local_experts", "8", Code::kUnsupported},
        Refusal{"num_experts", "64", Code::kUnsupported},
        Refusal{"architectures", R"("LlamaForCausalLM")", Code::kUnsupported},
        Refusal{"rope_scaling", R"({"rope_type": "yarn", "factor": 8.0})", Code::kUnsupported},
        Refusal{"rope_scaling", R"({"type": "dynamic", "factor": 8.0})", Code::kUnsupported},
        Refusal{"rope_scaling", R"({"mrope_section": [1], "rope_type": "mrope"})",
                Code::kUnsupported},
        Refusal{"rope_scaling", "2", Code::kInvalidArgument},
        Refusal{"rope_parameters", R"({"partial_rotary_factor": 0.5, "rope_theta": 1e4})",
                Code::kUnsupported},
        Refusal{"rope_parameters",
                R"({"full_attention": {"rope_theta": 1e4, "rope_type": "default"},
                                "sliding_attention": {"rope_theta": 1e6, "rope_type": "default"}})",
                Code::kUnsupported},
        Refusal{"layer_types", R"(["full_attention", "sliding_attention"])", Code::kUnsupported},
        Refusal{"layer_types", R"("full_attention")", Code::kInvalidArgument},
        Refusal{"quantization_config", R"({"bits": 4})", Code::kUnsupported},
        Refusal{"attention_bias", "1", Code::kInvalidArgument},
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

// The same model as transformers 4 and 5 write it.
TEST(Config, BothGenerationsOfRopeKeys) {
  const char* both[][2] = {
      {R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192})",
       R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192, "rope_theta": 500000.0})"},
      {R"({"type": "linear", "factor": 2})",
       R"({"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0})"},
      {"null", R"({"full_attention": {"rope_type": "default", "rope_theta": 500000}})"}};
  for (const auto& [four, five] : both) {
    json::object old_keys = good(), new_keys = good();
    old_keys["rope_theta"] = 500000.0;
    old_keys["rope_scaling"] = json::parse(four);
    new_keys.erase("rope_theta");
    new_keys["rope_parameters"] = json::parse(five);
    const auto old_config = parse_config(json::serialize(old_keys), "m");
    const auto new_config = parse_config(json::serialize(new_keys), "m");
    ASSERT_TRUE(old_config.ok()) << old_config.status().to_string();
    ASSERT_TRUE(new_config.ok()) << new_config.status().to_string();
    EXPECT_EQ(old_config->rope_theta, 500000.0f);
    EXPECT_EQ(rope_frequencies(*old_config), rope_frequencies(*new_config)) << four;
  }
}

// transformers takes one of them; which one was meant is not for us to guess.
TEST(Config, BothRopeKeysAtOnceAreRefused) {
  json::object object = good();
  object["rope_scaling"] = json::parse(R"({"type": "linear", "factor": 2})");
  object["rope_parameters"] = json::parse(R"({"rope_type": "default", "rope_theta": 500000})");
  const auto config = parse_config(json::serialize(object), "m");
  EXPECT_EQ(config.status().code(), Code::kUnsupported);
  EXPECT_NE(config.status().message().find("both rope_scaling and rope_parameters"),
            std::string::npos);
  object["rope_scaling"] = nullptr;
  EXPECT_TRUE(parse_config(json::serialize(object), "m").ok());
}

TEST(Config, RopeScalingThatLacksANumber) {
  for (const char* text : {R"({"rope_type": "linear"})", R"({"rope_type": "llama3", "factor": 8})",
                           R"({"rope_type": "linear", "factor": 0.5})",
                           R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                               "high_freq_factor": 4})"}) {
    const auto config = parse_with("rope_scaling", json::parse(text));
    ASSERT_FALSE(config.ok()) << text;
    EXPECT_EQ(config.status().code(), Code::kInvalidArgument);
    EXPECT_NE(config.status().message().find("factor"), std::string::npos);
  }
}

// A window is refused where a layer would see less than the context.
TEST(Config, SlidingWindows) {
  const auto code = [](const char* architecture, const char* more) {
    json::object object = good();  // context 2,048, 4 layers
    object["architectures"] = json::array{architecture};
    const json::value added = json::parse(more);
    for (const auto& [key, value] : added.get_object()) object[key] = value;
    const auto config = parse_config(json::serialize(object), "m");
    if (config.ok()) return Code::kOk;
    EXPECT_NE(config.status().message().find("sliding"), std::string::npos);
    return config.status().code();
  };
  EXPECT_EQ(code("MistralForCausalLM", R"({"sliding_window": null})"), Code::kOk);
  EXPECT_EQ(code("MistralForCausalLM", R"({"sliding_window": 2048})"), Code::kOk);
  // Not said at all: 4,096.
  EXPECT_EQ(code("MistralForCausalLM", R"({})"), Code::kOk);
  EXPECT_EQ(code("MistralForCausalLM", R"({"max_position_embeddings": 32768})"),
            Code::kUnsupported);
  EXPECT_EQ(code("MistralForCausalLM", R"({"sliding_window": 2047})"), Code::kUnsupported);
  EXPECT_EQ(code("Qwen2ForCausalLM", R"({"sliding_window": 64, "use_sliding_window": false})"),
            Code::kOk);
  EXPECT_EQ(code("Qwen2ForCausalLM", R"({"sliding_window": 64, "use_sliding_window": true,
                                         "max_window_layers": 4})"),
            Code::kOk);
  EXPECT_EQ(code("Qwen2ForCausalLM", R"({"sliding_window": 64, "use_sliding_window": true,
                                         "max_window_layers": 3})"),
            Code::kUnsupported);
  EXPECT_EQ(code("Qwen3ForCausalLM", R"({"sliding_window": 64, "use_sliding_window": true,
                 "layer_types": ["full_attention", "full_attention"]})"),
            Code::kOk);
  EXPECT_EQ(code("Qwen3ForCausalLM", R"({"sliding_window": 64, "use_sliding_window": true,
                 "layer_types": ["sliding_attention", "full_attention"]})"),
            Code::kUnsupported);
  EXPECT_EQ(code("Qwen3ForCausalLM", R"({"layer_types": ["sliding_attention"]})"),
            Code::kUnsupported);
}

TEST(Config, WhatTransformersAssumes) {
  const auto with = [](const char* architecture) {
    json::object object = good();
    object["architectures"] = json::array{architecture};
    object.erase("head_dim");
    return object;
  };
  const auto qwen3 = parse_config(json::serialize(with("Qwen3ForCausalLM")), "m");
  ASSERT_TRUE(qwen3.ok()) << qwen3.status().to_string();
  EXPECT_EQ(qwen3->head_dim, 128u);
  EXPECT_EQ(parse_config(json::serialize(with("Qwen2ForCausalLM")), "m")->head_dim, 64u);
  json::object no_kv_heads = with("MistralForCausalLM");
  no_kv_heads.erase("num_key_value_heads");
  EXPECT_FALSE(parse_config(json::serialize(no_kv_heads), "m").ok());
}

TEST(Config, KeysThatComeTwice) {
  const auto twice = parse_config(R"({"hidden_size": 1, "a": {"b": 1}, "hidden_size": 2})", "m");
  EXPECT_EQ(twice.status().code(), Code::kInvalidArgument);
  EXPECT_NE(twice.status().message().find("\"hidden_size\" comes twice"), std::string::npos);
  const auto nested = parse_config(R"({"a": [{"b": 1, "\u0062": 2}]})", "m");
  EXPECT_NE(nested.status().message().find("\"b\" comes twice"), std::string::npos);
  // The same key in two objects is none.
  const auto apart = parse_config(R"({"a": {"b": 1}, "c": {"b": 1}, "b": 1})", "m");
  EXPECT_EQ(apart.status().message().find("twice"), std::string::npos);
}

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

// Checkpoints of several files: read as one, and refused where the index and the files disagree.
// Also the tensors that a whole checkpoint lacks, or has too many of.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "model/checkpoint.h"
#include "tests/model/model_fixture.h"

namespace kvferry::model {
namespace {

namespace fs = std::filesystem;

class ShardedTest : public testing::Test {
 protected:
  ShardedTest() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    directory_ = fs::path(testing::TempDir()) / (std::string("kvferry_shards_") + info->name());
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  ~ShardedTest() override { fs::remove_all(directory_); }

  void write(const std::string& name, const std::string& bytes) {
    std::ofstream(directory_ / name, std::ios::binary) << bytes;
  }
  // A file of U8 tensors of one byte each.
  static std::string shard(const std::vector<std::string>& tensors) {
    std::string header = "{";
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      header += std::string(i > 0 ? "," : "") + "\"" + tensors[i] +
                "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[" + std::to_string(i) + "," +
                std::to_string(i + 1) + "]}";
    }
    header += "}";
    const std::uint64_t n = header.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &n, 8);
    return bytes + header + std::string(tensors.size(), 'x');
  }
  void write_index(const std::string& weight_map) {
    write("model.safetensors.index.json",
          R"({"metadata": {"total_size": 3}, "weight_map": )" + weight_map + "}");
  }
  void expect_refused(Code code, const std::string& in_message) {
    const auto opened = Checkpoint::open(directory_);
    ASSERT_FALSE(opened.ok()) << in_message;
    EXPECT_EQ(opened.status().code(), code) << opened.status().to_string();
    EXPECT_NE(opened.status().message().find(in_message), std::string::npos)
        << opened.status().to_string();
  }

  fs::path directory_;
};

TEST_F(ShardedTest, AgreesOrIsRefused) {
  write("a.safetensors", shard({"x", "y"}));
  write("b.safetensors", shard({"z"}));
  write_index(R"({"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"})");
  auto opened = Checkpoint::open(directory_);
  ASSERT_TRUE(opened.ok()) << opened.status().to_string();
  EXPECT_EQ((*opened)->names(), (std::vector<std::string>{"x", "y", "z"}));

  write_index(R"({"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"})");
  expect_refused(Code::kInvalidArgument, "'y' is in b.safetensors, but it is in a.safetensors");
  write_index(R"({"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors",
                  "w": "b.safetensors"})");
  expect_refused(Code::kInvalidArgument, "'w' is in b.safetensors, but it is in none");
  write_index(R"({"x": "a.safetensors", "z": "b.safetensors"})");
  expect_refused(Code::kInvalidArgument, "a.safetensors has tensor 'y'");
  write_index(R"({"x": "a.safetensors", "y": "a.safetensors", "z": "c.safetensors"})");
  expect_refused(Code::kNotFound, "names c.safetensors, which is not there");
  write("c.safetensors", shard({"z", "x"}));
  expect_refused(Code::kInvalidArgument, "'x' is in a.safetensors and in c.safetensors");
  write("c.safetensors", "short");
  expect_refused(Code::kInvalidArgument, "c.safetensors");
}

TEST_F(ShardedTest, IndexThatIsNone) {
  for (const char* map : {"{}", "[]", "7", "null"}) {
    write_index(map);
    expect_refused(Code::kInvalidArgument, "weight_map");
  }
  write("model.safetensors.index.json", "{\"weight_map\": {\"x\": ");
  expect_refused(Code::kInvalidArgument, "JSON");
  write_index(R"({"x": "a.safetensors", "x": "b.safetensors"})");
  expect_refused(Code::kInvalidArgument, "\"x\" comes twice");
}

// Nothing outside the directory is opened, and an index is no shard of itself.
TEST_F(ShardedTest, FileNamesThatLeadAway) {
  write("a.safetensors", shard({"x"}));
  for (const char* name :
       {"../a.safetensors", "/etc/a.safetensors", "./a.safetensors", "..", "d/../a.safetensors", "",
        "a\\u0000.safetensors", ".safetensors", "model.safetensors.index.json", "a.bin"}) {
    write_index(std::string("{\"x\": \"") + name + "\"}");
    expect_refused(Code::kInvalidArgument, "'x' is said to be in");
  }
  write_index(R"({"x": 7})");
  expect_refused(Code::kInvalidArgument, "'x' is said to be in");
  fs::create_symlink("loop.safetensors", directory_ / "loop.safetensors");
  write_index(R"({"x": "loop.safetensors"})");
  expect_refused(Code::kNotFound, "loop.safetensors");
}

// What the tests below change about a checkpoint's header, in place and of equal length.
void rename_tensor(const fs::path& file, const std::string& from, const std::string& to) {
  std::ifstream in(file, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  in.close();
  const auto at = bytes.find("\"" + from + "\"");
  ASSERT_NE(at, std::string::npos) << from;
  ASSERT_EQ(from.size(), to.size());
  bytes.replace(at + 1, to.size(), to);
  std::ofstream(file, std::ios::binary) << bytes;
}

class WholeCheckpoint : public ShardedTest {
 protected:
  void copy(const std::string& name) {
    const fs::path from = source_path("tests/golden/checkpoints/" + name);
    for (const char* file : {"config.json", "generation_config.json", "model.safetensors"}) {
      fs::copy(from / file, directory_ / file, fs::copy_options::overwrite_existing);
    }
  }
  Status load() {
    ComputePool pool(1);
    LoadOptions options;
    options.compute = Compute::kF32;
    options.pool = &pool;
    return load_model(directory_.string(), options).status();
  }
  void edit_config(const std::string& from, const std::string& to) {
    std::ifstream in(directory_ / "config.json");
    std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    in.close();
    ASSERT_NE(text.find(from), std::string::npos);
    text.replace(text.find(from), from.size(), to);
    std::ofstream(directory_ / "config.json") << text;
  }
  void expect_load(Code code, const std::string& in_message) {
    const Status status = load();
    EXPECT_EQ(status.code(), code) << status.to_string();
    EXPECT_NE(status.message().find(in_message), std::string::npos) << status.to_string();
  }
};

TEST_F(WholeCheckpoint, TensorsThatAreMissing) {
  copy("qwen2");
  EXPECT_TRUE(load().ok());
  rename_tensor(directory_ / "model.safetensors", "model.layers.1.self_attn.k_proj.bias",
                "model.layers.1.self_attn.k_proj.bios");
  expect_load(Code::kNotFound, "'model.layers.1.self_attn.k_proj.bias' is missing");
  copy("qwen3");
  rename_tensor(directory_ / "model.safetensors", "model.layers.0.self_attn.q_norm.weight",
                "model.layers.0.self_attn.q_nurm.weight");
  expect_load(Code::kNotFound, "'model.layers.0.self_attn.q_norm.weight' is missing");
}

// More layers or biases than the config says: the two do not belong together.
TEST_F(WholeCheckpoint, TensorsOfNoUse) {
  copy("qwen2");
  edit_config("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
  expect_load(Code::kInvalidArgument, "'model.layers.1.");
  copy("qwen2");
  edit_config("Qwen2ForCausalLM", "LlamaForCausalLM");
  expect_load(Code::kInvalidArgument, "_proj.bias' is in the checkpoint, but");
  copy("qwen3");
  edit_config("Qwen3ForCausalLM", "LlamaForCausalLM");
  expect_load(Code::kInvalidArgument, "_norm.weight' is in the checkpoint, but");
}

// What old checkpoints carry and nobody needs.
TEST_F(WholeCheckpoint, TensorsOfNoHarm) {
  copy("llama2");
  edit_config("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
  EXPECT_TRUE(load().ok());
  const fs::path file = directory_ / "model.safetensors";
  std::ifstream in(file, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  in.close();
  const std::string extra =
      "\"model.layers.0.self_attn.rotary_emb.inv_freq\":{\"dtype\":\"F32\",\"shape\":[0],"
      "\"data_offsets\":[0,0]},";
  bytes.insert(9, extra);
  std::uint64_t n;
  std::memcpy(&n, bytes.data(), 8);
  n += extra.size();
  std::memcpy(bytes.data(), &n, 8);
  std::ofstream(file, std::ios::binary) << bytes;
  EXPECT_TRUE(load().ok());
}

}  // namespace
}  // namespace kvferry::model

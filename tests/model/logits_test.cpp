#include "model/logits.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "tests/model/model_fixture.h"

namespace kvferry::model {
namespace {

namespace fs = std::filesystem;

class LogitsTest : public testing::Test {
 protected:
  LogitsTest() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    directory_ = fs::path(testing::TempDir()) / (std::string("kvferry_logits_") + info->name());
    fs::create_directories(directory_);
  }
  ~LogitsTest() override { fs::remove_all(directory_); }

  static std::string read(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }
  fs::path directory_;
};

TEST_F(LogitsTest, EverySplitGivesTheSameFile) {
  LogitsCommand command;
  command.model = mini_path();
  command.ids = test_ids(150, 1024);
  command.out = directory_ / "whole.npy";
  command.codec = "hadamard | hack(k=4,v=2)";
  command.threads = 2;
  ASSERT_TRUE(run_logits(command).ok());
  const std::string whole = read(command.out);
  for (std::uint32_t prefill : {0u, 1u, 64u, 100u, 149u, 1000u}) {
    command.out = directory_ / "split.npy";
    command.prefill = prefill;
    ASSERT_TRUE(run_logits(command).ok());
    EXPECT_TRUE(read(command.out) == whole) << "prefill " << prefill;
  }
  command.codec = "";  // exact KV answers otherwise
  ASSERT_TRUE(run_logits(command).ok());
  EXPECT_FALSE(read(command.out) == whole);
}

TEST_F(LogitsTest, NpyIsWhatNumpyReads) {
  const fs::path path = directory_ / "t.npy";
  ASSERT_TRUE(write_npy({{1, 2, 3, 4, 5, 6}, 2, 3}, path).ok());
  const std::string raw = read(path);
  ASSERT_EQ(raw.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  const std::size_t header =
      static_cast<unsigned char>(raw[8]) + 256u * static_cast<unsigned char>(raw[9]);
  EXPECT_EQ((10 + header) % 64, 0u);
  EXPECT_EQ(raw[10 + header - 1], '\n');
  EXPECT_NE(raw.find("'shape': (2, 3), }"), std::string::npos);
  ASSERT_EQ(raw.size(), 10 + header + 6 * sizeof(float));
  float last;
  std::memcpy(&last, raw.data() + raw.size() - 4, 4);
  EXPECT_EQ(last, 6.0f);
  EXPECT_EQ(write_npy({{1}, 1, 1}, directory_ / "no" / "t.npy").code(), Code::kUnavailable);
}

TEST_F(LogitsTest, Ids) {
  using Ids = std::vector<std::int32_t>;
  EXPECT_EQ(*parse_ids("1,2,3"), (Ids{1, 2, 3}));
  EXPECT_EQ(*parse_ids(" 7 , 8 "), (Ids{7, 8}));
  for (const char* bad : {"", ",", "1,", "1 2", "a", "-1", "1.5", "99999999999"}) {
    EXPECT_EQ(parse_ids(bad).status().code(), Code::kInvalidArgument) << bad;
  }
  const auto file = [&](const std::string& text) {
    std::ofstream(directory_ / "ids.json") << text;
    return read_ids_file(directory_ / "ids.json");
  };
  EXPECT_EQ(*file("[1, 2]"), (Ids{1, 2}));
  EXPECT_EQ(*file(R"({"ids": [5]})"), (Ids{5}));
  for (const char* bad : {"", "{}", "3", "[1.5]", "[-1]", "[\"1\"]", "[4294967296]", "[1"}) {
    EXPECT_EQ(file(bad).status().code(), Code::kInvalidArgument) << bad;
  }
  EXPECT_EQ(read_ids_file(directory_ / "none.json").status().code(), Code::kNotFound);
}

TEST_F(LogitsTest, BadInputIsAnError) {
  LoadedModel model("random:tiny", Compute::kF32, 1);
  const std::vector<std::int32_t> none, outside{512}, longer(5000, 1), one{1};
  EXPECT_EQ(compute_logits(*model.model, none, "", 0).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(compute_logits(*model.model, outside, "", 1).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(compute_logits(*model.model, longer, "", 1).status().code(), Code::kInvalidArgument);
  EXPECT_FALSE(compute_logits(*model.model, one, "nonsense(1)", 1).ok());
}

// A weight that is not a number reaches K: encoding the tile says so, and no logits come out.
TEST_F(LogitsTest, NanInKvIsAnError) {
  fs::copy(mini_path(), directory_, fs::copy_options::recursive);
  const fs::path checkpoint = directory_ / "model.safetensors";
  std::string raw = read(checkpoint);
  std::uint64_t header;
  std::memcpy(&header, raw.data(), 8);
  const std::string name = "\"model.layers.1.self_attn.k_proj.weight\"";
  const std::size_t offsets = raw.find("data_offsets", raw.find(name));
  const std::size_t begin = std::stoul(raw.substr(raw.find('[', offsets) + 1, 20));
  const std::uint16_t nan = 0x7fc0;
  std::memcpy(raw.data() + 8 + header + begin, &nan, 2);
  std::ofstream(checkpoint, std::ios::binary | std::ios::trunc) << raw;

  LoadedModel model(directory_.string(), Compute::kF32, 2);
  const auto ids = test_ids(64, model->config().vocab);
  for (const char* spec : {"", "raw", "hack(k=2,v=2)"}) {
    const auto table = compute_logits(*model.model, ids, spec, 64);
    EXPECT_EQ(table.status().code(), Code::kInvalidArgument) << spec;
    EXPECT_NE(table.status().message().find("layer 1"), std::string::npos)
        << table.status().to_string();
  }
}

}  // namespace
}  // namespace kvferry::model

// A checkpoint that lies is refused with the tensor's name, before anything of it is used.
#include "model/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/model/model_fixture.h"

namespace kvferry::model {
namespace {

namespace fs = std::filesystem;

class SafetensorsTest : public testing::Test {
 protected:
  SafetensorsTest() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    directory_ = fs::path(testing::TempDir()) / (std::string("kvferry_st_") + info->name());
    fs::create_directories(directory_);
  }
  ~SafetensorsTest() override { fs::remove_all(directory_); }

  Result<std::unique_ptr<Safetensors>> open_bytes(const std::string& bytes) {
    const fs::path path = directory_ / "model.safetensors";
    std::ofstream(path, std::ios::binary) << bytes;
    return Safetensors::open(path);
  }
  // A file of this header and so many data bytes 0, 1, 2, ...
  static std::string file(const std::string& header, std::size_t data_bytes) {
    const std::uint64_t n = header.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &n, 8);
    bytes += header;
    for (std::size_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i);
    return bytes;
  }
  void expect_refused(const std::string& bytes, const std::string& in_message) {
    const auto opened = open_bytes(bytes);
    ASSERT_FALSE(opened.ok()) << in_message;
    EXPECT_EQ(opened.status().code(), Code::kInvalidArgument) << opened.status().to_string();
    EXPECT_NE(opened.status().message().find(in_message), std::string::npos)
        << opened.status().to_string();
  }
  static std::string entry(const std::string& name, const std::string& dtype,
                           const std::string& shape, const std::string& offsets) {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
           ",\"data_offsets\":" + offsets + "}";
  }

  fs::path directory_;
};

TEST_F(SafetensorsTest, ReadsEveryWeightType) {
  // 1, -2, 0.5 and the least subnormal in F16; the same less the last in BF16; F32.
  const std::string header =
      "{\"__metadata__\":{\"format\":\"pt\"}," + entry("h", "F16", "[2,2]", "[0,8]") + "," +
      entry("b", "BF16", "[3]", "[8,14]") + "," + entry("f", "F32", "[1,1]", "[14,18]") + "}";
  std::string bytes = file(header, 0);
  const std::uint16_t half[] = {0x3c00, 0xc000, 0x3800, 0x0001, 0x3f80, 0xc000, 0x3f00};
  const float one_and_a_bit = 1.0f + 0x1p-8f;  // a tie in bf16: goes to even, 1
  bytes.append(reinterpret_cast<const char*>(half), sizeof(half));
  bytes.append(reinterpret_cast<const char*>(&one_and_a_bit), 4);
  const auto opened = open_bytes(bytes);
  ASSERT_TRUE(opened.ok()) << opened.status().to_string();
  const Safetensors& tensors = **opened;

  float h[4];
  const auto h_ref = tensors.find("h", 2, 2);
  ASSERT_TRUE(h_ref.ok());
  tensors.read_rows(*h_ref, 0, 2, Compute::kF32, reinterpret_cast<std::byte*>(h));
  EXPECT_EQ(h[0], 1.0f);
  EXPECT_EQ(h[1], -2.0f);
  EXPECT_EQ(h[2], 0.5f);
  EXPECT_EQ(h[3], 0x1p-24f);
  tensors.read_rows(*h_ref, 1, 1, Compute::kF32, reinterpret_cast<std::byte*>(h));
  EXPECT_EQ(h[0], 0.5f);

  float b[3];
  const auto b_ref = tensors.find("b", 0, 3);
  ASSERT_TRUE(b_ref.ok());
  tensors.read_rows(*b_ref, 0, 1, Compute::kF32, reinterpret_cast<std::byte*>(b));
  EXPECT_EQ(b[0], 1.0f);
  EXPECT_EQ(b[1], -2.0f);
  EXPECT_EQ(b[2], 0.5f);

  std::uint16_t f = 0;
  const auto f_ref = tensors.find("f", 1, 1);
  ASSERT_TRUE(f_ref.ok());
  tensors.read_rows(*f_ref, 0, 1, Compute::kBf16, reinterpret_cast<std::byte*>(&f));
  EXPECT_EQ(f, 0x3f80);
}

TEST_F(SafetensorsTest, LiesAboutTheHeader) {
  expect_refused("1234", "under 8 bytes");
  expect_refused(std::string(8, '\xff') + "{}", "bytes long");
  expect_refused(std::string("\x00\xe1\xf5\x05\x01\x00\x00\x00", 8) + "{}", "bytes long");
  expect_refused(std::string("\x10\x00\x00\x00\x00\x00\x00\x00", 8) + "{}", "bytes long");
  expect_refused(file("[1]", 0), "JSON");
  expect_refused(file("{\"a\":", 0), "JSON");
  expect_refused(file("{}", 0), "no tensors");
  expect_refused(file("{\"a\":1}", 0), "'a'");
  const std::string one = entry("w", "U8", "[8]", "[0,8]");
  EXPECT_TRUE(open_bytes(file("{" + one + "}", 8)).ok());
  expect_refused(file("{" + one + "," + one + "}", 8), "\"w\" comes twice");
  for (const char* metadata : {"7", "[]", "{\"a\":{\"a\":1}}", "{\"a\":null}"}) {
    expect_refused(file("{\"__metadata__\":" + std::string(metadata) + "," + one + "}", 8),
                   "__metadata__");
  }
  expect_refused(file("{" + std::string(1000, '[') + "}", 8), "JSON");
  expect_refused(file("{\"a\":{\"dtype\":\"F32\"}}", 0), "'a'");
}

TEST_F(SafetensorsTest, LiesAboutATensor) {
  const auto one = [&](const std::string& dtype, const std::string& shape,
                       const std::string& offsets) {
    return file("{" + entry("w", dtype, shape, offsets) + "}", 16);
  };
  EXPECT_TRUE(open_bytes(one("F32", "[4]", "[0,16]")).ok());
  expect_refused(one("F32", "[4]", "[0,32]"), "'w': its data_offsets lie outside");
  expect_refused(one("F32", "[4]", "[16,0]"), "'w': its data_offsets lie outside");
  expect_refused(one("F32", "[4]", "[-16,0]"), "'w': its data_offsets lie outside");
  expect_refused(one("F32", "[4]", "[0,18446744073709551615]"), "'w'");
  expect_refused(one("F32", "[4]", "[0,16,0]"), "'w'");
  expect_refused(one("F32", "[5]", "[0,16]"), "shape and dtype need 20");
  expect_refused(one("BF16", "[4]", "[0,16]"), "shape and dtype need 8");
  expect_refused(one("F32", "[4294967296,4294967296]", "[0,16]"), "overflows");
  expect_refused(one("F32", "[18446744073709551615]", "[0,16]"), "overflows");
  expect_refused(one("F32", "[-4]", "[0,16]"), "whole numbers");
  expect_refused(one("F32", "[4.0]", "[0,16]"), "whole numbers");
  expect_refused(one("F32", "[1,1,1,1,1,1,1,1,4]", "[0,16]"), "dimensions");
  expect_refused(one("Q4", "[4]", "[0,16]"), "unknown dtype Q4");
  expect_refused(one("F32", "[2]", "[0,8]"), "behind the last tensor");
}

TEST_F(SafetensorsTest, OverlapsAndHoles) {
  const auto two = [&](const std::string& first, const std::string& second) {
    return file("{" + entry("a", "U8", "[8]", first) + "," + entry("b", "U8", "[8]", second) + "}",
                24);
  };
  expect_refused(two("[0,8]", "[4,12]"), "'b': its data overlaps");
  expect_refused(two("[4,12]", "[4,12]"), "comes behind bytes of no tensor");
  expect_refused(two("[0,8]", "[16,24]"), "'b': its data comes behind bytes of no tensor");
}

TEST_F(SafetensorsTest, WrongShapeOrTypeForItsUse) {
  const auto opened = open_bytes(file(
      "{" + entry("w", "F32", "[2,2]", "[0,16]") + "," + entry("i", "I64", "[2]", "[16,32]") + "}",
      32));
  ASSERT_TRUE(opened.ok()) << opened.status().to_string();
  EXPECT_EQ((*opened)->find("x", 2, 2).status().code(), Code::kNotFound);
  const auto shape = (*opened)->find("w", 2, 3).status();
  EXPECT_EQ(shape.code(), Code::kInvalidArgument);
  EXPECT_NE(shape.message().find("[2, 2]"), std::string::npos);
  EXPECT_NE(shape.message().find("[2, 3]"), std::string::npos);
  EXPECT_EQ((*opened)->find("w", 0, 4).status().code(), Code::kInvalidArgument);
  EXPECT_EQ((*opened)->find("i", 0, 2).status().code(), Code::kUnsupported);
}

// The bundled checkpoint, damaged: load_model refuses it and names the file or the tensor.
TEST_F(SafetensorsTest, ModelsThatAreDamaged) {
  ComputePool pool(1);
  LoadOptions options;
  options.compute = Compute::kF32;
  options.pool = &pool;
  const fs::path checkpoint = directory_ / "model.safetensors";
  fs::copy(fs::path(mini_path()) / "config.json", directory_ / "config.json");

  auto missing = load_model(directory_.string(), options);
  EXPECT_EQ(missing.status().code(), Code::kNotFound);
  EXPECT_NE(missing.status().message().find("model.safetensors"), std::string::npos);

  fs::copy(fs::path(mini_path()) / "model.safetensors", checkpoint);
  EXPECT_TRUE(load_model(directory_.string(), options).ok());
  fs::resize_file(checkpoint, fs::file_size(checkpoint) - 1);
  EXPECT_EQ(load_model(directory_.string(), options).status().code(), Code::kInvalidArgument);
  fs::resize_file(checkpoint, 1000);
  EXPECT_EQ(load_model(directory_.string(), options).status().code(), Code::kInvalidArgument);
  fs::resize_file(checkpoint, 0);
  EXPECT_EQ(load_model(directory_.string(), options).status().code(), Code::kInvalidArgument);

  // A config that asks for other shapes than the checkpoint has.
  fs::remove(checkpoint);
  fs::copy(fs::path(mini_path()) / "model.safetensors", checkpoint);
  std::ifstream in(directory_ / "config.json");
  std::string config{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  config.replace(config.find("768"), 3, "800");
  std::ofstream(directory_ / "config.json") << config;
  const auto other = load_model(directory_.string(), options).status();
  EXPECT_EQ(other.code(), Code::kInvalidArgument);
  EXPECT_NE(other.message().find("mlp.gate_proj"), std::string::npos) << other.to_string();
}

}  // namespace
}  // namespace kvferry::model

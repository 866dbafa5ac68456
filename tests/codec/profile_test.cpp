// profile(...): a storage for each layer, named by the digest of a file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "bench/kv_data.h"
#include "codec/artifacts.h"
#include "codec/codec_set.h"
#include "codec/describe.h"

namespace kvferry::codec {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr KvGeometry kGeometry{4, 2, 4, 64};
constexpr const char* kContent =
    "default: hack(k=2,v=2)\n0: raw\n1-2: hack(k=4, v=2)\n3: {nbits_key: 8, nbits_value: 4}\n";

// A file that is gone with the object.
class File {
 public:
  explicit File(const std::string& content) {
    std::string pattern = (std::filesystem::temp_directory_path() / "kvferry-XXXXXX").string();
    const int fd = mkstemp(pattern.data());
    EXPECT_GE(fd, 0);
    close(fd);
    path_ = pattern;
    std::ofstream(path_) << content;
  }
  ~File() { std::filesystem::remove(path_); }
  std::string spec() const { return "profile(" + path_ + ")"; }

 private:
  std::string path_;
};

std::string why_not(const std::string& content) {
  const auto codec = make_codec(File(content).spec());
  return codec.ok() ? "" : codec.status().message();
}

TEST(Profile, IsNamedByItsContent) {
  const File file(kContent), twin(kContent), other(std::string(kContent) + "\n");
  const auto codec = make_codec(file.spec());
  ASSERT_TRUE(codec.ok()) << codec.status().to_string();
  EXPECT_EQ((*codec)->spec(), "profile(" + artifact_digest(kContent) + ")");
  EXPECT_EQ((*make_codec(twin.spec()))->id(), (*codec)->id());
  EXPECT_NE((*make_codec(other.spec()))->id(), (*codec)->id());
  const auto by_digest = make_codec((*codec)->spec());
  ASSERT_TRUE(by_digest.ok());
  EXPECT_EQ((*by_digest)->missing_artifact(), "");
  EXPECT_TRUE((*by_digest)->supports(kGeometry).ok());
  EXPECT_TRUE((*by_digest)->traits().removes_bias);
  EXPECT_FALSE((*by_digest)->traits().lossless);
}

TEST(Profile, EveryLayerIsThatOfItsSpec) {
  const char* specs[] = {"raw", "hack(k=4,v=2)", "hack(k=4,v=2)", "hack(k=8,v=4)"};
  const auto codec = *make_codec(File(kContent).spec());
  for (std::uint32_t layer = 0; layer < kGeometry.layers; ++layer) {
    const auto alone = *make_codec(specs[layer]);
    const std::size_t bytes = alone->segment_bytes(kGeometry, layer, 1, kGridTokens);
    ASSERT_EQ(codec->segment_bytes(kGeometry, layer, 1, kGridTokens), bytes);
    auto k = bench::make_values(bench::Kind::kGaussian, 1, 2 * kGridTokens, kGeometry.head_dim);
    auto v = bench::make_values(bench::Kind::kGaussian, 2, 2 * kGridTokens, kGeometry.head_dim);
    const OpenTile tile{reinterpret_cast<std::byte*>(k.data()),
                        reinterpret_cast<std::byte*>(v.data())};
    std::vector<std::byte> mine(bytes), other(bytes);
    ASSERT_TRUE(codec->encode(kGeometry, layer, 1, kGridTokens, tile, mine).ok());
    ASSERT_TRUE(alone->encode(kGeometry, layer, 1, kGridTokens, tile, other).ok());
    // All but the headers, which name the codec.
    EXPECT_TRUE(std::equal(mine.begin() + 64, mine.end(), other.begin() + 64)) << layer;
    EXPECT_TRUE(codec->validate(kGeometry, layer, 1, kGridTokens, mine).ok()) << layer;
    EXPECT_FALSE(codec->validate(kGeometry, (layer + 1) % 4, 1, kGridTokens, mine).ok());
  }
  const BlockLayout layout(*codec, kGeometry);
  EXPECT_EQ(layout.bytes(0, 1), 64 + 2 * 4 * 64 * 64u);
  EXPECT_EQ(layout.start(3, 1), layout.bytes(0, 1) + 2 * layout.bytes(1, 1));
}

TEST(Profile, WhatItCosts) {
  const auto described =
      describe_codec(File("default: hack(k=4,v=4)\n0: raw\n").spec(), kGeometry, {2048});
  ASSERT_TRUE(described.ok()) << described.status().to_string();
  EXPECT_DOUBLE_EQ(described->points[0].closed_bits_per_value, (16 + 3 * 4.5) / 4);
}

TEST(Profile, WrongFiles) {
  EXPECT_THAT(why_not("0: hack(k=9,v=2)\n"), HasSubstr("character 8"));
  EXPECT_THAT(why_not("0: hack(k=9,v=2)\n"), HasSubstr("1"));
  EXPECT_THAT(why_not("first: raw\n"), HasSubstr("a range such as 3-7"));
  EXPECT_THAT(why_not("7-3: raw\n"), HasSubstr("a range such as 3-7"));
  EXPECT_THAT(why_not("0-9999: raw\n"), HasSubstr("from 0 to 4095"));
  EXPECT_THAT(why_not("0-3: raw\n2: hack\n"), HasSubstr("layer 2 once more"));
  // One error for one mistake: no spec is made of what is missing or wrong.
  const auto alone = [](const char* error) {
    return AllOf(HasSubstr(error), Not(HasSubstr("; ")), Not(HasSubstr("codec spec")));
  };
  EXPECT_THAT(why_not("0: {nbits_key: 4}\n"), alone("0: needs nbits_key and nbits_value"));
  EXPECT_THAT(why_not("0: {nbits_key: 9, nbits_value: 2}\n"), alone("nbits_key"));
  EXPECT_THAT(why_not("0: [raw]\n"), alone("0"));
  EXPECT_THAT(why_not("0: hadamard | hack\n"), HasSubstr("is not one storage stage"));
  EXPECT_THAT(why_not("0: profile(" + artifact_digest("") + ")\n"),
              HasSubstr("is not one storage stage"));
  EXPECT_THAT(why_not("0: profile(/etc/passwd)\n"), HasSubstr("only an operator's"));
  for (const char* adapter : {"mean | ", "dequantize | "}) {
    const std::string nested = "profile(" + artifact_digest("no such file") + ")";
    EXPECT_THAT(why_not("0: " + std::string(adapter) + nested + "\n"),
                HasSubstr("is not one storage stage"));
  }
  EXPECT_THAT(why_not("default:\n"), HasSubstr("default"));
  EXPECT_THAT(why_not("{}\n"), HasSubstr("names \"default\" or layers"));
  EXPECT_THAT(why_not(""), HasSubstr("cannot be read or is empty"));
  EXPECT_THAT(make_codec("profile(/nowhere)").status().message(), HasSubstr("character 9"));
  EXPECT_THAT(make_codec("profile").status().message(), HasSubstr("profile(FILE)"));
  EXPECT_THAT(make_codec("profile(a=b)").status().message(), HasSubstr("profile(FILE)"));
}

TEST(Profile, LayersOfAnotherModel) {
  const auto supports = [](const char* content) {
    return (*make_codec(File(content).spec()))->supports(kGeometry).message();
  };
  EXPECT_EQ(supports("0-3: raw\n"), "");
  EXPECT_THAT(supports("0-2: raw\n"), HasSubstr("nothing of layer 3"));
  EXPECT_THAT(supports("0-4: raw\n"), HasSubstr("names layer 4, the model has 4"));
}

// A client names what is allowed by its digest; a file is the operator's to name.
TEST(Profile, ClientsNameNoFiles) {
  const File file("0-3: hack(k=3,v=3)\n");
  const auto set = CodecSet::parse({"raw", file.spec()});
  ASSERT_TRUE(set.ok());
  EXPECT_TRUE(set->find(set->specs()[1]).ok());
  EXPECT_THAT(set->find(file.spec()).status().message(), HasSubstr("character 9"));
  EXPECT_THAT(set->find("profile(/etc/passwd)").status().message(), HasSubstr("operator"));
}

// A worker that was told the digest alone.
TEST(Profile, WaitsForItsFile) {
  const std::string content = "default: hack(k=5,v=1)\n";
  const std::string spec = "profile(" + artifact_digest(content) + ")";
  const auto set = CodecSet::parse({"raw", spec});
  ASSERT_TRUE(set.ok()) << set.status().to_string();
  EXPECT_EQ(set->specs()[1], spec);
  EXPECT_THAT(set->missing_artifacts(), ::testing::ElementsAre(artifact_digest(content)));
  EXPECT_EQ(set->codecs()[1]->supports(kGeometry).code(), Code::kUnavailable);
  EXPECT_THAT(set->codecs()[1]->supports(kGeometry).message(), HasSubstr("character 9: the arte"));
  EXPECT_EQ(set->find(spec).status().code(), Code::kUnavailable);
  ASSERT_TRUE(add_artifact(content).ok());
  EXPECT_TRUE(set->missing_artifacts().empty());
  const auto codec = set->find(spec);
  ASSERT_TRUE(codec.ok());
  EXPECT_TRUE((*codec)->supports(kGeometry).ok());
  EXPECT_EQ((*codec)->id(), set->codecs()[1]->id());
}

// Names with blanks and quotes stand between quotes.
TEST(Profile, FilesOfAnyName) {
  const std::string path =
      (std::filesystem::temp_directory_path() / "kvferry, \"my\" \\ profile)").string();
  std::ofstream(path) << kContent;
  std::string quoted;
  for (const char c : path)
    quoted += c == '"' || c == '\\' ? std::string("\\") + c : std::string(1, c);
  const auto codec = make_codec("hadamard | profile( \"" + quoted + "\" ) | rans");
  ASSERT_TRUE(codec.ok()) << codec.status().to_string();
  EXPECT_EQ((*codec)->spec(), "hadamard | profile(" + artifact_digest(kContent) + ") | rans");
  std::filesystem::remove(path);
}

TEST(Artifacts, Limits) {
  EXPECT_EQ(add_artifact(std::string(kMaxArtifactBytes + 1, 'x')).status().code(),
            Code::kInvalidArgument);
  EXPECT_TRUE(is_artifact_digest(artifact_digest("x")));
  EXPECT_FALSE(is_artifact_digest(artifact_digest("x") + "0"));
  EXPECT_FALSE(is_artifact_digest("sha256-0123456789ABCDEF0123456789ABCDEF"));
  EXPECT_EQ(find_artifact(artifact_digest("not here")), nullptr);
}

}  // namespace
}  // namespace kvferry::codec

// docs/wire-format.md against the code: the header's table and the worked example.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "tests/transport/transfer_world.h"
#include "transport/bodies.h"

namespace kvferry::transport::testing {
namespace {

using Row = std::vector<std::string>;

// Rows of the document's tables, cells trimmed.
std::vector<Row> table_rows() {
  const char* root = std::getenv("KVFERRY_SOURCE_DIR");
  std::ifstream in(std::string(root != nullptr ? root : ".") + "/docs/wire-format.md");
  std::vector<Row> rows;
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with('|')) continue;
    Row row;
    std::istringstream cells(line.substr(1));
    for (std::string cell; std::getline(cells, cell, '|');) {
      const std::size_t first = cell.find_first_not_of(' ');
      const std::size_t last = cell.find_last_not_of(' ');
      row.push_back(first == std::string::npos ? "" : cell.substr(first, last - first + 1));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

TEST(WireFormatDocument, HeaderTableIsTheStruct) {
  const std::map<std::string, std::pair<std::size_t, std::size_t>> fields = {
#define FIELD(name)                                                   \
  {                                                                   \
#name, { offsetof(FrameHeader, name), sizeof(FrameHeader::name) } \
  }
      FIELD(magic),
      FIELD(version),
      FIELD(type),
      FIELD(header_crc),
      FIELD(payload_crc),
      FIELD(sender_epoch),
      FIELD(request_id),
      FIELD(transfer_id),
      FIELD(codec_id),
      FIELD(model_fingerprint),
      FIELD(layout_fingerprint),
      FIELD(numerics_class),
      FIELD(layer),
      FIELD(first_tile),
      FIELD(tile_count),
      FIELD(first_token),
      FIELD(token_count),
      FIELD(payload_bytes),
      FIELD(sequence),
      FIELD(credits),
      FIELD(code),
      FIELD(attempt),
      FIELD(reserved)
#undef FIELD
  };
  std::size_t found = 0, covered = 0;
  for (const Row& row : table_rows()) {
    if (row.size() < 4 || !fields.contains(row[2]) || std::isdigit(row[0][0]) == 0) continue;
    ++found;
    EXPECT_EQ(std::stoul(row[0]), fields.at(row[2]).first) << row[2];
    EXPECT_EQ(std::stoul(row[1]), fields.at(row[2]).second) << row[2];
    covered += fields.at(row[2]).second;
  }
  EXPECT_EQ(found, fields.size());
  EXPECT_EQ(covered, sizeof(FrameHeader));
}

TEST(WireFormatDocument, TypesAreTheEnum) {
  std::size_t found = 0;
  for (const Row& row : table_rows()) {
    if (row.size() < 4 || row[0].empty() || std::isdigit(row[0][0]) == 0) continue;
    if (row[1].empty() || std::isupper(row[1][0]) == 0) continue;
    std::string name(frame_type_name(static_cast<FrameType>(std::stoi(row[0]))));
    for (char& c : name) c = static_cast<char>(std::toupper(c));
    EXPECT_TRUE(row[1].starts_with(name)) << row[1];
    ++found;
  }
  EXPECT_EQ(found, 12u) << "PROBE and PROBE_ACK share a row";
}

TEST(WireFormatDocument, ExampleIsWhatHappens) {
  World world;
  TestTransfer t = world.make(1, 100, 2, std::make_shared<FakeCodec>("raw", 2));
  world.run(t);
  std::vector<std::pair<std::string, std::string>> documented, happened;
  for (const Row& row : table_rows()) {
    if (row.size() != 7 || (row[1] != "P" && row[1] != "D")) continue;
    documented.emplace_back(row[0].substr(0, row[0].find_first_of(" ,")), row[6]);
  }
  for (const WireFrame& frame : world.policy.sent) {
    std::string name(frame_type_name(frame.header.type));
    for (char& c : name) c = static_cast<char>(std::toupper(c));
    happened.emplace_back(name, std::to_string(sizeof(FrameHeader) + frame.payload.size()));
  }
  const auto release = happened.back();
  happened.pop_back();
  happened.emplace_back(release.first, "128");  // RELEASE ok says nothing
  EXPECT_EQ(release.second, "128");
  EXPECT_EQ(documented, happened);
  EXPECT_EQ(t.stats.wire_bytes, 1831u);
  EXPECT_EQ(t.stats.payload_bytes, 704u);
}

// Geometries that differ in anything do not go together, in what is left out of KV neither.
TEST(LayoutFingerprint, DependsOnEveryFieldOfTheGeometry) {
  const FakeCodec codec;
  const codec::KvGeometry geometry{4, 2, 8, 64};
  std::set<std::uint64_t> seen{layout_fingerprint(geometry, codec)};
  for (const codec::KvGeometry other :
       {codec::KvGeometry{5, 2, 8, 64}, codec::KvGeometry{4, 4, 8, 64},
        codec::KvGeometry{4, 2, 4, 64}, codec::KvGeometry{4, 2, 8, 128},
        codec::KvGeometry{4, 2, 8, 64, 1}, codec::KvGeometry{4, 2, 8, 64, 2}}) {
    EXPECT_TRUE(seen.insert(layout_fingerprint(other, codec)).second);
  }
}

TEST(Bodies, RoundTripAndLimits) {
  WantBody want{100, 64, {2, 4, 8, 128, 77}, "hadamard | hack(k=4,v=2)"};
  const auto wanted = decode_want(encode_want(want));
  ASSERT_TRUE(wanted.ok());
  EXPECT_EQ(wanted->spec, want.spec);
  EXPECT_EQ(wanted->geometry, want.geometry);
  want.spec.assign(kMaxSpecBytes + 1, 'x');
  EXPECT_FALSE(decode_want(encode_want(want)).ok());

  CommitBody commit;
  commit.first_tokens.choices.assign(kMaxChoices, {7, -1.5f});
  commit.first_tokens.top.assign(kMaxTopTokens, {8, -2.5f});
  const auto committed = decode_commit(encode_commit(commit));
  ASSERT_TRUE(committed.ok());
  EXPECT_EQ(committed->first_tokens.choices.size(), kMaxChoices);
  EXPECT_EQ(committed->first_tokens.choices.back().id, 7);
  EXPECT_EQ(committed->first_tokens.top.size(), kMaxTopTokens);
  EXPECT_EQ(committed->first_tokens.top.front().logprob, -2.5f);
  commit.first_tokens.top.emplace_back();
  EXPECT_FALSE(decode_commit(encode_commit(commit)).ok());
  commit.first_tokens.top.clear();
  commit.first_tokens.choices.emplace_back();
  EXPECT_FALSE(decode_commit(encode_commit(commit)).ok());
  commit.first_tokens.choices.assign(1, {-1, 0});
  EXPECT_FALSE(decode_commit(encode_commit(commit)).ok()) << "no such token";
  commit.first_tokens.choices.clear();
  EXPECT_FALSE(decode_commit(encode_commit(commit)).ok()) << "nothing to answer with";

  EXPECT_TRUE(decode_beat(encode_beat(std::vector<std::uint64_t>(kMaxBeatTransfers))).ok());
  EXPECT_FALSE(decode_beat(encode_beat(std::vector<std::uint64_t>(kMaxBeatTransfers + 1))).ok());
  EXPECT_EQ(encode_reason(std::string(5000, 'x')).size(), kMaxReasonBytes);
  EXPECT_EQ(decode_reason(encode_reason("a\nb\x01")), "a?b?");
}

}  // namespace
}  // namespace kvferry::transport::testing

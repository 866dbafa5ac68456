// What the tests of the model share: loading, ids, and running a sequence in pieces.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/compute_pool.h"
#include "codec/codec.h"
#include "codec/sequence_kv.h"
#include "model/model.h"

namespace kvferry::model {

inline std::string source_path(const std::string& path) {
  const char* root = std::getenv("KVFERRY_SOURCE_DIR");
  return (root != nullptr ? std::string(root) + "/" : "") + path;
}

inline std::string mini_path() { return source_path("models/mini"); }

// A model with a pool of its own.
struct LoadedModel {
  std::unique_ptr<ComputePool> pool;
  std::unique_ptr<Model> model;

  LoadedModel(const std::string& name, Compute compute, int threads)
      : pool(std::make_unique<ComputePool>(threads)) {
    LoadOptions options;
    options.compute = compute;
    options.pool = pool.get();
    auto loaded = load_model(name, options);
    if (!loaded.ok()) {
      ADD_FAILURE() << loaded.status().to_string();
      std::abort();
    }
    model = std::move(*loaded);
  }
  Model* operator->() const { return model.get(); }
};

// "" is the exact codec.
inline std::shared_ptr<const codec::Codec> codec_of(const std::string& spec) {
  if (spec.empty()) return codec::make_exact_codec();
  auto codec = codec::make_codec(spec);
  if (!codec.ok()) {
    ADD_FAILURE() << codec.status().to_string();
    std::abort();
  }
  return *codec;
}

// BOS, then a fixed scatter over the vocabulary. The same ids as in golden/make_golden.py.
inline std::vector<std::int32_t> test_ids(std::size_t count, std::uint32_t vocab,
                                          std::uint32_t salt = 0) {
  std::vector<std::int32_t> ids(count);
  for (std::size_t i = 0; i < count; ++i) {
    ids[i] = static_cast<std::int32_t>((i * 7919 + 13 + salt) % vocab);
  }
  if (!ids.empty()) ids[0] = 1;
  return ids;
}

// Everything a sequence leaves behind.
struct Answer {
  std::vector<float> logits;  // [tokens][vocab]
  std::vector<std::byte> kv;  // closed blocks in order, then the open tile
};

inline std::vector<std::byte> kv_bytes(const codec::SequenceKv& kv) {
  std::vector<std::byte> bytes;
  for (std::uint32_t tile = 0; tile < kv.closed_tiles(); ++tile) {
    const std::size_t n = kv.layout.block_bytes(tile);
    bytes.insert(bytes.end(), kv.blocks[tile], kv.blocks[tile] + n);
  }
  if (kv.open_tokens() != 0) {
    const std::size_t n = codec::SequenceKv::open_bytes(*kv.codec, kv.geometry);
    bytes.insert(bytes.end(), kv.open, kv.open + n);
  }
  return bytes;
}

// Runs the ids in chunks of the given sizes, the last repeated until the end.
inline Answer run_chunked(Model& model, std::shared_ptr<const codec::Codec> codec,
                          const std::vector<std::int32_t>& ids,
                          const std::vector<std::size_t>& chunks) {
  codec::OwnedSequenceKv owned(std::move(codec), model.config().kv_geometry(),
                               static_cast<std::uint32_t>(ids.size()) + codec::kMaxTileTokens);
  Answer answer;
  std::vector<float> logits;
  for (std::size_t done = 0, i = 0; done < ids.size(); ++i) {
    const std::size_t n = std::min(chunks[std::min(i, chunks.size() - 1)], ids.size() - done);
    const SequenceChunk chunk{&owned.kv(), std::span(ids).subspan(done, n),
                              SequenceChunk::Logits::kAll};
    const Status status = model.forward(std::span(&chunk, 1), logits);
    EXPECT_TRUE(status.ok()) << status.to_string();
    if (!status.ok()) return answer;
    answer.logits.insert(answer.logits.end(), logits.begin(), logits.end());
    done += n;
  }
  answer.kv = kv_bytes(owned.kv());
  return answer;
}

// Bitwise; names the first row that differs.
inline void expect_same(const Answer& want, const Answer& got, std::uint32_t vocab,
                        const std::string& what) {
  ASSERT_EQ(want.logits.size(), got.logits.size()) << what;
  for (std::size_t i = 0; i < want.logits.size(); ++i) {
    const bool same = std::memcmp(&want.logits[i], &got.logits[i], sizeof(float)) == 0;
    ASSERT_TRUE(same) << what << ": token " << i / vocab << ", logit " << i % vocab << ": "
                      << want.logits[i] << " against " << got.logits[i];
  }
  EXPECT_EQ(want.kv.size(), got.kv.size()) << what;
  EXPECT_TRUE(want.kv == got.kv) << what << ": KV bytes differ";
}

}  // namespace kvferry::model

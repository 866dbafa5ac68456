// The reference that other programs' attention is held to.
#include "bench/attention_peer.h"

#include <gtest/gtest.h>

#include <cmath>

namespace kvferry::bench {
namespace {

// Two tokens, two KV heads of one channel each with two query heads.
TEST(AttentionPeer, ExactOutputIsSoftmaxOverEachHeadsTokens) {
  PeerTensors tensors;
  tensors.tokens = 2;
  tensors.kv_heads = 2;
  tensors.head_dim = 1;
  tensors.group = 2;
  tensors.queries = 1;
  tensors.k = {0.0f, 1.0f, 2.0f, 2.0f};
  tensors.v = {0.0f, 1.0f, 4.0f, 8.0f};
  const float ln3 = std::log(3.0f);
  tensors.q = {0.0f, ln3, 5.0f, -5.0f};
  const std::vector<double> output = exact_output(tensors);
  ASSERT_EQ(output.size(), 4u);
  EXPECT_NEAR(output[0], 0.5, 1e-7);
  EXPECT_NEAR(output[1], 0.75, 1e-7);  // 3 / (1 + 3)
  EXPECT_NEAR(output[2], 6.0, 1e-7);
  EXPECT_NEAR(output[3], 6.0, 1e-7);
}

TEST(AttentionPeer, ThereAreNoneWithoutTheirLibrary) {
  if (kAttentionPeers) return;
  EXPECT_EQ(attention_peers({}).status().code(), Code::kUnsupported);
}

}  // namespace
}  // namespace kvferry::bench

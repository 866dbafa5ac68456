#include "base/checkpoint_name.h"

#include <gtest/gtest.h>

namespace kvferry {
namespace {

TEST(CheckpointName, IsTheDirectorysHoweverItIsWritten) {
  for (const char* path : {"/a/mini", "/a/mini/", "/a/mini/.", "/a/b/../mini//", "a/mini"}) {
    EXPECT_EQ(checkpoint_name(path), "mini") << path;
  }
  const std::string here = std::filesystem::current_path().filename();
  EXPECT_EQ(checkpoint_name("."), here);
  EXPECT_EQ(checkpoint_name("./"), here);
}

TEST(CheckpointName, OfAHuggingFaceCacheIsTheRepositorys) {
  const std::string cache = "/root/.cache/huggingface/hub/";
  EXPECT_EQ(checkpoint_name(cache + "models--Qwen--Qwen3-0.6B/snapshots/c1899de2/"),
            "Qwen/Qwen3-0.6B");
  EXPECT_EQ(checkpoint_name(cache + "models--gpt2/snapshots/607a30d7"), "gpt2");
  EXPECT_EQ(checkpoint_name("/data/snapshots/monday"), "monday");
}

}  // namespace
}  // namespace kvferry

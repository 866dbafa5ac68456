// The rules on this tree.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/lint/tree_lint.h"

namespace kvferry::lint {
namespace {

const Tree& this_tree() {
  static const Tree tree = [] {
    const char* root = std::getenv("KVFERRY_SOURCE_DIR");
    return root == nullptr ? Tree() : load_tree(root);
  }();
  return tree;
}

void expect_clean(const Findings& findings) {
  for (const std::string& finding : findings) ADD_FAILURE() << finding;
}

TEST(TreeLint, TreeIsFound) {
  ASSERT_FALSE(this_tree().empty()) << "set KVFERRY_SOURCE_DIR to the root of the tree";
  EXPECT_GT(this_tree().size(), 50u);
}
TEST(TreeLint, RoomsIncludeOnlyRoomsBelow) { expect_clean(check_room_includes(this_tree())); }
TEST(TreeLint, RoomsLinkOnlyRoomsBelow) { expect_clean(check_room_links(this_tree())); }
TEST(TreeLint, HeadersHaveContracts) { expect_clean(check_header_contracts(this_tree())); }
TEST(TreeLint, RoomsHaveUmbrellas) { expect_clean(check_umbrellas(this_tree())); }
TEST(TreeLint, SourcesIncludeTheirOwnHeaderFirst) {
  expect_clean(check_own_header_first(this_tree()));
}
TEST(TreeLint, NoUnfinishedWork) { expect_clean(check_unfinished(this_tree())); }
TEST(TreeLint, Layout) { expect_clean(check_layout(this_tree())); }
TEST(TreeLint, NoBannedCalls) { expect_clean(check_banned_calls(this_tree())); }
TEST(TreeLint, EverySourceIsBuilt) { expect_clean(check_sources_built(this_tree())); }
TEST(TreeLint, MetricsAreDocumented) { expect_clean(check_metrics(this_tree())); }
TEST(TreeLint, LinksResolve) { expect_clean(check_links(this_tree())); }

}  // namespace
}  // namespace kvferry::lint

// The rules that the tree keeps, as functions over its files: which room includes which, headers
// with contracts, no unfinished work, every source built, every metric documented. lint_test.cpp
// runs them on this tree, lint_rules_test.cpp on small made-up ones that break them.
//
// Each check returns what is wrong, one line a finding ("path:line: why and what to do"); empty
// means clean. Thread contract: pure functions over a Tree; load_tree reads files.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace kvferry::lint {

struct File {
  std::string path;                // from the root, with '/'
  std::vector<std::string> lines;  // without line ends
};

using Tree = std::vector<File>;
using Findings = std::vector<std::string>;

// All text files of the rooms and folders that belong to kvferry, sorted by path: the folders that
// the root CMakeLists.txt adds, tests, cmake, deploy, docs, scripts, .ci, and the root's own files.
// Build folders, models and whatever else lies about are not looked at.
Tree load_tree(const std::filesystem::path& root);

// A room includes only rooms below it, by the table of docs/ARCHITECTURE.md; CMake links likewise;
// every include of a file of the tree is written from the root and names a file that exists.
// (Tests may also name a helper beside them.)
Findings check_room_includes(const Tree& tree);
Findings check_room_links(const Tree& tree);

// Every header starts with a comment that says what it is for, has #pragma once, and where it
// declares classes says which threads may use them.
Findings check_header_contracts(const Tree& tree);

// Every room has a README.md and an umbrella header (<room>/<room>.h, or <room>/all.h where that is
// a contract of its own) that includes each header other rooms use.
Findings check_umbrellas(const Tree& tree);

// x.cpp includes its own x.h before anything else, which proves that x.h stands alone.
Findings check_own_header_first(const Tree& tree);

// No marks of work left for later, no tests that are switched off. A test may skip itself only for
// an instruction set that the machine lacks, saying so.
Findings check_unfinished(const Tree& tree);

// Lines of code up to 100 columns, no tabs, no trailing spaces; files of code up to 700 lines.
Findings check_layout(const Tree& tree);

// Calls with a better replacement, and sleeping in tests.
Findings check_banned_calls(const Tree& tree);

// Every .cpp is named in the CMakeLists.txt of its folder or of one above it.
Findings check_sources_built(const Tree& tree);

// Metric names in string literals of the rooms, in the table of docs/metrics.md and in deploy/ are
// the same set: nothing undocumented, nothing documented or alerted on that does not exist.
Findings check_metrics(const Tree& tree);

// Relative links of Markdown files name files that exist.
Findings check_links(const Tree& tree);

}  // namespace kvferry::lint

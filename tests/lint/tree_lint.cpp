#include "tests/lint/tree_lint.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string_view>

namespace kvferry::lint {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxColumns = 100;
constexpr std::size_t kMaxFileLines = 700;

// docs/ARCHITECTURE.md, "Rooms". A room may always include itself. Tests may include everything.
const std::map<std::string, std::set<std::string>>& room_table() {
  static const std::set<std::string> workers = {"base",  "proto",     "codec",
                                                "model", "transport", "cluster"};
  static const std::map<std::string, std::set<std::string>> table = [] {
    std::map<std::string, std::set<std::string>> rooms = {
        {"base", {}},
        {"kernels", {}},
        {"proto", {}},
        {"text", {"base"}},
        {"codec", {"kernels", "base"}},
        {"model", {"kernels", "codec", "base"}},
        {"transport", {"codec", "base"}},
        {"scheduler", {"codec", "base"}},
        {"cluster", {"proto", "base"}},
        {"prefill", workers},
        {"decode", workers},
        {"gateway", {"base", "proto", "text", "codec", "scheduler", "cluster"}},
        {"bench", {"base", "kernels", "text", "codec", "model"}},
    };
    std::set<std::string> all;
    for (const auto& [room, below] : rooms) all.insert(room);
    rooms["cli"] = all;
    return rooms;
  }();
  return table;
}

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}
bool ends_with(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

std::string top_folder(const std::string& path) {
  const std::size_t slash = path.find('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash);
}
std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash);
}
std::string name_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

bool is_header(const File& file) { return ends_with(file.path, ".h"); }
bool is_source(const File& file) { return ends_with(file.path, ".cpp"); }
bool is_cxx(const File& file) { return is_header(file) || is_source(file); }
bool is_code(const File& file) {
  return is_cxx(file) || ends_with(file.path, ".cu") || ends_with(file.path, ".cuh") ||
         ends_with(file.path, ".proto") || ends_with(file.path, ".cmake") ||
         ends_with(file.path, ".sh") || name_of(file.path) == "CMakeLists.txt" ||
         file.path == ".ci/run";
}
bool in_room(const File& file) { return room_table().count(top_folder(file.path)) != 0; }
// The lint names what it forbids.
bool is_lint(const File& file) { return starts_with(file.path, "tests/lint/"); }

std::string at(const File& file, std::size_t line, const std::string& why) {
  return file.path + ":" + std::to_string(line + 1) + ": " + why;
}

const File* find(const Tree& tree, const std::string& path) {
  for (const File& file : tree) {
    if (file.path == path) return &file;
  }
  return nullptr;
}

std::string joined(const File& file) {
  std::string text;
  for (const std::string& line : file.lines) text += line + "\n";
  return text;
}

// The line without its // comment. A // inside a string literal is left alone.
std::string without_comment(const std::string& line) {
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (quoted && line[i] == '\\') {
      ++i;
    } else if (line[i] == '"') {
      quoted = !quoted;
    } else if (!quoted && line[i] == '/' && i + 1 < line.size() && line[i + 1] == '/') {
      return line.substr(0, i);
    }
  }
  return line;
}

// "room/file.h" of an #include "..." line, or empty.
std::string quoted_include(const std::string& line) {
  static const std::regex pattern(R"re(^\s*#\s*include\s*"([^"]+)")re");
  std::smatch match;
  return std::regex_search(line, match, pattern) ? match[1].str() : std::string();
}

// The path of an include that is written relative to the file's own folder.
std::string beside(const File& file, const std::string& include) {
  return folder_of(file.path) + "/" + include;
}

bool generated(const std::string& include) { return ends_with(include, ".pb.h"); }

// The room that an include belongs to. Generated headers are proto/'s, wherever the build puts
// them.
std::string room_of_include(const std::string& include) {
  return generated(include) ? "proto" : top_folder(include);
}

File read_file(const fs::path& root, const fs::path& path) {
  File file{fs::relative(path, root).generic_string(), {}};
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) file.lines.push_back(line);
  return file;
}

bool is_text(const fs::path& path) {
  static const std::set<std::string> extensions = {
      ".h",  ".cpp",  ".cu",  ".cuh",  ".proto", ".cmake", ".txt",  ".md",  ".sh",
      ".py", ".yaml", ".yml", ".json", ".supp",  ".toml",  ".html", ".svg", ""};
  return extensions.count(path.extension().string()) != 0;
}

// Words of "DEPENDS a b c" up to the next keyword or ')'.
std::vector<std::string> cmake_depends(const std::string& text) {
  static const std::regex pattern(R"(kvferry_room\([^)]*?\bDEPENDS\b([a-z \t\n]*))");
  static const std::regex word(R"([a-z]+)");
  std::vector<std::string> depends;
  std::smatch match;
  if (!std::regex_search(text, match, pattern)) return depends;
  const std::string list = match[1].str();
  for (std::sregex_iterator it(list.begin(), list.end(), word), end; it != end; ++it) {
    depends.push_back(it->str());
  }
  return depends;
}

std::size_t columns(const std::string& line) {  // code points of UTF-8
  return static_cast<std::size_t>(std::count_if(line.begin(), line.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

using NameLines = std::map<std::string, std::string>;  // metric name -> where it was seen first

void collect(const File& file, const std::regex& pattern, NameLines& names) {
  for (std::size_t i = 0; i < file.lines.size(); ++i) {
    const std::string& line = file.lines[i];
    for (std::sregex_iterator it(line.begin(), line.end(), pattern), end; it != end; ++it) {
      names.emplace((*it)[1].str(), file.path + ":" + std::to_string(i + 1));
    }
  }
}

}  // namespace

Tree load_tree(const fs::path& root) {
  std::set<std::string> folders = {"tests", "cmake", "deploy", "docs", "scripts", ".ci"};
  Tree tree;
  for (const auto& entry : fs::directory_iterator(root)) {
    if (entry.is_regular_file() && is_text(entry.path()) && entry.path().filename() != "LICENSE") {
      tree.push_back(read_file(root, entry.path()));
    }
  }
  static const std::regex subdirectory(R"(add_subdirectory\((\w+)\))");
  if (const File* top = find(tree, "CMakeLists.txt")) {
    NameLines names;
    collect(*top, subdirectory, names);
    for (const auto& [name, where] : names) folders.insert(name);
  }
  for (const std::string& folder : folders) {
    if (!fs::is_directory(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      if (entry.is_regular_file() && is_text(entry.path())) {
        tree.push_back(read_file(root, entry.path()));
      }
    }
  }
  std::sort(tree.begin(), tree.end(), [](const File& a, const File& b) { return a.path < b.path; });
  return tree;
}

Findings check_room_includes(const Tree& tree) {
  Findings findings;
  for (const File& file : tree) {
    if (!is_cxx(file)) continue;
    const std::string room = top_folder(file.path);
    const auto row = room_table().find(room);
    if (row == room_table().end() && room != "tests") {
      findings.push_back(file.path + ": '" + room + "' is no room; add it to the table");
      continue;
    }
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      const std::string include = quoted_include(file.lines[i]);
      if (include.empty()) continue;
      const std::string other = room_of_include(include);
      // Tests may name helpers of their own folder without it.
      if (room == "tests" && find(tree, beside(file, include)) != nullptr) continue;
      if (other.empty() || (room_table().count(other) == 0 && other != "tests")) {
        findings.push_back(at(file, i, "write the include of \"" + include + "\" from the root"));
      } else if (!generated(include) && find(tree, include) == nullptr) {
        findings.push_back(at(file, i, "\"" + include + "\" does not exist"));
      } else if (room != "tests" && other != room && row->second.count(other) == 0) {
        findings.push_back(at(file, i, room + "/ may not include " + other + "/"));
      }
    }
  }
  return findings;
}

Findings check_room_links(const Tree& tree) {
  Findings findings;
  for (const auto& [room, below] : room_table()) {
    const File* list = find(tree, room + "/CMakeLists.txt");
    if (list == nullptr) continue;
    for (const std::string& other : cmake_depends(joined(*list))) {
      if (below.count(other) == 0) {
        findings.push_back(list->path + ": " + room + "/ may not link " + other + "/");
      }
    }
  }
  return findings;
}

Findings check_header_contracts(const Tree& tree) {
  Findings findings;
  for (const File& file : tree) {
    if (!is_header(file)) continue;
    if (file.lines.empty() || !starts_with(file.lines[0], "//")) {
      findings.push_back(at(file, 0, "a header starts with what it is for"));
    }
    bool classes = false, threads = false;
    for (const std::string& line : file.lines) {
      classes = classes || (starts_with(line, "class ") && !ends_with(line, ";"));
      const std::string code = without_comment(line);
      const std::string comment = line.substr(code.size());
      threads = threads || comment.find("hread") != std::string::npos;
    }
    if (classes && !threads && in_room(file)) {
      findings.push_back(at(file, 0, "say in a comment which threads may use its classes"));
    }
    const bool once =
        std::find(file.lines.begin(), file.lines.end(), "#pragma once") != file.lines.end();
    if (!once) findings.push_back(at(file, 0, "#pragma once is missing"));
  }
  return findings;
}

Findings check_umbrellas(const Tree& tree) {
  Findings findings;
  std::map<std::string, std::set<std::string>> used;  // room -> its headers that others include
  for (const File& file : tree) {
    if (!is_cxx(file) || !in_room(file)) continue;
    for (const std::string& line : file.lines) {
      const std::string include = quoted_include(line);
      const std::string other = top_folder(include);
      if (other.empty() || other == top_folder(file.path) || generated(include)) continue;
      used[other].insert(include);
    }
  }
  for (const auto& [room, below] : room_table()) {
    if (find(tree, room + "/CMakeLists.txt") == nullptr) continue;
    if (find(tree, room + "/README.md") == nullptr) {
      findings.push_back(room + "/README.md is missing");
    }
    if (room == "proto" || room == "cli") continue;  // generated headers; a program
    const File* umbrella = find(tree, room + "/all.h");
    if (umbrella == nullptr) {
      findings.push_back(room + "/all.h, the room's umbrella header, is missing");
      continue;
    }
    std::set<std::string> included = {umbrella->path};
    for (const std::string& line : umbrella->lines) included.insert(quoted_include(line));
    for (const std::string& header : used[room]) {
      if (included.count(header) == 0) {
        findings.push_back(umbrella->path + ": \"" + header + "\" is used by other rooms");
      }
    }
  }
  return findings;
}

Findings check_own_header_first(const Tree& tree) {
  Findings findings;
  for (const File& file : tree) {
    if (!is_source(file)) continue;
    const std::string own = file.path.substr(0, file.path.size() - 4) + ".h";
    if (find(tree, own) == nullptr) continue;
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      if (!starts_with(file.lines[i], "#include")) continue;
      const std::string first = quoted_include(file.lines[i]);
      if (first != own && beside(file, first) != own) {
        findings.push_back(at(file, i, "include \"" + own + "\" first"));
      }
      break;
    }
  }
  return findings;
}

Findings check_unfinished(const Tree& tree) {
  static const std::regex marks(
      R"(\b(TODO|FIXME|XXX|HACK)\b|\bDISABLED_|)"
      R"(\bGTEST_SKIP\b(?!\(\) << ".*(AVX|CPU|instruction set))|)"
      R"(\b([Nn]ot (yet )?implemented|[Uu]nimplemented|[Ss]tub(s|bed)?)\b)");
  // HACK is also the paper whose codec kvferry builds on.
  static const std::regex paper(R"(HACK('s|\b(?!:)))");
  Findings findings;
  for (const File& file : tree) {
    if (is_lint(file)) continue;
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      const std::string line = std::regex_replace(file.lines[i], paper, "the paper");
      std::smatch match;
      if (std::regex_search(line, match, marks)) {
        findings.push_back(at(file, i, "unfinished: '" + match.str() + "'"));
      }
    }
  }
  return findings;
}

Findings check_layout(const Tree& tree) {
  Findings findings;
  for (const File& file : tree) {
    if (!is_code(file)) continue;
    if (file.lines.size() > kMaxFileLines) {
      findings.push_back(file.path + ": " + std::to_string(file.lines.size()) +
                         " lines; split it, 700 is the limit");
    }
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      const std::string& line = file.lines[i];
      if (columns(line) > kMaxColumns) findings.push_back(at(file, i, "more than 100 columns"));
      if (line.find('\t') != std::string::npos) findings.push_back(at(file, i, "a tab"));
      if (!line.empty() && (line.back() == ' ' || line.back() == '\r')) {
        findings.push_back(at(file, i, "trailing space"));
      }
    }
  }
  return findings;
}

Findings check_banned_calls(const Tree& tree) {
  enum Where { kEverywhere, kInRooms, kInTests };
  struct Ban {
    std::regex call;
    const char* instead;
    Where where;
  };
  static const std::vector<Ban> bans = {
      {std::regex(R"(\bsleep_(for|until)\b|\b(u|nano)?sleep\()"),
       "tests wait for an event or move virtual time (base/clock.h)", kInTests},
      {std::regex(R"(\bstd::rand\b|\bs?rand\()"), "use counter_random (base/hash.h)", kEverywhere},
      {std::regex(R"(\b(strcpy|strcat|sprintf|vsprintf|gets)\()"), "use std::string or fmt",
       kEverywhere},
      {std::regex(R"(\b(atoi|atol|atof)\()"), "use std::from_chars and check it", kInRooms},
      {std::regex(R"(\bstd::cout\b)"), "use fmt::print, or base/log.h for events", kInRooms},
      {std::regex(R"(\busing namespace std;)"), "name what is used", kEverywhere},
      {std::regex(R"(\bsystem\()"), "start programs without a shell", kEverywhere},
  };
  Findings findings;
  for (const File& file : tree) {
    if (!is_cxx(file) || is_lint(file)) continue;
    const auto holds = [&file](Where where) {
      if (where == kInRooms) return in_room(file);
      // End-to-end tests poll other processes, which have no event to wait for.
      if (where == kInTests) return !in_room(file) && !starts_with(file.path, "tests/e2e/");
      return true;
    };
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      const std::string line = without_comment(file.lines[i]);
      for (const Ban& ban : bans) {
        std::smatch match;
        if (holds(ban.where) && std::regex_search(line, match, ban.call)) {
          findings.push_back(at(file, i, "'" + match.str() + "': " + ban.instead));
        }
      }
    }
  }
  return findings;
}

Findings check_sources_built(const Tree& tree) {
  Findings findings;
  for (const File& file : tree) {
    if (!is_source(file)) continue;
    bool built = false;
    for (std::string folder = folder_of(file.path); !built && !folder.empty();
         folder = folder_of(folder)) {
      const File* list = find(tree, folder + "/CMakeLists.txt");
      if (list == nullptr) continue;
      // As written there: relative to that folder.
      const std::string name = file.path.substr(folder.size() + 1);
      const std::string text = "\n" + joined(*list);
      for (std::size_t i = text.find(name); !built && i != std::string::npos;
           i = text.find(name, i + 1)) {
        const char before = text[i - 1], after = text[i + name.size()];
        const auto ends = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
        built = (ends(before) || before == '(' || before == '"' || before == '/') &&
                (ends(after) || after == ')' || after == '"');
      }
    }
    if (!built) findings.push_back(file.path + ": named in no CMakeLists.txt");
  }
  return findings;
}

Findings check_metrics(const Tree& tree) {
  static const std::regex literal(R"re("(kvferry_[a-z][a-z0-9_]*[a-z0-9])")re");
  static const std::regex row(R"(^\|\s*`(kvferry_[a-z0-9_]+)`)");
  static const std::regex used(R"(\b(kvferry_[a-z0-9_]+))");
  static const std::regex series(R"(_(bucket|sum|count)$)");
  NameLines code, documented, deployed;
  for (const File& file : tree) {
    if (is_cxx(file) && in_room(file)) collect(file, literal, code);
    if (file.path == "docs/metrics.md") collect(file, row, documented);
    if (starts_with(file.path, "deploy/") && !ends_with(file.path, ".md")) {
      collect(file, used, deployed);
    }
  }
  Findings findings;
  for (const auto& [name, where] : code) {
    if (documented.count(name) == 0) {
      findings.push_back(where + ": metric " + name + " has no row in docs/metrics.md");
    }
  }
  for (const auto& [name, where] : documented) {
    if (code.count(name) == 0) findings.push_back(where + ": metric " + name + " does not exist");
  }
  for (const auto& [name, where] : deployed) {
    if (code.count(name) == 0 && code.count(std::regex_replace(name, series, "")) == 0) {
      findings.push_back(where + ": metric " + name + " does not exist");
    }
  }
  return findings;
}

Findings check_links(const Tree& tree) {
  static const std::regex link(R"(\]\(([^)#\s]+)(#[^)]*)?\))");
  Findings findings;
  for (const File& file : tree) {
    if (!ends_with(file.path, ".md")) continue;
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      const std::string& line = file.lines[i];
      for (std::sregex_iterator it(line.begin(), line.end(), link), end; it != end; ++it) {
        const std::string target = (*it)[1].str();
        if (target.find("://") != std::string::npos) continue;
        const std::string path =
            (fs::path(folder_of(file.path)) / target).lexically_normal().generic_string();
        const std::string folder = ends_with(path, "/") ? path : path + "/";
        const bool exists = starts_with(path, "models/") ||  // bundled, not loaded
                            path == "LICENSE" ||
                            std::any_of(tree.begin(), tree.end(), [&](const File& other) {
                              return other.path == path || starts_with(other.path, folder);
                            });
        if (!exists)
          findings.push_back(at(file, i, "link to " + target + ", which does not exist"));
      }
    }
  }
  return findings;
}

}  // namespace kvferry::lint

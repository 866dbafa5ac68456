#include "cli/load_progress.h"

#include <unistd.h>

#include <cstdio>

#include "base/clock.h"
#include "base/log.h"

namespace kvferry::cli {
namespace {

constexpr std::uint64_t kQuiet = kSecond;

class Progress {
 public:
  Progress(std::string component, std::string text)
      : component_(std::move(component)),
        text_(std::move(text)),
        terminal_(isatty(STDERR_FILENO) == 1),
        begin_ns_(monotonic_ns()) {}

  void operator()(double fraction) {
    const bool shown = percent_ >= 0;
    if (!shown && monotonic_ns() - begin_ns_ < kQuiet) return;
    const int percent = static_cast<int>(fraction * 100);
    if (terminal_) {
      // The last one clears the line.
      std::fprintf(stderr, "\r\033[K");
      if (fraction < 1) std::fprintf(stderr, "%s: %d %%", text_.c_str(), percent);
      std::fflush(stderr);
    } else if (!shown || percent / 25 > percent_ / 25) {
      log_info(component_, text_ + ": " + std::to_string(percent) + " %");
    }
    percent_ = percent;
  }

 private:
  std::string component_, text_;
  bool terminal_;
  std::uint64_t begin_ns_;
  int percent_ = -1;  // last shown
};

}  // namespace

std::function<void(double)> load_progress(const std::string& component, const std::string& model) {
  return percent_progress(component, "loading " + model);
}

std::function<void(double)> percent_progress(const std::string& component,
                                             const std::string& text) {
  return Progress(component, text);
}

}  // namespace kvferry::cli

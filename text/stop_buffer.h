// Stop strings across token borders. Text comes in pieces; what comes out never holds a stop string
// nor its beginning, and does not depend on where the pieces were cut: the text ends before the
// stop string that is complete first (the longest, if several are at the same character). Thread
// contract: one thread at a time.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace kvferry::text {

class StopBuffer {
 public:
  static constexpr std::size_t kMaxStops = 16;
  static constexpr std::size_t kMaxStopBytes = 1024;  // of each

  // kInvalidArgument for an empty stop string and past the limits. No stop strings is fine.
  static Result<StopBuffer> make(std::vector<std::string> stops);

  // The text that can no longer become part of a stop string. Pieces end at character borders, and
  // so does what is returned. After a stop string was hit, nothing.
  std::string feed(std::string_view piece);
  // What was held back. Call once, after the last piece.
  std::string finish();

  // The stop string that was hit, as an index into `stops`, or -1.
  int hit() const { return hit_; }

 private:
  struct Stop {
    std::string text;
    // Of the first i + 1 bytes, the longest proper prefix that is a suffix too
    // (Knuth-Morris-Pratt).
    std::vector<std::size_t> border;
    std::size_t matched = 0;  // bytes of the stop string that the text ends in
  };
  explicit StopBuffer(std::vector<Stop> stops);

  std::vector<Stop> stops_;
  std::string held_;
  int hit_ = -1;
};

}  // namespace kvferry::text

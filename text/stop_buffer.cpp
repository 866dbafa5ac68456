#include "text/stop_buffer.h"

#include <algorithm>
#include <utility>

namespace kvferry::text {
namespace {

std::size_t advance(std::string_view stop, const std::vector<std::size_t>& border,
                    std::size_t matched, char next) {
  while (matched > 0 && stop[matched] != next) matched = border[matched - 1];
  return stop[matched] == next ? matched + 1 : 0;
}

std::vector<std::size_t> borders_of(std::string_view stop) {
  std::vector<std::size_t> border(stop.size(), 0);
  for (std::size_t i = 1; i < stop.size(); ++i) {
    border[i] = advance(stop, border, border[i - 1], stop[i]);
  }
  return border;
}

}  // namespace

StopBuffer::StopBuffer(std::vector<Stop> stops) : stops_(std::move(stops)) {}

Result<StopBuffer> StopBuffer::make(std::vector<std::string> stops) {
  if (stops.size() > kMaxStops) {
    return invalid_argument("more than " + std::to_string(kMaxStops) + " stop strings");
  }
  std::vector<Stop> made;
  for (std::string& stop : stops) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return invalid_argument("a stop string must have from 1 to " + std::to_string(kMaxStopBytes) +
                              " bytes");
    }
    std::vector<std::size_t> border = borders_of(stop);
    made.push_back({std::move(stop), std::move(border), 0});
  }
  return StopBuffer(std::move(made));
}

std::string StopBuffer::feed(std::string_view piece) {
  if (hit_ >= 0) return {};
  for (const char next : piece) {
    held_ += next;
    std::size_t longest = 0;
    for (std::size_t i = 0; i < stops_.size(); ++i) {
      Stop& stop = stops_[i];
      stop.matched = advance(stop.text, stop.border, stop.matched, next);
      if (stop.matched == stop.text.size() && stop.matched > longest) {
        longest = stop.matched;
        hit_ = static_cast<int>(i);
      }
    }
    if (hit_ >= 0) {
      held_.resize(held_.size() - longest);
      return std::exchange(held_, {});
    }
  }
  std::size_t may_be_stop = 0;
  for (const Stop& stop : stops_) may_be_stop = std::max(may_be_stop, stop.matched);
  std::string safe = held_.substr(0, held_.size() - may_be_stop);
  held_.erase(0, safe.size());
  return safe;
}

std::string StopBuffer::finish() { return std::exchange(held_, {}); }

}  // namespace kvferry::text

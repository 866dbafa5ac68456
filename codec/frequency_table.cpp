#include "codec/frequency_table.h"

#include <algorithm>
#include <bit>

namespace kvferry::codec {
namespace {

constexpr int kLengthBits = 4;
constexpr int kMaxLength = 12;

class BitWriter {
 public:
  explicit BitWriter(std::byte* out) : out_(out) {}
  void put(std::uint32_t value, int bits) {
    held_ |= static_cast<std::uint64_t>(value) << count_;
    for (count_ += bits; count_ >= 8; count_ -= 8, held_ >>= 8) {
      *out_++ = static_cast<std::byte>(held_);
    }
  }
  std::byte* finish() {
    if (count_ > 0) *out_++ = static_cast<std::byte>(held_);
    return out_;
  }

 private:
  std::byte* out_;
  std::uint64_t held_ = 0;
  int count_ = 0;
};

class BitReader {
 public:
  explicit BitReader(std::span<const std::byte> in) : in_(in) {}
  // False when there are not so many.
  bool take(int bits, std::uint32_t& value) {
    for (; count_ < bits; count_ += 8) {
      if (at_ == in_.size()) return false;
      held_ |= static_cast<std::uint64_t>(in_[at_++]) << count_;
    }
    value = static_cast<std::uint32_t>(held_ & ((std::uint64_t{1} << bits) - 1));
    held_ >>= bits;
    count_ -= bits;
    return true;
  }
  bool rest_is_zero() const { return held_ == 0; }
  std::size_t taken() const { return at_; }

 private:
  std::span<const std::byte> in_;
  std::size_t at_ = 0;
  std::uint64_t held_ = 0;
  int count_ = 0;
};

}  // namespace

std::size_t write_frequencies(std::span<const std::uint16_t> freq, std::byte* out) {
  const auto used = [](std::uint16_t f) { return f != 0; };
  const auto first = std::find_if(freq.begin(), freq.end(), used);
  const auto behind_last = std::find_if(freq.rbegin(), freq.rend(), used).base();
  out[0] = static_cast<std::byte>(first - freq.begin());
  out[1] = static_cast<std::byte>(behind_last - freq.begin() - 1);
  BitWriter bits(out + 2);
  for (auto f = first; f != behind_last; ++f) {
    const int length = std::bit_width(*f);
    bits.put(static_cast<std::uint32_t>(length), kLengthBits);
    if (length > 1) bits.put(*f & ((1u << (length - 1)) - 1), length - 1);
  }
  return static_cast<std::size_t>(bits.finish() - out);
}

std::size_t read_frequencies(std::span<const std::byte> in, std::span<std::uint16_t> freq) {
  if (in.size() < 2) return 0;
  const auto first = static_cast<std::size_t>(in[0]), last = static_cast<std::size_t>(in[1]);
  if (first > last || last >= freq.size()) return 0;
  std::fill(freq.begin(), freq.end(), std::uint16_t{0});
  BitReader bits(in.subspan(2));
  for (std::size_t code = first; code <= last; ++code) {
    std::uint32_t length = 0, below = 0;
    if (!bits.take(kLengthBits, length) || length > kMaxLength) return 0;
    if (length == 0) continue;
    if (!bits.take(static_cast<int>(length) - 1, below)) return 0;
    freq[code] = static_cast<std::uint16_t>(1u << (length - 1) | below);
  }
  if (freq[first] == 0 || freq[last] == 0 || !bits.rest_is_zero()) return 0;
  return 2 + bits.taken();
}

}  // namespace kvferry::codec

// How the frequencies of codes lie in a wire form: as few bits as their sizes need.
//   table = first byte, last byte, then for each code from first to last: 4 bits, the number b of
//           bits of its frequency (0 for 0), and, where b > 1, the b - 1 bits below the highest
// Bits fill bytes from the lowest; the last byte is filled up with zeros.
//
// Thread contract: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvferry::codec {

// Frequencies of 256 codes at most: 2 bytes and 15 bits each.
inline constexpr std::size_t kMaxFrequencyTableBytes = 2 + (256 * 15 + 7) / 8;

// freq: below 4096 each, not all 0. Returns the bytes written to out, which holds
// kMaxFrequencyTableBytes.
std::size_t write_frequencies(std::span<const std::uint16_t> freq, std::byte* out);

// Reads a table from the beginning of `in` to freq, whose size says how many codes there are.
// Returns the bytes read, 0 for what write_frequencies never writes.
std::size_t read_frequencies(std::span<const std::byte> in, std::span<std::uint16_t> freq);

}  // namespace kvferry::codec

#include "base/hash.h"

#include <nmmintrin.h>
#include <sys/random.h>
#include <xxhash.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace kvferry {
namespace {

// Polynomials over GF(2) modulo Castagnoli's, reflected: bit 31 is x^0, bit 0 is x^31.
constexpr std::uint32_t kPolynomial = 0x82f63b78;

constexpr std::uint32_t times_x(std::uint32_t a) {
  return (a & 1) != 0 ? (a >> 1) ^ kPolynomial : a >> 1;
}

constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (int bit = 31; bit >= 0; --bit) {
    if ((a >> bit & 1) != 0) product ^= b;
    b = times_x(b);
  }
  return product;
}

constexpr std::uint32_t x_to_the(std::size_t exponent) {
  std::uint32_t result = 1u << 31;
  for (std::uint32_t square = 1u << 30; exponent != 0; exponent >>= 1) {
    if ((exponent & 1) != 0) result = multiply(result, square);
    square = multiply(square, square);
  }
  return result;
}

// Appending n zero bytes multiplies the register by x^(8n), which is linear: four look-ups.
using ShiftTable = std::array<std::array<std::uint32_t, 256>, 4>;

constexpr ShiftTable make_shift_table(std::size_t zero_bytes) {
  ShiftTable table{};
  const std::uint32_t factor = x_to_the(8 * zero_bytes);
  for (std::uint32_t byte = 0; byte < 4; ++byte) {
    for (std::uint32_t value = 0; value < 256; ++value) {
      table[byte][value] = multiply(value << (8 * byte), factor);
    }
  }
  return table;
}

std::uint32_t shift(const ShiftTable& table, std::uint32_t crc) {
  return table[0][crc & 0xff] ^ table[1][crc >> 8 & 0xff] ^ table[2][crc >> 16 & 0xff] ^
         table[3][crc >> 24];
}

// The crc32 instruction has a latency of three cycles and a throughput of one: three streams keep
// it busy. Long stretches for payloads, short ones for what is left of them and for small messages.
constexpr std::size_t kLong = 4096;
constexpr std::size_t kShort = 256;
constinit const ShiftTable kShiftLong = make_shift_table(kLong);
constinit const ShiftTable kShiftShort = make_shift_table(kShort);
constinit const std::array<std::uint32_t, 256> kByteTable = make_shift_table(1)[0];

std::uint64_t load64(const std::byte* p) {
  std::uint64_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

__attribute__((target("sse4.2"))) std::uint32_t three_streams(std::uint32_t crc, const std::byte* p,
                                                              std::size_t stretch,
                                                              const ShiftTable& table) {
  std::uint64_t a = crc;
  std::uint64_t b = 0;
  std::uint64_t c = 0;
  for (std::size_t i = 0; i < stretch; i += 8) {
    a = _mm_crc32_u64(a, load64(p + i));
    b = _mm_crc32_u64(b, load64(p + stretch + i));
    c = _mm_crc32_u64(c, load64(p + 2 * stretch + i));
  }
  const std::uint32_t ab =
      shift(table, static_cast<std::uint32_t>(a)) ^ static_cast<std::uint32_t>(b);
  return shift(table, ab) ^ static_cast<std::uint32_t>(c);
}

__attribute__((target("sse4.2"))) std::uint32_t crc_sse42(std::uint32_t crc, const std::byte* p,
                                                          std::size_t size) {
  for (; size >= 3 * kLong; p += 3 * kLong, size -= 3 * kLong) {
    crc = three_streams(crc, p, kLong, kShiftLong);
  }
  for (; size >= 3 * kShort; p += 3 * kShort, size -= 3 * kShort) {
    crc = three_streams(crc, p, kShort, kShiftShort);
  }
  std::uint64_t wide = crc;
  for (; size >= 8; p += 8, size -= 8) wide = _mm_crc32_u64(wide, load64(p));
  crc = static_cast<std::uint32_t>(wide);
  for (; size > 0; ++p, --size) crc = _mm_crc32_u8(crc, static_cast<std::uint8_t>(*p));
  return crc;
}

std::uint32_t crc_table(std::uint32_t crc, const std::byte* p, std::size_t size) {
  for (; size > 0; ++p, --size) {
    crc = crc >> 8 ^ kByteTable[(crc ^ static_cast<std::uint32_t>(*p)) & 0xff];
  }
  return crc;
}

std::uint64_t splitmix_finalise(std::uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

}  // namespace

namespace detail {

std::uint32_t crc32c_portable(std::span<const std::byte> data, std::uint32_t seed) {
  return ~crc_table(~seed, data.data(), data.size());
}

}  // namespace detail

std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t seed) {
  static const bool fast = __builtin_cpu_supports("sse4.2") != 0;
  if (!fast) return detail::crc32c_portable(data, seed);
  return ~crc_sse42(~seed, data.data(), data.size());
}

std::uint64_t hash64(std::span<const std::byte> data, std::uint64_t seed) {
  return XXH3_64bits_withSeed(data.data(), data.size(), seed);
}

std::uint64_t hash64(std::string_view text, std::uint64_t seed) {
  return XXH3_64bits_withSeed(text.data(), text.size(), seed);
}

std::uint64_t counter_random(std::uint64_t key, std::uint64_t counter) {
  constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio, odd
  return splitmix_finalise(splitmix_finalise(key + kGolden) + (counter + 1) * kGolden);
}

std::uint64_t fresh_id() {
  std::uint64_t id = 0;
  while (id == 0) {
    const ssize_t got = getrandom(&id, sizeof id, 0);
    if (got == static_cast<ssize_t>(sizeof id)) continue;
    if (got < 0 && errno != EINTR) std::abort();  // Linux before 3.17
    id = 0;
  }
  return id;
}

}  // namespace kvferry

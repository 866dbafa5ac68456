// Checksums and hashes. Thread contract: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace kvferry {

// CRC32C (Castagnoli, reflected, init and final xor 0xffffffff). SSE4.2, three streams, where the
// CPU has it. `seed` is the CRC of what came before, so crc32c(b, crc32c(a)) == crc32c(ab).
std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t seed = 0);

// XXH3 64-bit. Not for adversaries.
std::uint64_t hash64(std::span<const std::byte> data, std::uint64_t seed = 0);
std::uint64_t hash64(std::string_view text, std::uint64_t seed = 0);

// Counter-based random bits: a function of key and counter alone (SplitMix64 finalisers over both).
std::uint64_t counter_random(std::uint64_t key, std::uint64_t counter);

// Bits from the kernel, for epochs and ids that must never repeat. Not zero.
std::uint64_t fresh_id();

namespace detail {
// What crc32c does without SSE4.2; here for the test that holds the two against each other.
std::uint32_t crc32c_portable(std::span<const std::byte> data, std::uint32_t seed = 0);
}  // namespace detail

}  // namespace kvferry

// The values of a version 1.0 .npy file of float32, as numpy.save writes it; empty if it is none.
#pragma once

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace kvferry::model {

inline std::vector<float> read_npy(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string raw{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (raw.size() < 10) return {};
  const std::size_t header =
      10 + static_cast<unsigned char>(raw[8]) + 256u * static_cast<unsigned char>(raw[9]);
  std::vector<float> values((raw.size() - header) / sizeof(float));
  std::memcpy(values.data(), raw.data() + header, values.size() * sizeof(float));
  return values;
}

}  // namespace kvferry::model

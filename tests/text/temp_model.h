// A checkpoint folder that a test writes, removed with the object.
#pragma once

#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace kvferry::text {

class TempModel {
 public:
  TempModel() {
    static std::atomic<int> count = 0;
    dir_ = std::filesystem::temp_directory_path() /
           ("kvferry_text_" + std::to_string(getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(dir_);
  }
  ~TempModel() {
    std::error_code ignored;
    std::filesystem::remove_all(dir_, ignored);
  }
  TempModel(const TempModel&) = delete;
  TempModel& operator=(const TempModel&) = delete;

  const std::filesystem::path& dir() const { return dir_; }
  void write(const std::string& name, const std::string& content) const {
    std::ofstream(dir_ / name, std::ios::binary) << content;
  }
  void write(const std::string& name, const boost::json::value& content) const {
    write(name, boost::json::serialize(content));
  }

 private:
  std::filesystem::path dir_;
};

// The smallest complete tokenizer.json: ids 0 to 255 are the bytes, 256 is "<s>", a special token.
inline boost::json::object byte_tokenizer() {
  boost::json::object vocab;
  for (int byte = 0; byte < 256; ++byte) {
    std::string letter;
    append_utf8(letter_of_byte(static_cast<std::uint8_t>(byte)), letter);
    vocab[letter] = byte;
  }
  return {{"added_tokens", {{{"id", 256}, {"content", "<s>"}, {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", boost::json::array()}}}};
}

}  // namespace kvferry::text

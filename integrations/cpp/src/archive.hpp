// The bytes of an engine's file, read once: what is checked is what is used, whatever happens to the file meanwhile.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace v2e {

// The content of a regular file of at most `limit` bytes. Raises Fault.
class File {
 public:
  File(const std::string& path, std::uint64_t limit);
  std::string_view bytes() const { return {data_.get(), size_}; }

 private:
  std::unique_ptr<char[]> data_;
  std::size_t size_ = 0;
};

std::string sha256(std::string_view bytes);  // in hexadecimal

// An uncompressed ZIP archive, without ZIP64, comments, other flags and bytes before it.
class Archive {
 public:
  // The bytes must outlive it. Raises Fault for any other form.
  explicit Archive(std::string_view bytes);
  // The content of a file, compared with its checksum. Raises Fault.
  std::string_view read(const std::string& name) const;

  struct Member {
    std::string_view content;
    std::uint32_t crc;
  };
  const std::map<std::string, Member>& members() const { return members_; }

 private:
  std::map<std::string, Member> members_;
};

}  // namespace v2e

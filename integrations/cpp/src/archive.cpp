#include "archive.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "json.hpp"

namespace v2e {

File::File(const std::string& path, std::uint64_t limit) {
  struct Descriptor {
    int number;
    ~Descriptor() {
      if (number >= 0) ::close(number);
    }
    // Not blocked by a FIFO of this name.
  } file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat about;
  if (file.number < 0 || ::fstat(file.number, &about) != 0) throw Fault(std::strerror(errno));
  if (!S_ISREG(about.st_mode)) throw Fault("not a file");
  const auto size = static_cast<std::uint64_t>(about.st_size);
  if (size > limit)
    throw Fault("it has " + std::to_string(size) + " bytes, at most " + std::to_string(limit) + " are read");
  data_.reset(new char[size + 1]);  // not set to 0, which would touch it twice
  while (size_ < size) {
    const ssize_t got = ::read(file.number, data_.get() + size_, size - size_);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw Fault(got < 0 ? std::strerror(errno) : "it became shorter while it was read");
    size_ += static_cast<std::size_t>(got);
  }
}

namespace {

std::uint32_t crc32(std::string_view bytes) {
  // Eight bytes at a time, by eight tables.
  static const auto tables = [] {
    std::array<std::array<std::uint32_t, 256>, 8> made{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t crc = i;
      for (int k = 0; k < 8; ++k) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
      made[0][i] = crc;
    }
    for (std::size_t k = 1; k < 8; ++k)
      for (std::size_t i = 0; i < 256; ++i) made[k][i] = made[k - 1][i] >> 8 ^ made[0][made[k - 1][i] & 255];
    return made;
  }();
  const auto* place = reinterpret_cast<const unsigned char*>(bytes.data());
  const auto* end = place + bytes.size();
  std::uint32_t crc = ~0u;
  for (; end - place >= 8; place += 8) {
    std::uint32_t next = 0;
    for (std::size_t k = 0; k < 8; ++k) next ^= tables[7 - k][place[k] ^ (k < 4 ? crc >> 8 * k & 255 : 0)];
    crc = next;
  }
  for (; place < end; ++place) crc = crc >> 8 ^ tables[0][(crc ^ *place) & 255];
  return ~crc;
}

// A little-endian number of a ZIP archive.
std::uint32_t number(std::string_view bytes, std::size_t place, std::size_t length) {
  std::uint32_t found = 0;
  for (std::size_t i = length; i-- > 0;) found = found << 8 | static_cast<unsigned char>(bytes[place + i]);
  return found;
}

}  // namespace

std::string sha256(std::string_view bytes) {
  // FIPS 180-4. The constants are the first 32 bits of the fractions of roots of the first 64 primes.
  static constexpr std::uint32_t kRounds[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  std::uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                            0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const auto block = [&](const unsigned char* data) {
    const auto turn = [](std::uint32_t x, int by) { return x >> by | x << (32 - by); };
    std::uint32_t w[64];
    for (int i = 0; i < 16; ++i)
      w[i] = std::uint32_t{data[4 * i]} << 24 | std::uint32_t{data[4 * i + 1]} << 16 |
             std::uint32_t{data[4 * i + 2]} << 8 | data[4 * i + 3];
    for (int i = 16; i < 64; ++i)
      w[i] = w[i - 16] + (turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
             (turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10);
    auto [a, b, c, d, e, f, g, h] = state;
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t first =
          h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + kRounds[i] + w[i];
      const std::uint32_t second = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    const std::uint32_t sums[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) state[i] += sums[i];
  };
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  const std::size_t whole = bytes.size() / 64 * 64, rest = bytes.size() - whole;
  for (std::size_t place = 0; place < whole; place += 64) block(data + place);
  unsigned char last[128] = {};
  if (rest) std::memcpy(last, data + whole, rest);
  last[rest] = 0x80;
  const std::size_t size = rest < 56 ? 64 : 128;
  for (std::size_t i = 0; i < 8; ++i)
    last[size - 1 - i] = static_cast<unsigned char>(std::uint64_t{bytes.size()} * 8 >> 8 * i);
  for (std::size_t place = 0; place < size; place += 64) block(last + place);
  std::string text;
  for (std::uint32_t word : state)
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  return text;
}

// The format: APPNOTE.TXT of PKWARE, 4.3.
Archive::Archive(std::string_view bytes) {
  const auto signature = [&](std::size_t place, std::string_view wanted) {
    return place <= bytes.size() && bytes.substr(place, 4) == wanted;
  };
  if (bytes.size() < 22 || !signature(bytes.size() - 22, "PK\5\6")) throw Fault("it has no list of files at its end");
  const std::size_t end = bytes.size() - 22, start = number(bytes, end + 16, 4);
  const std::size_t count = number(bytes, end + 10, 2);
  if (number(bytes, end + 4, 4) != 0 || number(bytes, end + 8, 2) != count || number(bytes, end + 20, 2) != 0 ||
      std::uint64_t{start} + number(bytes, end + 12, 4) != end)
    throw Fault("its list of files has other numbers");
  std::size_t place = start;
  for (std::size_t i = 0; i < count; ++i) {
    if (!signature(place, "PK\1\2") || end - place < 46) throw Fault("its list of files is damaged");
    const std::size_t name_size = number(bytes, place + 28, 2), offset = number(bytes, place + 42, 4);
    const std::size_t entry = 46 + name_size + number(bytes, place + 30, 2) + number(bytes, place + 32, 2);
    if (entry > end - place) throw Fault("its list of files is damaged");
    const std::string name(bytes.substr(place + 46, name_size));
    for (char c : name)
      if (c < ' ' || c > '~') throw Fault("a file's name must be ASCII, found " + shown(name));
    const std::size_t size = number(bytes, place + 24, 4);
    if (number(bytes, place + 10, 2) != 0 || number(bytes, place + 20, 4) != size ||
        number(bytes, place + 8, 2) & ~0x800u)
      throw Fault(shown(name) + " must be stored as it is");
    if (!signature(offset, "PK\3\4") || offset > start || start - offset < 30) throw Fault(shown(name) + " is damaged");
    const std::size_t own_name = number(bytes, offset + 26, 2),
                      data = offset + 30 + own_name + number(bytes, offset + 28, 2);
    if (data > start || size > start - data || bytes.substr(offset + 30, own_name) != name)
      throw Fault(shown(name) + " is damaged");
    if (!members_.emplace(name, Member{bytes.substr(data, size), number(bytes, place + 16, 4)}).second)
      throw Fault(shown(name) + " must be the name of one file in the archive");
    place += entry;
  }
  if (place != end) throw Fault("its list of files is damaged");
}

std::string_view Archive::read(const std::string& name) const {
  const auto found = members_.find(name);
  if (found == members_.end()) throw Fault(shown(name) + " must be the name of one file in the archive");
  if (crc32(found->second.content) != found->second.crc)
    throw Fault(name + " is damaged: its checksum is another one (CRC)");
  return found->second.content;
}

}  // namespace v2e

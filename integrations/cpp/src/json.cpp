#include "json.hpp"

#include <charconv>
#include <limits>
#include <locale>
#include <sstream>

namespace v2e {

std::string shown(std::string_view text) {
  std::string out = "'";
  for (char c : text.substr(0, 60)) out += c >= ' ' && c <= '~' ? c : '?';
  return out + (text.size() > 60 ? "...'" : "'");
}

namespace json {
namespace {

constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxValues = 2'000'000;  // an engine of Swin-L has less than a tenth

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Bytes of the UTF-8 sequence at the beginning of a text; 0 where there is none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned first = byte(0), second = byte(1);
  const std::size_t length = first < 0x80   ? 1
                             : first < 0xc2 ? 0
                             : first < 0xe0 ? 2
                             : first < 0xf0 ? 3
                             : first < 0xf5 ? 4
                                            : 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  const bool beyond = (first == 0xed && second >= 0xa0) || (first == 0xf4 && second >= 0x90);
  return overlong || beyond ? 0 : length;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Value document() {
    Value found = value(0);
    skip_space();
    if (place_ < text_.size()) fail("one value");
    return found;
  }

 private:
  [[noreturn]] void fail(const std::string& expected) const {
    throw Fault("not JSON at byte " + std::to_string(place_) + ", expected " + expected);
  }
  char peek() const { return place_ < text_.size() ? text_[place_] : '\0'; }
  bool take(std::string_view wanted) {
    const bool there = text_.substr(place_, wanted.size()) == wanted;
    if (there) place_ += wanted.size();
    return there;
  }
  void skip_space() {
    while (place_ < text_.size() && std::string_view(" \t\n\r").find(text_[place_]) != std::string_view::npos) ++place_;
  }

  Value value(int depth) {
    if (depth > kMaxDepth || ++values_ > kMaxValues) fail("less of it");
    skip_space();
    Value found;
    if (peek() == '{') return object(depth);
    if (peek() == '[') return list(depth);
    if (peek() == '"') {
      found.kind = Value::Kind::text;
      found.text = string();
    } else if (take("true") || take("false")) {
      found.kind = Value::Kind::boolean;
    } else if (!take("null")) {
      return number();
    }
    return found;
  }

  Value object(int depth) {
    Value found;
    found.kind = Value::Kind::object;
    ++place_;
    skip_space();
    if (take("}")) return found;
    do {
      skip_space();
      if (peek() != '"') fail("a key");
      std::string key = string();
      skip_space();
      if (!take(":")) fail("':'");
      Value item = value(depth + 1);
      const auto [entry, added] = found.places.emplace(key, found.items.size());
      if (added) {
        found.keys.push_back(std::move(key));
        found.items.push_back(std::move(item));
      } else {
        found.items[entry->second] = std::move(item);  // the last one counts, as in Python
      }
      skip_space();
    } while (take(","));
    if (!take("}")) fail("'}'");
    return found;
  }

  Value list(int depth) {
    Value found;
    found.kind = Value::Kind::list;
    ++place_;
    skip_space();
    if (take("]")) return found;
    do {
      found.items.push_back(value(depth + 1));
      skip_space();
    } while (take(","));
    if (!take("]")) fail("']'");
    return found;
  }

  Value number() {
    const std::size_t start = place_;
    take("-");
    if (!is_digit(peek())) fail("a value");
    if (!take("0")) digits();
    bool whole = true;
    if (peek() == '.') {
      ++place_;
      whole = false;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      ++place_;
      whole = false;
      if (!take("+")) take("-");
      digits();
    }
    const std::string text(text_.substr(start, place_ - start));
    Value found;
    const char* end = text.data() + text.size();
    if (whole && std::from_chars(text.data(), end, found.integer).ec == std::errc()) {
      found.kind = Value::Kind::integer;
      found.number = static_cast<double>(found.integer);
      return found;
    }
    // A stream of the classic locale: strtod would read by the host program's locale, and GCC 10 has no from_chars.
    std::istringstream stream(text);
    stream.imbue(std::locale::classic());
    found.kind = Value::Kind::number;
    if (!(stream >> found.number)) found.number = std::numeric_limits<double>::infinity();
    return found;
  }
  void digits() {
    if (!is_digit(peek())) fail("a digit");
    while (is_digit(peek())) ++place_;
  }

  std::string string() {
    std::string out;
    ++place_;
    while (!take("\"")) {
      if (take("\\")) {
        escape(out);
        continue;
      }
      const std::size_t length = utf8_length(text_.substr(place_));
      if (length == 0 || static_cast<unsigned char>(peek()) < ' ') fail("text in UTF-8");
      out += text_.substr(place_, length);
      place_ += length;
    }
    return out;
  }

  void escape(std::string& out) {
    constexpr std::string_view kNames = "\"\\/bfnrt", kBytes = "\"\\/\b\f\n\r\t";
    const std::size_t known = peek() == '\0' ? std::string_view::npos : kNames.find(peek());
    if (known != std::string_view::npos) {
      ++place_;
      out += kBytes[known];
      return;
    }
    std::uint32_t code = hexadecimal();
    if (code >= 0xd800 && code < 0xdc00 && text_.substr(place_, 2) == "\\u") {
      const std::size_t before = place_++;
      const std::uint32_t low = hexadecimal();
      if (low >= 0xdc00 && low < 0xe000)
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      else
        place_ = before;
    }
    const auto add = [&](std::uint32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (code < 0x80) return add(code);
    if (code < 0x800) return add(0xc0 | code >> 6), add(0x80 | (code & 0x3f));
    if (code < 0x10000)
      add(0xe0 | code >> 12);
    else
      add(0xf0 | code >> 18), add(0x80 | (code >> 12 & 0x3f));
    add(0x80 | (code >> 6 & 0x3f)), add(0x80 | (code & 0x3f));
  }

  std::uint32_t hexadecimal() {
    if (!take("u")) fail("an escape");
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const std::size_t digit = std::string_view("0123456789abcdefABCDEF").find(peek());
      if (peek() == '\0' || digit == std::string_view::npos) fail("four hexadecimal digits");
      code = code << 4 | static_cast<std::uint32_t>(digit < 16 ? digit : digit - 6);
      ++place_;
    }
    return code;
  }

  std::string_view text_;
  std::size_t place_ = 0, values_ = 0;
};

}  // namespace

Value parse(std::string_view text) { return Parser(text).document(); }

std::string Value::shown() const {
  constexpr const char* kNames[] = {"null", "true or false", "", "another number", "", "a list",
                                    "an object"};
  if (kind == Kind::integer) return std::to_string(integer);
  return kind == Kind::text ? v2e::shown(text) : kNames[static_cast<std::size_t>(kind)];
}

const Value& Value::at(const std::string& key) const {
  const auto found = places.find(key);
  if (found == places.end()) throw Fault("has no " + key);
  return items[found->second];
}

const std::string& Value::as_text(const std::string& what) const {
  if (kind != Kind::text) throw Fault(what + " must be text, found " + shown());
  return text;
}

std::int64_t Value::as_integer(const std::string& what, std::int64_t low, std::int64_t high) const {
  if (kind != Kind::integer || integer < low || integer > high)
    throw Fault(what + " must be an integer from " + std::to_string(low) + " to " + std::to_string(high) +
                ", found " + shown());
  return integer;
}

const std::vector<Value>& Value::as_list(const std::string& what) const {
  if (kind != Kind::list) throw Fault(what + " must be a list, found " + shown());
  return items;
}

const Value& Value::as_object(const std::string& what) const {
  if (kind != Kind::object) throw Fault(what + " must be an object, found " + shown());
  return *this;
}

void Value::require_keys(const std::string& what, const std::vector<std::string>& wanted) const {
  as_object(what);
  bool all = keys.size() == wanted.size();
  std::string expected, found;
  for (const std::string& key : wanted) {
    all = all && places.count(key);
    expected += (expected.empty() ? "" : ", ") + key;
  }
  for (const std::string& key : keys) found += (found.empty() ? "" : ", ") + key;
  if (!all) throw Fault(what + ": keys must be " + expected + ", found " + v2e::shown(found));
}

}  // namespace json
}  // namespace v2e

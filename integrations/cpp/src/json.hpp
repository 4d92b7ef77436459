// Reads JSON: UTF-8, as strict as Python's reader, with a limit of depth and of values.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "vistas2engine.h"

namespace v2e {

// An error that the caller of the C API gets, with its status and one line.
struct Failure : std::runtime_error {
  Failure(v2e_status status_, const std::string& message) : std::runtime_error(message), status(status_) {}
  v2e_status status;
};

// A fault of a file's content: what must be, and what was found. Who knows the file's name makes a Failure of it.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string shown(std::string_view text);  // in quotes, cut, and without bytes that are not printable

namespace json {

struct Value {
  enum class Kind { null, boolean, integer, number, text, list, object };

  Kind kind = Kind::null;
  std::int64_t integer = 0;  // an integer beyond 64 bits is a number
  double number = 0;         // of an integer too
  std::string text;
  std::vector<Value> items;                   // of a list, or an object's values in their order
  std::map<std::string, std::size_t> places;  // of an object: key -> its place in items
  std::vector<std::string> keys;              // in the order of items

  bool is(Kind wanted) const { return kind == wanted; }
  std::string shown() const;  // for messages: a number, a text, or the kind
  // The value of a key. Raises Fault where this is no object, or has no such key.
  const Value& at(const std::string& key) const;
  // These raise Fault, which begins with `what`, for another kind of value.
  const std::string& as_text(const std::string& what) const;
  std::int64_t as_integer(const std::string& what, std::int64_t low, std::int64_t high) const;
  const std::vector<Value>& as_list(const std::string& what) const;
  const Value& as_object(const std::string& what) const;
  // Raises Fault unless this is an object of exactly these keys.
  void require_keys(const std::string& what, const std::vector<std::string>& wanted) const;
};

// Raises Fault for anything that is not one value of JSON.
Value parse(std::string_view text);

}  // namespace json
}  // namespace v2e

#pragma once

#include <array>
#include <charconv>
#include <string>
#include <string_view>
#include <type_traits>

namespace searchpipe {

template <class Part>
void append_part(std::string& text, const Part& part) {
  if constexpr (std::is_same_v<Part, char>) {
    text += part;
  } else if constexpr (std::is_arithmetic_v<Part>) {
    std::array<char, 32> digits;
    std::to_chars_result end{};
    if constexpr (std::is_floating_point_v<Part>) {
      constexpr int kSignificantDigits = 6;
      end = std::to_chars(digits.data(), digits.data() + digits.size(), part, std::chars_format::general,
                          kSignificantDigits);
    } else {
      end = std::to_chars(digits.data(), digits.data() + digits.size(), part);
    }
    text.append(digits.data(), end.ptr);
  } else {
    text += std::string_view(part);
  }
}

// The text of an error from its parts: values, limits and the cure. Without
// streams: they write numbers as the process's locale wants them, and share
// state with every other copy of the C++ library that a process has loaded.
template <class... Parts>
std::string message(const Parts&... parts) {
  std::string text;
  (append_part(text, parts), ...);
  return text;
}

}  // namespace searchpipe

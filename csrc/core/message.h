#pragma once

#include <sstream>
#include <string>

namespace searchpipe {

// The text of an error from its parts: values, limits and the cure.
template <class... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return std::move(text).str();
}

}  // namespace searchpipe

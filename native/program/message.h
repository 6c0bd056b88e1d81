// Error texts from parts: text("op ", 3, " is ", name).
#pragma once
#include <sstream>
#include <string>

namespace tsq {

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

}  // namespace tsq

#include "bench/cuda/options.h"

#include <algorithm>
#include <cstdio>
#include <sstream>
#include <stdexcept>

namespace bench {

Options parse(int argc, char** argv, const char* json) {
  Options o;
  o.json = json;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) throw std::runtime_error(name + " needs a value");
    const std::string value = argv[i + 1];
    if (name == "--json") {
      o.json = value;
    } else if (name == "--shapes") {
      o.shapes = value;
    } else if (name == "--m") {
      o.m = value;
    } else if (name == "--group") {
      o.group = std::stoi(value);
    } else if (name == "--samples") {
      o.samples = std::max(1, std::stoi(value));
    } else if (name == "--seconds") {
      o.seconds = std::stod(value);
    } else {
      throw std::runtime_error("unknown option " + name);
    }
  }
  return o;
}

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  std::stringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

MatrixShape shapeOf(const std::string& text) {
  MatrixShape shape{};
  if (std::sscanf(text.c_str(), "%lldx%lld", &shape.k, &shape.n) != 2 || shape.k <= 0 || shape.n <= 0 ||
      shape.k % 8 != 0) {
    throw std::runtime_error("a shape is KxN with a multiple of 8 for K, and not " + text);
  }
  return shape;
}

}  // namespace bench

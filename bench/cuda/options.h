// The options that sweeps share.
#pragma once
#include <string>
#include <vector>

namespace bench {

struct Options {
  std::string json;
  // Linear layers of Llama-3-8B and -70B, the most telling first.
  std::string shapes =
      "8192x8192,4096x4096,4096x14336,14336x4096,8192x57344,28672x8192,8192x10240,4096x28672,4096x6144";
  std::string m = "1,2,4,8,16,32,64,128,256,512,1024,4096";
  int group = 128, samples = 51;
  double seconds = 480;
};

Options parse(int argc, char** argv, const char* json);

std::vector<std::string> split(const std::string& list);

struct MatrixShape {
  long long k, n;
};
// "KxN".
MatrixShape shapeOf(const std::string& text);

}  // namespace bench

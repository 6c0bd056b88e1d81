#include <cstring>
#include <exception>

#include "check.h"

// Runs every test, or those whose name contains an argument. Exit code 1 on any failure.
int main(int argc, char** argv) {
  int ran = 0;
  for (const check::Test& test : check::tests()) {
    bool wanted = argc < 2;
    for (int i = 1; i < argc; ++i) wanted = wanted || std::strstr(test.name, argv[i]) != nullptr;
    if (!wanted) continue;
    const int before = check::failures();
    try {
      test.run();
    } catch (const std::exception& error) {
      check::report(false, test.name, 0, error.what());
    }
    ++ran;
    std::printf("%s %s\n", check::failures() == before ? "ok" : "not ok", test.name);
  }
  std::printf("%d tests, %d assertions, %d failures\n", ran, check::assertions(), check::failures());
  return check::failures() == 0 && ran > 0 ? 0 : 1;
}

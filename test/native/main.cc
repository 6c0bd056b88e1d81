#include <cstring>
#include <exception>

#include "check.h"

// Runs every test, or those whose name contains an argument; with --quick, those that are not slow. Exit code 1 on any
// failure.
int main(int argc, char** argv) {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  const int names = quick ? 2 : 1;
  int ran = 0;
  for (const check::Test& test : check::tests()) {
    bool wanted = argc <= names;
    for (int i = names; i < argc; ++i) wanted = wanted || std::strstr(test.name, argv[i]) != nullptr;
    if (!wanted) continue;
    if (quick && test.slow) {
      std::printf("skipped %s: slow, and --quick was given\n", test.name);
      continue;
    }
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

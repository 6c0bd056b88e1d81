// A small test harness: TEST(name) { CHECK(...); } in any file, one main for all. SLOW_TEST: see Test::slow.
#pragma once
#include <cstdint>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*run)();
  bool slow;  // seconds, and minutes where it is instrumented or emulated: left out by --quick, which says so
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

inline int& assertions() {
  static int count = 0;
  return count;
}

inline bool report(bool ok, const char* file, int line, const std::string& text) {
  ++assertions();
  if (ok) return true;
  ++failures();
  std::fprintf(stderr, "  not ok %s:%d: %s\n", file, line, text.c_str());
  return false;
}

struct Register {
  Register(const char* name, void (*run)(), bool slow) { tests().push_back({name, run, slow}); }
};

}  // namespace check

#define CHECK_TEST(name, slow)                                      \
  static void test_##name();                                        \
  static check::Register register_##name(#name, test_##name, slow); \
  static void test_##name()
#define TEST(name) CHECK_TEST(name, false)
#define SLOW_TEST(name) CHECK_TEST(name, true)

#define CHECK(condition) check::report((condition), __FILE__, __LINE__, #condition)
// CHECK with a message that shows the values: CHECK_MSG(a < b, "a=" + std::to_string(a)).
#define CHECK_MSG(condition, message) check::report((condition), __FILE__, __LINE__, std::string(#condition ": ") + (message))

// A module that answers, but with nothing.
extern "C" __attribute__((visibility("default"))) const void* tsqCuda() {
  return nullptr;
}

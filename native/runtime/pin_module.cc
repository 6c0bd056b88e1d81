#include "runtime/pin_module.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace tsq {

void pinModule() {
#if defined(_WIN32)
  HMODULE module = nullptr;
  (void)GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                           reinterpret_cast<LPCWSTR>(&pinModule), &module);
#else
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&pinModule), &info) == 0 || info.dli_fname == nullptr) return;
  // RTLD_NOLOAD: only what is loaded already gets the flag.
  (void)dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
#endif
}

}  // namespace tsq

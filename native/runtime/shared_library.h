// Shared libraries opened at run time. Linux; elsewhere every call is refused.
#pragma once
#include <string>

#include "runtime/status.h"

namespace tsq {

// The folder of the library or program that holds `address`; empty where the system does not tell.
std::string folderOf(const void* address);

// Opens a library for the life of the process: never closed, as what it has begun may run until the end. Opening the
// same one again gives the same. A path that is no complete library is refused (kDevice) with what it is instead:
// the system's loader would wait for a pipe, and end the process at the missing pages of a file that is cut short.
Result<void*> openLibrary(const std::string& path);

// A library of the system by name. Where there is none (kDevice), the loader's words.
Result<void*> openSystemLibrary(const char* name);

// Null where the library has no such symbol.
void* findSymbol(void* library, const char* name);

}  // namespace tsq

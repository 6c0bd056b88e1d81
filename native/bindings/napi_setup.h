// The only file that includes Node's headers. CMakeLists.txt sets what node-addon-api needs to know: the version of
// Node-API, C++ exceptions of every kind, and that errors which cannot be thrown any more are dropped
// (NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS): while an environment is torn down (worker.terminate(), process.exit())
// calls fail that otherwise cannot, and without it the process would end.
#pragma once

#ifndef NAPI_VERSION
#error "NAPI_VERSION comes from CMakeLists.txt"
#endif

#include <napi.h>

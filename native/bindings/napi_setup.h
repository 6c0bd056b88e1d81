// The only file that includes Node's headers. The addon calls the C interface itself: every call's status is looked at
// here and never ends the process, also while an environment is being torn down (worker.terminate(), process.exit()),
// when calls fail that otherwise cannot. Wrappers that throw or abort on such a status have crashed other addons.
#pragma once

#ifndef NAPI_VERSION
#error "NAPI_VERSION comes from CMakeLists.txt"
#endif

#include <node_api.h>

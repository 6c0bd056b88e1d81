// Keeps this module loaded for the rest of the process.
#pragma once

namespace tsq {

// Node unloads an addon when the last worker_thread that loaded it ends; a pool thread would then return into code that
// is no longer mapped. Called before the first thread starts. Where the system refuses, as it does for code that is
// part of the program itself, nothing is lost: that is never unloaded.
void pinModule();

}  // namespace tsq

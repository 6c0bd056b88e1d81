// The exports, by group: one file each.
#pragma once
#include <span>

#include "bindings/arguments.h"

namespace tsq {

std::span<const Export> cpuExports();
std::span<const Export> cudaExports();
std::span<const Export> cudaCalibrationExports();
std::span<const Export> cudaBenchExports();
std::span<const Export> handleExports();
std::span<const Export> mappingExports();
std::span<const Export> elementExports();
std::span<const Export> matrixExports();
std::span<const Export> bitExports();
std::span<const Export> ggufExports();
std::span<const Export> weightExports();
std::span<const Export> roundingExports();
std::span<const Export> codebookExports();
std::span<const Export> learnedRoundingExports();
std::span<const Export> accumulatorExports();
std::span<const Export> programExports();
std::span<const Export> benchExports();
std::span<const Export> packFileExports();

}  // namespace tsq

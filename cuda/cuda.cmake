# CUDA kernels: emulated on the host for the tests, and compiled by nvcc into a module of its own.
# Included by the main file: a language can be enabled in its scope only.

# --- the emulation: stacks are switched by code for x86-64 and arm64 ELF --------------------------------------------
# It has one thread of the system, and so nothing for ThreadSanitizer to find.
if(TSQ_NATIVE_TESTS AND UNIX AND NOT APPLE AND NOT TSQ_SANITIZE MATCHES thread AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|aarch64|arm64)$")
  file(GLOB emulation CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/emulation/*.cc)
  add_library(tsq_cuda STATIC ${emulation})
  target_include_directories(tsq_cuda PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(tsq_cuda PUBLIC tsq_runtime)
  target_compile_options(tsq_cuda PRIVATE -Werror)
endif()

# --- the module -----------------------------------------------------------------------------------------------------
set(TSQ_CUDA AUTO CACHE STRING "Build the CUDA module: AUTO (where nvcc is found), ON or OFF")
if(TSQ_CUDA STREQUAL OFF OR (TSQ_CUDA STREQUAL AUTO AND (CMAKE_CROSSCOMPILING OR TSQ_SANITIZE OR NOT UNIX OR APPLE)))
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
set(found "no nvcc")
if(CMAKE_CUDA_COMPILER)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE found)
  string(REGEX MATCH "release ([0-9.]+)" found "${found}")
endif()
if(NOT CMAKE_CUDA_COMPILER OR CMAKE_MATCH_1 VERSION_LESS 12.4)
  if(TSQ_CUDA STREQUAL ON)
    message(FATAL_ERROR "TSQ_CUDA=ON needs nvcc of CUDA 12.4 or later, and there is ${found}: install it, or set CUDACXX")
  endif()
  message(STATUS "Building without the CUDA module: it needs nvcc of CUDA 12.4 or later, and there is ${found}")
  return()
endif()
# sm_80 code runs on every 8.x; the PTX beside it is for what came after 9.0.
set(CMAKE_CUDA_ARCHITECTURES 80-real 80-virtual 90a-real)
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # older releases of CMake do not know that nvcc has it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)

file(GLOB module CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/module/*.cu)
file(GLOB hopper CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/module/sm_90a/*.cu)
file(GLOB ada CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/module/sm_89/*.cu)
add_library(tsq_cuda_hopper OBJECT ${hopper})
add_library(tsq_cuda_ada OBJECT ${ada})
add_library(tsq_cuda_module MODULE ${module} $<TARGET_OBJECTS:tsq_cuda_hopper> $<TARGET_OBJECTS:tsq_cuda_ada>)
foreach(target tsq_cuda_module tsq_cuda_hopper tsq_cuda_ada)
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  # In place of the directory's options, which are the host compiler's. A kernel that spills registers is an error, as is
  # any warning.
  set_target_properties(${target} PROPERTIES COMPILE_OPTIONS
    "-Werror;all-warnings;-Xcompiler=-Wall,-Wextra;SHELL:-Xptxas --warn-on-spills,--warn-on-local-memory-usage,--warning-as-error")
endforeach()
# Codes are to be the CPU's, which fuses no product and sum that is not written as one.
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/module/calibration.cu PROPERTIES COMPILE_OPTIONS "--fmad=false")
set_target_properties(tsq_cuda_hopper PROPERTIES
  CUDA_ARCHITECTURES 90a-real
  RULE_LAUNCH_COMPILE "bash ${CMAKE_CURRENT_LIST_DIR}/module/sm_90a/compile.sh")
# Products of e4m3 are for 8.9 and later.
set_target_properties(tsq_cuda_ada PROPERTIES CUDA_ARCHITECTURES "89-real;89-virtual;90a-real")
set_target_properties(tsq_cuda_module PROPERTIES OUTPUT_NAME tsq_cuda)
target_link_options(tsq_cuda_module PRIVATE -static-libgcc -static-libstdc++ -Wl,--exclude-libs,ALL -Wl,-z,nodelete)

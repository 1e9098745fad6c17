# SPDX-License-Identifier: Apache-2.0
# Build options, the warning set and the language standard, in one interface target: psa_options.
include(GNUInstallDirs)
option(PSA_BUILD_TOOLS "Build the psa command-line tool" ${PROJECT_IS_TOP_LEVEL})
option(PSA_BUILD_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(PSA_BUILD_BENCH "Build the benchmarks" OFF)
option(PSA_BUILD_FUZZERS "Build the fuzzers (needs clang)" OFF)
option(PSA_WERROR "Treat warnings as errors" ${PROJECT_IS_TOP_LEVEL})
option(PSA_UNITY_BUILD "Compile the files of the command line together" ON)
option(PSA_COVERAGE "Count executed lines with gcov" OFF)
set(PSA_SANITIZE "" CACHE STRING "Sanitizers of everything built here, as in -fsanitize=<list>")

# Programs of one build tree in one place: build/<preset>/bin/psa.
if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
endif()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

add_library(psa_options INTERFACE)
target_compile_features(psa_options INTERFACE cxx_std_20)
set(PSA_WARNINGS -Wall -Wextra -Wshadow -Wconversion -Wdouble-promotion)
target_compile_options(
  psa_options
  INTERFACE $<$<COMPILE_LANGUAGE:C,CXX>:-fvisibility=hidden>
            "$<$<COMPILE_LANGUAGE:C,CXX>:${PSA_WARNINGS}>"
            $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>)
# GCC 12 sees overlapping copies in std::string's own operator+ (GCC bug 105329).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(psa_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(PSA_WERROR)
  target_compile_options(psa_options INTERFACE $<$<COMPILE_LANGUAGE:C,CXX>:-Werror>)
endif()

# nvcc: CMake 3.25 silently drops the C++20 of a standard property for nvcc 13, so the flag is given
# here. -lineinfo lets profilers and compute-sanitizer name lines; it changes no code, but doubles the
# library.
string(JOIN "," PSA_HOST_WARNINGS -Wall -Wextra -Wshadow -Wdouble-promotion)
target_compile_options(
  psa_options
  INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>
            $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<CONFIG:RelWithDebInfo>>:-lineinfo>
            $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>
            "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fvisibility=hidden,${PSA_HOST_WARNINGS}>")
if(PSA_WERROR)
  target_compile_options(psa_options INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>")
endif()

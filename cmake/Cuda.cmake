# SPDX-License-Identifier: Apache-2.0
# Decides whether the CUDA backend is built: PSA_HAS_CUDA. Kernels name their architectures file by
# file (src/cuda/CMakeLists.txt), so CMake itself is told of none.
set(PSA_CUDA AUTO CACHE STRING "CUDA backend: AUTO (if nvcc is found), ON (or fail), OFF")
set_property(CACHE PSA_CUDA PROPERTY STRINGS AUTO ON OFF)
if(NOT PSA_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "PSA_CUDA is '${PSA_CUDA}'; allowed: AUTO, ON, OFF")
endif()

set(PSA_HAS_CUDA OFF)
set(instrumented OFF)
if(PSA_SANITIZE OR PSA_COVERAGE)
  set(instrumented ON) # nvcc's host pass does not take these flags
endif()
if(PSA_CUDA STREQUAL "ON" OR (PSA_CUDA STREQUAL "AUTO" AND NOT instrumented))
  if(instrumented)
    message(FATAL_ERROR "PSA_CUDA = ON does not go with PSA_SANITIZE or PSA_COVERAGE")
  endif()
  # nvcc is often installed where no search path leads.
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(PSA_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda
                 PATH_SUFFIXES bin)
    if(PSA_NVCC)
      set(CMAKE_CUDA_COMPILER ${PSA_NVCC})
    endif()
  endif()
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(PSA_HAS_CUDA ON)
  elseif(PSA_CUDA STREQUAL "ON")
    message(FATAL_ERROR "PSA_CUDA is ON, but no nvcc that works is on PATH, in CUDACXX, CUDA_HOME "
                        "or /usr/local/cuda; PSA_CUDA=OFF builds the CPU backends alone")
  endif()
endif()
message(STATUS "CUDA backend: ${PSA_HAS_CUDA}")

# SPDX-License-Identifier: Apache-2.0
# Instrumentation applies to every target, so that no object of a build tree lacks it.
if(PSA_SANITIZE)
  add_compile_options(-fsanitize=${PSA_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${PSA_SANITIZE})
endif()
if(PSA_COVERAGE)
  add_compile_options(--coverage)
  add_link_options(--coverage)
endif()

# Instrumented code makes GCC see reads of uninitialised memory that do not exist (std::regex's).
if(PSA_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(psa_options INTERFACE -Wno-maybe-uninitialized)
endif()

# SPDX-License-Identifier: Apache-2.0
# psa_add_gtest(name SOURCES ... [LIBS ...] [LABELS ...] [EXTRA_ARGS ...])
# A GoogleTest program linked with psa_core; each of its tests becomes one CTest test. It sees the
# folders src/ and tests/ as include roots and shares the precompiled headers of psa_gtest_headers
# (tests/CMakeLists.txt). LABELS defaults to cpu. CTest gives EXTRA_ARGS to each.
function(psa_add_gtest name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "SOURCES;LIBS;LABELS;EXTRA_ARGS")
  if(NOT ARG_LABELS)
    set(ARG_LABELS cpu)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_precompile_headers(${name} REUSE_FROM psa_gtest_headers)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} psa_core psa_options GTest::gmock
                                        GTest::gtest_main)
  # A list inside PROPERTIES comes apart in CMake's generated script. CTest matches labels as regular
  # expressions, so `ctest -L slow` also finds the one label "cpu slow".
  list(JOIN ARG_LABELS " " labels)
  gtest_discover_tests(${name} EXTRA_ARGS ${ARG_EXTRA_ARGS} DISCOVERY_MODE PRE_TEST
                       DISCOVERY_TIMEOUT 60
                       PROPERTIES LABELS "${labels}" TIMEOUT 300)
endfunction()

# psa_add_fuzzer(name SOURCES ... [LIBS ...] CORPUS dir)
# A libFuzzer program. Two CTest tests: <name>.replay reads every file of the committed corpus;
# <name>.short mutates it for a bounded number of runs with a fixed seed.
function(psa_add_fuzzer name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "CORPUS" "SOURCES;LIBS")
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/tools)
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} psa_options)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  if(NOT TARGET psa_fuzzers)
    add_custom_target(psa_fuzzers)
  endif()
  add_dependencies(psa_fuzzers ${name})

  file(MAKE_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/${name}_found")
  add_test(NAME ${name}.replay COMMAND ${name} -runs=0 "${ARG_CORPUS}")
  add_test(NAME ${name}.short COMMAND ${name} -seed=1 -runs=50000 -max_total_time=15 -max_len=4096
                                      "${CMAKE_CURRENT_BINARY_DIR}/${name}_found" "${ARG_CORPUS}")
  set_tests_properties(${name}.replay ${name}.short PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()

# SPDX-License-Identifier: Apache-2.0
# `cmake --install`: headers, libpsa.so and libpsa.a, find_package(psa CONFIG) and pkg-config files.
include(CMakePackageConfigHelpers)
set(PSA_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/psa)

install(TARGETS psa_shared psa_core EXPORT psaTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/psa ${PROJECT_BINARY_DIR}/include/psa
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h" PATTERN "*.hpp")

# In a wheel: the library alone, beside the Python modules and without its version links, which a
# wheel cannot hold (pyproject.toml).
install(PROGRAMS $<TARGET_FILE:psa_shared> DESTINATION psa/lib RENAME libpsa.so
        COMPONENT python EXCLUDE_FROM_ALL)

install(EXPORT psaTargets NAMESPACE psa:: DESTINATION ${PSA_CMAKE_DIR})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/PsaConfig.cmake.in
                              ${PROJECT_BINARY_DIR}/psaConfig.cmake
                              INSTALL_DESTINATION ${PSA_CMAKE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/psaConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/psaConfig.cmake ${PROJECT_BINARY_DIR}/psaConfigVersion.cmake
        DESTINATION ${PSA_CMAKE_DIR})

# What a program with a CUDA build of libpsa.a links as well; the toolkit's folder is the program's
# to name (-L), since it is another machine's.
set(PSA_PC_CUDA_LIBS "")
if(PSA_HAS_CUDA)
  set(PSA_PC_CUDA_LIBS "-lcudart_static -lrt -ldl ")
endif()
# psa.pc finds its prefix from its own place, so that an installed tree can be moved.
file(RELATIVE_PATH PSA_PC_TO_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
string(REGEX REPLACE "/$" "" PSA_PC_TO_PREFIX "${PSA_PC_TO_PREFIX}")
configure_file(${PROJECT_SOURCE_DIR}/cmake/psa.pc.in ${PROJECT_BINARY_DIR}/psa.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/psa.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# SPDX-License-Identifier: Apache-2.0
# Decides whether psa writes .mp4: PSA_HAS_FFMPEG, and the target PkgConfig::PSA_FFMPEG.
set(PSA_WITH_FFMPEG AUTO CACHE STRING "Write .mp4 through FFmpeg: AUTO (if found), ON (or fail), OFF")
set_property(CACHE PSA_WITH_FFMPEG PROPERTY STRINGS AUTO ON OFF)
if(NOT PSA_WITH_FFMPEG MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "PSA_WITH_FFMPEG is '${PSA_WITH_FFMPEG}'; allowed: AUTO, ON, OFF")
endif()

set(PSA_HAS_FFMPEG OFF)
if(NOT PSA_WITH_FFMPEG STREQUAL "OFF")
  find_package(PkgConfig QUIET)
  if(PKG_CONFIG_FOUND)
    # The versions of FFmpeg 5.0, whose muxers close files through a callback that can fail.
    pkg_check_modules(PSA_FFMPEG QUIET IMPORTED_TARGET libavcodec>=59.18 libavformat>=59.16
                      libavutil>=57.17 libswscale>=6.4)
  endif()
  if(PSA_FFMPEG_FOUND)
    set(PSA_HAS_FFMPEG ON)
  elseif(PSA_WITH_FFMPEG STREQUAL "ON")
    message(FATAL_ERROR "PSA_WITH_FFMPEG is ON, but pkg-config finds no libavcodec, libavformat, "
                        "libavutil and libswscale of FFmpeg 5.0 or newer")
  endif()
endif()
message(STATUS "FFmpeg: ${PSA_HAS_FFMPEG}")

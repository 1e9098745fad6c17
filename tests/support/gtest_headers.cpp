// SPDX-License-Identifier: Apache-2.0

// Only carries the precompiled headers of the test programs (tests/CMakeLists.txt).

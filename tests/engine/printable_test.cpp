// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/printable.hpp"

#include <gtest/gtest.h>

#include <string>

namespace psa::io {
namespace {

TEST(Printable, ControlBytesAreEscapedAndOthersKept) {
  EXPECT_EQ(printable("blocks.0/\xC3\xA4"), "'blocks.0/\xC3\xA4'");
  EXPECT_EQ(printable(std::string("\x1B[2J\n\0\x7F", 7)), "'\\x1b[2J\\x0a\\x00\\x7f'");
  EXPECT_EQ(printable(""), "''");
}

TEST(Printable, LongTextIsCutBetweenCharacters) {
  const std::string almost(159, 'n');
  EXPECT_EQ(printable(almost + "n"), "'" + almost + "n'");
  EXPECT_EQ(printable(almost + "nn"), "'" + almost + "n...'");
  // The two bytes of the last character lie on both sides of the limit.
  EXPECT_EQ(printable(almost + "\xC3\xA4n"), "'" + almost + "...'");
}

}  // namespace
}  // namespace psa::io

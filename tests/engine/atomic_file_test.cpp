// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/atomic_file.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "engine/child_process.hpp"
#include "engine/scratch_dir.hpp"
#include "psa/error.hpp"

namespace psa::io {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::string io_error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kIo);
    return error.what();
  }
  return "(no error)";
}

TEST(AtomicFile, CommitPublishesAllPieces) {
  const ScratchDir dir;
  AtomicFile file(dir.path("out"));
  file.write("one ");
  file.write(std::string_view("\0two", 4));
  file.commit();
  EXPECT_EQ(content_of(dir.path("out")), std::string("one \0two", 8));
  EXPECT_THAT(dir.listing(), ElementsAre("out"));
}

TEST(AtomicFile, ExistingFileStaysUntilCommit) {
  const ScratchDir dir;
  put_content(dir.path("out"), "before");
  AtomicFile file(dir.path("out"));
  file.write("after");
  EXPECT_EQ(content_of(dir.path("out")), "before");
  file.commit();
  EXPECT_EQ(content_of(dir.path("out")), "after");
}

TEST(AtomicFile, WithoutCommitNothingChanges) {
  const ScratchDir dir;
  put_content(dir.path("old"), "before");
  {
    AtomicFile replaced(dir.path("old"));
    replaced.write("after");
    AtomicFile created(dir.path("new"));
    created.write("after");
    EXPECT_EQ(dir.listing().size(), 3U);  // the two siblings are there
  }
  EXPECT_THAT(dir.listing(), ElementsAre("old"));
  EXPECT_EQ(content_of(dir.path("old")), "before");
}

TEST(AtomicFile, TwoWritersOfOnePathDoNotMix) {
  const ScratchDir dir;
  AtomicFile first(dir.path("out"));
  AtomicFile second(dir.path("out"));
  first.write("first");
  second.write("second");
  second.commit();
  first.commit();
  EXPECT_EQ(content_of(dir.path("out")), "first");
  EXPECT_THAT(dir.listing(), ElementsAre("out"));
}

TEST(AtomicFile, SiblingOfAKilledProcessIsNoObstacle) {
  const ScratchDir dir;
  std::string sibling;
  {
    const AtomicFile probe(dir.path("out"));
    sibling = *dir.listing().begin();
  }
  const std::size_t number_at = sibling.rfind('-') + 1;
  const int number = std::stoi(sibling.substr(number_at));
  const std::string next = sibling.substr(0, number_at) + std::to_string(number + 1);
  put_content(dir.path(next), "left behind by a process that had the same id");
  write_file(dir.path("out"), "content");
  EXPECT_EQ(content_of(dir.path("out")), "content");
  EXPECT_EQ(content_of(dir.path(next)), "left behind by a process that had the same id");
  EXPECT_THAT(dir.listing(), ElementsAre("out", next));
}

TEST(AtomicFile, FullDiskKeepsExistingFile) {
  const ScratchDir dir;
  put_content(dir.path("out"), "before");
  const std::string message = io_error_in_child(
      {.max_file_bytes = 4096}, [&] { write_file(dir.path("out"), std::string(10000, 'x')); });
  EXPECT_THAT(message, AllOf(HasSubstr("cannot write"), HasSubstr(dir.path("out").native()),
                             HasSubstr("File too large")));
  EXPECT_EQ(content_of(dir.path("out")), "before");
  EXPECT_THAT(dir.listing(), ElementsAre("out"));
}

TEST(AtomicFile, FullDeviceIsReportedWithItsReason) {
  // Without privileges, so that a defect here could not replace the device by a file.
  const std::string message =
      io_error_in_child({.is_unprivileged = true}, [] { write_file("/dev/full", "content"); });
  EXPECT_EQ(message, "cannot write '/dev/full': No space left on device");
}

TEST(AtomicFile, ReadOnlyDirectoryIsReported) {
  const ScratchDir dir;
  put_content(dir.path("out"), "before");
  ::chmod(dir.path("out").c_str(), 0666);
  ::chmod(dir.root().c_str(), 0555);
  for (const char* name : {"out", "new"}) {
    const std::string message =
        io_error_in_child({.is_unprivileged = true}, [&] { write_file(dir.path(name), "after"); });
    EXPECT_EQ(message, "cannot write '" + dir.path(name).native() + "': Permission denied");
  }
  EXPECT_EQ(content_of(dir.path("out")), "before");
  EXPECT_THAT(dir.listing(), ElementsAre("out"));
}

TEST(AtomicFile, WriteProtectedFileIsNotReplaced) {
  const ScratchDir dir;
  put_content(dir.path("out"), "before");
  ::chmod(dir.path("out").c_str(), 0444);
  ::chmod(dir.root().c_str(), 0777);  // a rename alone would be allowed
  const std::string message =
      io_error_in_child({.is_unprivileged = true}, [&] { write_file(dir.path("out"), "after"); });
  EXPECT_THAT(message, HasSubstr("Permission denied"));
  EXPECT_EQ(content_of(dir.path("out")), "before");
}

TEST(AtomicFile, PermissionBitsOfAReplacedFileStay) {
  const ScratchDir dir;
  put_content(dir.path("out"), "before");
  ::chmod(dir.path("out").c_str(), 0640);
  write_file(dir.path("out"), "after");
  struct stat info {};
  ASSERT_EQ(::stat(dir.path("out").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777U, 0640U);
}

TEST(AtomicFile, SymbolicLinkIsFollowed) {
  const ScratchDir dir;
  std::filesystem::create_directory(dir.path("folder"));
  put_content(dir.path("folder/target"), "before");
  std::filesystem::create_symlink("folder/target", dir.path("link"));
  write_file(dir.path("link"), "after");
  EXPECT_TRUE(std::filesystem::is_symlink(dir.path("link")));
  EXPECT_EQ(content_of(dir.path("folder/target")), "after");
}

TEST(AtomicFile, FifoIsWrittenInPlace) {
  const ScratchDir dir;
  const std::filesystem::path fifo = dir.path("fifo");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  const int reader = ::open(fifo.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  write_file(fifo, "content");
  std::string received(16, '\0');
  const ::ssize_t count = ::read(reader, received.data(), received.size());
  ::close(reader);
  ASSERT_EQ(count, 7);
  EXPECT_EQ(received.substr(0, 7), "content");
  EXPECT_TRUE(std::filesystem::is_fifo(fifo));
}

TEST(AtomicFile, PathsThatCannotBeFilesAreReported) {
  const ScratchDir dir;
  const auto message_of = [](const std::filesystem::path& path) {
    return io_error_of([&] { const AtomicFile file(path); });  // before anything is written
  };
  EXPECT_THAT(message_of(dir.root()), HasSubstr("Is a directory"));
  EXPECT_THAT(message_of(dir.path("missing/out")), HasSubstr("No such file or directory"));
  EXPECT_THAT(message_of(dir.path("missing/")), HasSubstr("No such file or directory"));
  EXPECT_THAT(message_of(""), HasSubstr("No such file or directory"));
  put_content(dir.path("file"), "");
  EXPECT_THAT(message_of(dir.path("file/out")), HasSubstr("Not a directory"));
  EXPECT_THAT(message_of(dir.path(std::string(300, 'n'))), HasSubstr("File name too long"));
  EXPECT_THAT(dir.listing(), ElementsAre("file"));
}

TEST(AtomicFile, TargetThatBecameADirectoryIsReportedAtCommit) {
  const ScratchDir dir;
  {
    AtomicFile file(dir.path("out"));
    file.write("content");
    std::filesystem::create_directory(dir.path("out"));
    EXPECT_THAT(io_error_of([&] { file.commit(); }), HasSubstr("Is a directory"));
  }
  std::filesystem::remove(dir.path("out"));
  EXPECT_THAT(dir.listing(), IsEmpty());
}

}  // namespace
}  // namespace psa::io

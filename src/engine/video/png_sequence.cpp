// SPDX-License-Identifier: Apache-2.0
#include "engine/video/png_sequence.hpp"

#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <vector>

#include "engine/tensors/atomic_file.hpp"
#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void throw_io(const fs::path& path, const std::error_code& reason) {
  throw Error(Status::kIo,
              "cannot write " + io::printable(path.native()) + ": " + reason.message());
}

[[noreturn]] void reject_pattern(const fs::path& path) {
  throw Error(Status::kInvalidArgument,
              io::printable(path.native()) +
                  " names one picture; frames need a number, as in frame_%04d.png, or a folder");
}

/// An empty folder that is removed with what is in it unless it is released.
class Folder {
 public:
  explicit Folder(const fs::path& path) : path_(path) {
    std::error_code error;
    if (!fs::create_directory(path_, error)) {
      throw_io(path_, error ? error : std::make_error_code(std::errc::file_exists));
    }
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  [[nodiscard]] const fs::path& path() const { return path_; }
  void release() { path_.clear(); }

 private:
  fs::path path_;
};

/// Beside the frames, so that moving them copies nothing.
fs::path staging_path(const fs::path& folder) {
  return folder / (".psa-frames-" + std::to_string(::getpid()));
}

void write_frames(const PngSequence& sequence, const Video& video) {
  const Folder staging(staging_path(sequence.folder));
  std::vector<fs::path> staged;
  for (const Image& frame : video.frames()) {
    staged.push_back(staging.path() / std::to_string(staged.size()));
    io::write_file(staged.back(), encode_png(frame));
  }
  for (std::size_t i = 0; i < staged.size(); ++i) {
    const fs::path target = sequence.path_of(static_cast<int>(i));
    std::error_code error;
    fs::rename(staged[i], target, error);
    if (error) throw_io(target, error);
  }
}

}  // namespace

fs::path PngSequence::path_of(int index) const {
  std::string number = std::to_string(index);
  const auto width = static_cast<std::size_t>(digits);
  if (number.size() < width) number.insert(0, width - number.size(), '0');
  return folder / (stem + number + tail);
}

PngSequence png_sequence_of(const fs::path& path) {
  PngSequence sequence;
  if (path.extension() != ".png") {
    sequence.folder = path;
    sequence.stem = "frame_";
    sequence.tail = ".png";
    sequence.may_create_folder = true;
    return sequence;
  }
  const std::string name = path.filename();
  const std::size_t percent = name.find('%');
  if (percent == std::string::npos) reject_pattern(path);
  const std::string_view number = std::string_view(name).substr(percent);
  const bool has_width = number.size() > 3 && number[1] == '0' && number[2] >= '1' &&
                         number[2] <= '9' && number[3] == 'd';
  const bool is_plain = number.size() > 1 && number[1] == 'd';
  if (!has_width && !is_plain) reject_pattern(path);
  sequence.folder = path.parent_path();
  sequence.stem = name.substr(0, percent);
  sequence.digits = has_width ? number[2] - '0' : 1;
  sequence.tail = number.substr(has_width ? 4 : 2);
  if (sequence.tail.find('%') != std::string::npos) reject_pattern(path);
  return sequence;
}

void check_png_sequence(const PngSequence& sequence, int num_frames) {
  const fs::path folder = sequence.folder.empty() ? "." : sequence.folder;
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (status.type() == fs::file_type::not_found) {
    if (!sequence.may_create_folder) throw_io(folder, error);
    return;
  }
  if (status.type() == fs::file_type::none) throw_io(folder, error);
  if (status.type() != fs::file_type::directory) {
    throw_io(folder, std::make_error_code(std::errc::not_a_directory));
  }
  if (::access(folder.c_str(), W_OK) != 0) {
    throw_io(folder, std::error_code(errno, std::generic_category()));
  }
  const fs::path next = sequence.path_of(num_frames);
  if (!fs::exists(next, error)) return;
  throw Error(Status::kInvalidArgument, io::printable(next.native()) +
                                            " is there already: the frames of a longer video, "
                                            "which would stay as the end of this one; remove "
                                            "them or choose another name");
}

void write_png_sequence(const PngSequence& sequence, const Video& video) {
  check_png_sequence(sequence, video.num_frames());
  std::error_code ignored;
  if (!sequence.may_create_folder || fs::exists(sequence.folder, ignored)) {
    write_frames(sequence, video);
    return;
  }
  Folder folder(sequence.folder);
  write_frames(sequence, video);
  folder.release();
}

}  // namespace psa::engine

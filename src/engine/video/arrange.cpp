// SPDX-License-Identifier: Apache-2.0
// Several videos on one picture.
#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/video/bitmap_font.hpp"
#include "engine/video/video.hpp"
#include "psa/error.hpp"
#include "psa/types.hpp"

namespace psa::engine {
namespace {

constexpr Rgb kPaper{255, 255, 255};
constexpr Rgb kInk{40, 40, 40};

/// Distances in pixels, which grow with the frames so that labels stay legible when the picture is
/// shown at the size of a page.
struct Spacing {
  int text_size;
  int gap;         // between frames
  int label_line;  // a label and the space around it; 0 without labels
};

Spacing spacing_of(std::span<const LabelledVideo> videos) {
  const int text_size = std::clamp(videos[0].video->width() / 64, 1, 4);
  const int gap = 2 * text_size;
  const bool is_labelled = std::any_of(videos.begin(), videos.end(),
                                       [](const LabelledVideo& v) { return !v.label.empty(); });
  return {text_size, gap, is_labelled ? gap + text_height(text_size) : 0};
}

void check_alike(std::span<const LabelledVideo> videos) {
  if (videos.empty()) throw Error(Status::kInvalidArgument, "there is no video to show");
  const Video& first = *videos[0].video;
  for (const LabelledVideo& other : videos) {
    const Video& video = *other.video;
    if (video.num_frames() != first.num_frames() || video.width() != first.width() ||
        video.height() != first.height()) {
      throw Error(Status::kInvalidArgument,
                  "videos that are shown together differ in size or length");
    }
  }
}

/// A frame below its label, cut to the width of the frame.
void paste_labelled(Image& picture, const Image& frame, const std::string& label,
                    const Spacing& space, int x, int y) {
  if (space.label_line > 0) {
    Image line(frame.width(), space.label_line, kPaper);
    draw_text(line, 0, space.gap / 2, label, kInk, space.text_size);
    paste(picture, line, x, y);
  }
  paste(picture, frame, x, y + space.label_line);
}

index_t rounded_up_to_even(index_t n) { return (n + 1) / 2 * 2; }

}  // namespace

Video side_by_side(std::span<const LabelledVideo> videos) {
  check_alike(videos);
  const Video& first = *videos[0].video;
  const Spacing space = spacing_of(videos);
  const int pitch = first.width() + space.gap;
  const auto count = static_cast<index_t>(videos.size());
  std::vector<Image> frames;
  for (std::size_t f = 0; f < first.frames().size(); ++f) {
    // Video encoders want even sides.
    Image frame(rounded_up_to_even(count * pitch - space.gap),
                rounded_up_to_even(space.label_line + first.height()), kPaper);
    int x = 0;
    for (const LabelledVideo& shown : videos) {
      paste_labelled(frame, shown.video->frames()[f], shown.label, space, x, 0);
      x += pitch;
    }
    frames.push_back(std::move(frame));
  }
  return Video(std::move(frames));
}

Image frame_strip(std::span<const LabelledVideo> videos, int columns) {
  check_alike(videos);
  const Video& first = *videos[0].video;
  if (columns < 1 || columns > first.num_frames()) {
    throw Error(Status::kInvalidArgument, "a strip of " + std::to_string(columns) +
                                              " frames was asked for; the video has " +
                                              std::to_string(first.num_frames()));
  }
  const Spacing space = spacing_of(videos);
  const int pitch_x = first.width() + space.gap;
  const int pitch_y = space.label_line + first.height() + space.gap;
  Image strip(index_t{columns} * pitch_x - space.gap,
              static_cast<index_t>(videos.size()) * pitch_y - space.gap, kPaper);
  int y = 0;
  for (const LabelledVideo& shown : videos) {
    for (int column = 0; column < columns; ++column) {
      const double share = columns > 1 ? static_cast<double>(column) / (columns - 1) : 0;
      const auto frame = static_cast<std::size_t>(std::lround(share * (first.num_frames() - 1)));
      paste_labelled(strip, shown.video->frames()[frame], column == 0 ? shown.label : "", space,
                     column * pitch_x, y);
    }
    y += pitch_y;
  }
  return strip;
}

}  // namespace psa::engine

// SPDX-License-Identifier: Apache-2.0
// Built with FFmpeg only.
#include "engine/video/mp4.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "engine/sample_video.hpp"
#include "engine/scratch_dir.hpp"
#include "engine/video/quality.hpp"
#include "engine/video/video_file.hpp"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswscale/swscale.h>
}

namespace psa::engine {
namespace {

using testing::AnyOf;
using testing::StrEq;

struct DecodedMp4 {
  std::vector<Image> frames;
  double seconds = 0;
  double frames_per_second = 0;
  AVPixelFormat pixels = AV_PIX_FMT_NONE;
  AVColorSpace colors = AVCOL_SPC_UNSPECIFIED;
};

Image image_of(const AVFrame& frame) {
  Image image(frame.width, frame.height);
  SwsContext* scaler = sws_getContext(
      frame.width, frame.height, static_cast<AVPixelFormat>(frame.format), frame.width,
      frame.height, AV_PIX_FMT_RGB24, SWS_BICUBIC | SWS_ACCURATE_RND, nullptr, nullptr, nullptr);
  const int* bt709 = sws_getCoefficients(SWS_CS_ITU709);
  sws_setColorspaceDetails(scaler, bt709, 0, bt709, 1, 0, 1 << 16, 1 << 16);
  std::uint8_t* rows[] = {image.bytes().data()};
  const int stride[] = {3 * frame.width};
  sws_scale(scaler, frame.data, frame.linesize, 0, frame.height, rows, stride);
  sws_freeContext(scaler);
  return image;
}

DecodedMp4 decode(const std::filesystem::path& path) {
  DecodedMp4 video;
  AVFormatContext* demuxer = nullptr;
  if (avformat_open_input(&demuxer, path.c_str(), nullptr, nullptr) < 0) return video;
  EXPECT_GE(avformat_find_stream_info(demuxer, nullptr), 0);
  EXPECT_EQ(demuxer->nb_streams, 1U);
  const AVStream& stream = *demuxer->streams[0];
  const AVCodec* codec = avcodec_find_decoder(stream.codecpar->codec_id);
  AVCodecContext* decoder = avcodec_alloc_context3(codec);
  avcodec_parameters_to_context(decoder, stream.codecpar);
  decoder->thread_count = 1;
  EXPECT_GE(avcodec_open2(decoder, codec, nullptr), 0);
  AVPacket* packet = av_packet_alloc();
  AVFrame* frame = av_frame_alloc();
  const auto receive = [&] {
    while (avcodec_receive_frame(decoder, frame) >= 0) video.frames.push_back(image_of(*frame));
  };
  while (av_read_frame(demuxer, packet) >= 0) {
    EXPECT_GE(avcodec_send_packet(decoder, packet), 0);
    av_packet_unref(packet);
    receive();
  }
  avcodec_send_packet(decoder, nullptr);
  receive();
  video.seconds = static_cast<double>(demuxer->duration) / AV_TIME_BASE;
  video.frames_per_second = av_q2d(stream.avg_frame_rate);
  video.pixels = decoder->pix_fmt;
  video.colors = decoder->colorspace;
  av_frame_free(&frame);
  av_packet_free(&packet);
  avcodec_free_context(&decoder);
  avformat_close_input(&demuxer);
  return video;
}

std::string_view characters_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(Mp4, FramesTimesAndColorsComeBack) {
  ASSERT_THAT(mp4_encoder(), AnyOf(StrEq("libx264"), StrEq("mpeg4")));
  const io::ScratchDir dir;
  // Squares of 8x8 pixels, so that halving the resolution of color changes little.
  const Video video = enlarged(square_video(21, 40, 24), 4);
  write_video(dir.path("a.mp4"), video, 8);
  const DecodedMp4 decoded = decode(dir.path("a.mp4"));
  ASSERT_EQ(decoded.frames.size(), 21U);
  EXPECT_NEAR(decoded.seconds, 21 / 8.0, 0.01);
  EXPECT_EQ(decoded.frames_per_second, 8);
  EXPECT_EQ(decoded.pixels, AV_PIX_FMT_YUV420P);
  EXPECT_EQ(decoded.colors, AVCOL_SPC_BT709);
  EXPECT_GT(compare_videos(video, Video(decoded.frames)).psnr_db, 30);
}

TEST(Mp4, OddSidesAreRepeated) {
  const io::ScratchDir dir;
  write_video(dir.path("a.mp4"), gradient_video(2, 33, 21), 8);
  const DecodedMp4 decoded = decode(dir.path("a.mp4"));
  ASSERT_EQ(decoded.frames.size(), 2U);
  EXPECT_EQ(decoded.frames[0].width(), 34);
  EXPECT_EQ(decoded.frames[0].height(), 22);
}

TEST(Mp4, OneFrameOfOnePixelIsAVideo) {
  const io::ScratchDir dir;
  write_video(dir.path("a.mp4"), gradient_video(1, 1, 1), 240);
  EXPECT_EQ(decode(dir.path("a.mp4")).frames.size(), 1U);
}

TEST(Mp4, IndexComesFirst) {
  const std::vector<std::byte> bytes = encode_mp4(gradient_video(5, 64, 64), 8);
  const std::string_view file = characters_of(bytes);
  EXPECT_EQ(file.substr(4, 4), "ftyp");
  EXPECT_LT(file.find("moov"), file.find("mdat"));
}

TEST(Mp4, BytesAreReproducible) {
  EXPECT_EQ(encode_mp4(gradient_video(5, 64, 64), 8), encode_mp4(gradient_video(5, 64, 64), 8));
}

TEST(Mp4, EncodingPrintsNothingAndKeepsTheLogLevel) {
  av_log_set_level(AV_LOG_WARNING);
  testing::internal::CaptureStderr();
  static_cast<void>(encode_mp4(gradient_video(3, 64, 64), 8));
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(av_log_get_level(), AV_LOG_WARNING);
}

}  // namespace
}  // namespace psa::engine

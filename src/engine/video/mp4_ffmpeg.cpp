// SPDX-License-Identifier: Apache-2.0
// Video -> swscale (RGB to YUV) -> libavcodec (packets) -> libavformat (mp4) -> MemoryFile.
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "engine/video/mp4.hpp"
#include "psa/error.hpp"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
}

namespace psa::engine {
namespace {

template <typename T, void (*kFree)(T**)>
struct FreePointer {
  void operator()(T* pointer) const { kFree(&pointer); }
};
using Frame = std::unique_ptr<AVFrame, FreePointer<AVFrame, av_frame_free>>;
using Packet = std::unique_ptr<AVPacket, FreePointer<AVPacket, av_packet_free>>;
using Encoder = std::unique_ptr<AVCodecContext, FreePointer<AVCodecContext, avcodec_free_context>>;

struct FreeScaler {
  void operator()(SwsContext* scaler) const { sws_freeContext(scaler); }
};
using Scaler = std::unique_ptr<SwsContext, FreeScaler>;

struct FreeMuxer {
  void operator()(AVFormatContext* muxer) const { avformat_free_context(muxer); }
};
using Muxer = std::unique_ptr<AVFormatContext, FreeMuxer>;

/// Throws if an FFmpeg call has returned an error; passes its result on otherwise.
int check(int result, const char* what) {
  if (result >= 0) return result;
  char reason[AV_ERROR_MAX_STRING_SIZE] = {};
  av_strerror(result, reason, sizeof reason);
  const Status status = result == AVERROR(ENOMEM) ? Status::kOutOfMemory : Status::kInternal;
  throw Error(status, std::string("FFmpeg cannot ") + what + ": " + reason);
}

template <typename Pointer>
Pointer check_allocated(Pointer pointer, const char* what) {
  if (pointer == nullptr) check(AVERROR(ENOMEM), what);
  return pointer;
}

/// Encoders report settings and statistics on stderr, which belongs to the program.
class QuietLog {
 public:
  QuietLog() { av_log_set_level(AV_LOG_QUIET); }
  QuietLog(const QuietLog&) = delete;
  QuietLog& operator=(const QuietLog&) = delete;
  ~QuietLog() { av_log_set_level(before_); }

 private:
  int before_ = av_log_get_level();
};

struct FreeIo {
  void operator()(AVIOContext* io) const {
    av_freep(&io->buffer);
    avio_context_free(&io);
  }
};
using Io = std::unique_ptr<AVIOContext, FreeIo>;

/// A file in memory as libavformat sees files. The muxer opens it a second time, for reading, when
/// it moves the index to the front.
class MemoryFile {
 public:
  Io open_for_writing() { return open(writer_, 1); }
  [[nodiscard]] std::vector<std::byte> take() { return std::move(bytes_); }

  /// AVFormatContext::io_open of a muxer whose `opaque` is this file.
  static int reopen(AVFormatContext* muxer, AVIOContext** io, const char* /*url*/, int flags,
                    AVDictionary** /*options*/) {
    if ((flags & AVIO_FLAG_WRITE) != 0) return AVERROR(EACCES);
    auto* file = static_cast<MemoryFile*>(muxer->opaque);
    file->reader_.at = 0;
    *io = file->open(file->reader_, 0).release();
    return *io == nullptr ? AVERROR(ENOMEM) : 0;
  }
  /// AVFormatContext::io_close2.
  static int close(AVFormatContext* /*muxer*/, AVIOContext* io) {
    FreeIo()(io);
    return 0;
  }

 private:
  struct Cursor {
    MemoryFile* file;
    std::size_t at = 0;
  };

  Io open(Cursor& cursor, int is_writable) {
    constexpr int kBufferBytes = 1 << 16;
    auto* buffer = static_cast<unsigned char*>(av_malloc(kBufferBytes));
    if (buffer == nullptr) return nullptr;
    // The type of the bytes to write became const in FFmpeg 7: `auto` takes either.
    Io io(avio_alloc_context(
        buffer, kBufferBytes, is_writable, &cursor, read,
        [](void* opaque, auto* data, int size) -> int { return write(opaque, data, size); }, seek));
    if (io == nullptr) av_free(buffer);
    return io;
  }

  // No exception may pass through FFmpeg.
  static int write(void* opaque, const std::uint8_t* data, int size) noexcept {
    auto& cursor = *static_cast<Cursor*>(opaque);
    std::vector<std::byte>& bytes = cursor.file->bytes_;
    const std::size_t end = cursor.at + static_cast<std::size_t>(size);
    try {
      if (end > bytes.size()) bytes.resize(end);
    } catch (const std::bad_alloc&) {
      return AVERROR(ENOMEM);
    }
    std::memcpy(bytes.data() + cursor.at, data, static_cast<std::size_t>(size));
    cursor.at = end;
    return size;
  }

  static int read(void* opaque, std::uint8_t* data, int size) noexcept {
    auto& cursor = *static_cast<Cursor*>(opaque);
    const std::vector<std::byte>& bytes = cursor.file->bytes_;
    if (cursor.at >= bytes.size()) return AVERROR_EOF;
    const std::size_t count = std::min(static_cast<std::size_t>(size), bytes.size() - cursor.at);
    std::memcpy(data, bytes.data() + cursor.at, count);
    cursor.at += count;
    return static_cast<int>(count);
  }

  static std::int64_t seek(void* opaque, std::int64_t offset, int whence) noexcept {
    auto& cursor = *static_cast<Cursor*>(opaque);
    const auto size = static_cast<std::int64_t>(cursor.file->bytes_.size());
    if (whence == AVSEEK_SIZE) return size;
    if ((whence & ~AVSEEK_FORCE) == SEEK_CUR) offset += static_cast<std::int64_t>(cursor.at);
    if ((whence & ~AVSEEK_FORCE) == SEEK_END) offset += size;
    if (offset < 0) return AVERROR(EINVAL);
    cursor.at = static_cast<std::size_t>(offset);
    return offset;
  }

  std::vector<std::byte> bytes_;
  Cursor writer_{this};
  Cursor reader_{this};
};

const AVCodec* find_encoder() {
  const AVCodec* x264 = avcodec_find_encoder_by_name("libx264");
  return x264 != nullptr ? x264 : avcodec_find_encoder_by_name("mpeg4");
}

int rounded_up_to_even(int side) { return (side + 1) / 2 * 2; }

Encoder open_encoder(const Video& video, int frames_per_second, bool wants_global_header) {
  const AVCodec* codec = find_encoder();
  if (codec == nullptr) check(AVERROR_ENCODER_NOT_FOUND, "encode .mp4");
  Encoder encoder(check_allocated(avcodec_alloc_context3(codec), "encode .mp4"));
  encoder->width = rounded_up_to_even(video.width());
  encoder->height = rounded_up_to_even(video.height());
  encoder->pix_fmt = AV_PIX_FMT_YUV420P;
  encoder->time_base = {1, frames_per_second};
  encoder->framerate = {frames_per_second, 1};
  encoder->colorspace = AVCOL_SPC_BT709;
  encoder->color_primaries = AVCOL_PRI_BT709;
  encoder->color_trc = AVCOL_TRC_BT709;
  encoder->color_range = AVCOL_RANGE_MPEG;
  encoder->thread_count = 1;
  encoder->flags |= AV_CODEC_FLAG_BITEXACT;
  if (wants_global_header) encoder->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
  if (std::strcmp(codec->name, "libx264") == 0) {
    check(av_opt_set(encoder->priv_data, "crf", "16", 0), "set the quality");
    check(av_opt_set(encoder->priv_data, "preset", "slow", 0), "set the effort");
  } else {
    constexpr int kQuantizer = 2;  // the finest but one
    encoder->flags |= AV_CODEC_FLAG_QSCALE;
    encoder->global_quality = kQuantizer * FF_QP2LAMBDA;
  }
  check(avcodec_open2(encoder.get(), codec, nullptr), "open the encoder");
  return encoder;
}

/// From the bytes of an Image to frames of an encoder.
class Converter {
 public:
  explicit Converter(const AVCodecContext& encoder)
      : width_(encoder.width),
        height_(encoder.height),
        scaler_(check_allocated(
            sws_getContext(width_, height_, AV_PIX_FMT_RGB24, width_, height_, encoder.pix_fmt,
                           SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP | SWS_BITEXACT,
                           nullptr, nullptr, nullptr),
            "convert colors")) {
    constexpr int kOne = 1 << 16;
    const int* bt709 = sws_getCoefficients(SWS_CS_ITU709);
    check(sws_setColorspaceDetails(scaler_.get(), bt709, 1, bt709, 0, 0, kOne, kOne),
          "convert colors");
  }

  [[nodiscard]] Frame convert(const Image& image) const {
    Image padded(width_, height_);
    for (int y = 0; y < height_; ++y) {
      for (int x = 0; x < width_; ++x) {
        padded.set(x, y, image.at(std::min(x, image.width() - 1), std::min(y, image.height() - 1)));
      }
    }
    Frame frame(check_allocated(av_frame_alloc(), "encode .mp4"));
    frame->width = width_;
    frame->height = height_;
    frame->format = AV_PIX_FMT_YUV420P;
    check(av_frame_get_buffer(frame.get(), 0), "encode .mp4");
    const std::uint8_t* rows[] = {padded.bytes().data()};
    const int stride[] = {3 * width_};
    check(sws_scale(scaler_.get(), rows, stride, 0, height_, frame->data, frame->linesize),
          "convert colors");
    return frame;
  }

 private:
  int width_;
  int height_;
  Scaler scaler_;
};

/// Passes the packets that are ready to the muxer; a null frame also drains the encoder.
void encode_frame(AVCodecContext& encoder, const AVFrame* frame, AVFormatContext& muxer) {
  constexpr const char* kAction = "encode a frame";
  check(avcodec_send_frame(&encoder, frame), kAction);
  const Packet packet(check_allocated(av_packet_alloc(), kAction));
  while (true) {
    const int result = avcodec_receive_packet(&encoder, packet.get());
    if (result == AVERROR(EAGAIN) || result == AVERROR_EOF) return;
    check(result, kAction);
    const AVStream& stream = *muxer.streams[0];
    packet->stream_index = stream.index;
    av_packet_rescale_ts(packet.get(), encoder.time_base, stream.time_base);
    check(av_interleaved_write_frame(&muxer, packet.get()), "write .mp4");
  }
}

Muxer open_muxer(MemoryFile& file, AVIOContext* io) {
  AVFormatContext* muxer = nullptr;
  check(avformat_alloc_output_context2(&muxer, nullptr, "mp4", "memory.mp4"), "write .mp4");
  muxer->pb = io;
  muxer->opaque = &file;
  muxer->io_open = MemoryFile::reopen;
  muxer->io_close2 = MemoryFile::close;
  muxer->flags |= AVFMT_FLAG_CUSTOM_IO | AVFMT_FLAG_BITEXACT;
  return Muxer(muxer);
}

}  // namespace

std::string mp4_encoder() {
  const AVCodec* codec = find_encoder();
  return codec == nullptr ? "" : codec->name;
}

std::vector<std::byte> encode_mp4(const Video& video, int frames_per_second) {
  const QuietLog quiet;
  MemoryFile file;
  const Io io = file.open_for_writing();
  check_allocated(io.get(), "write .mp4");
  const Muxer muxer = open_muxer(file, io.get());
  const bool wants_global_header = (muxer->oformat->flags & AVFMT_GLOBALHEADER) != 0;
  const Encoder encoder = open_encoder(video, frames_per_second, wants_global_header);
  AVStream* stream = check_allocated(avformat_new_stream(muxer.get(), nullptr), "write .mp4");
  stream->time_base = encoder->time_base;
  stream->avg_frame_rate = encoder->framerate;
  check(avcodec_parameters_from_context(stream->codecpar, encoder.get()), "write .mp4");
  check(av_opt_set(muxer->priv_data, "movflags", "+faststart", 0), "write .mp4");
  check(avformat_write_header(muxer.get(), nullptr), "write .mp4");
  const Converter converter(*encoder);
  std::int64_t time = 0;
  for (const Image& image : video.frames()) {
    const Frame frame = converter.convert(image);
    frame->pts = time++;
    encode_frame(*encoder, frame.get(), *muxer);
  }
  encode_frame(*encoder, nullptr, *muxer);
  check(av_write_trailer(muxer.get()), "write .mp4");
  avio_flush(io.get());
  check(io->error, "write .mp4");
  return file.take();
}

}  // namespace psa::engine

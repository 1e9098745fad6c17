// SPDX-License-Identifier: Apache-2.0
#include "qkv_capture.hpp"

#include <array>
#include <cstddef>
#include <cstring>
#include <utility>

#include "engine/tensors/safetensors.hpp"
#include "psa/error.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

/// A contiguous copy [1, heads, tokens, head_dim] of a view, whose channels lie side by side.
std::vector<std::byte> contiguous(const TensorView& t) {
  const auto row_bytes = static_cast<std::size_t>(t.shape[3]) * size_of(t.dtype);
  std::vector<std::byte> bytes(static_cast<std::size_t>(t.shape[1] * t.shape[2]) * row_bytes);
  std::byte* to = bytes.data();
  for (index_t h = 0; h < t.shape[1]; ++h) {
    for (index_t l = 0; l < t.shape[2]; ++l) {
      const index_t element = h * t.stride[1] + l * t.stride[2];
      std::memcpy(
          to,
          static_cast<const std::byte*>(t.data) + element * static_cast<index_t>(size_of(t.dtype)),
          row_bytes);
      to += row_bytes;
    }
  }
  return bytes;
}

io::FileDType file_dtype(DType dtype) {
  if (dtype == DType::kBF16) return io::FileDType::kBF16;
  return dtype == DType::kF16 ? io::FileDType::kF16 : io::FileDType::kF32;
}

/// q, k, v [1, heads, tokens, head_dim] with the grid and `prompt` as metadata.
void write_capture(const std::filesystem::path& path, int step, const std::string& prompt,
                   const engine::LayerAttention& layer) {
  const std::array<std::string, 3> names{"q", "k", "v"};
  const std::array<TensorView, 3> views{layer.q, layer.k, layer.v};
  std::array<std::vector<std::byte>, 3> data;
  std::vector<io::TensorInfo> tensors;
  for (std::size_t i = 0; i < views.size(); ++i) {
    data[i] = contiguous(views[i]);
    tensors.push_back({.name = names[i],
                       .dtype = file_dtype(views[i].dtype),
                       .shape = {views[i].shape.begin(), views[i].shape.end()},
                       .data = data[i]});
  }
  const VideoGrid& grid = layer.grid;
  io::write_safetensors(path, tensors,
                        {{"grid", std::to_string(grid.frames) + "," + std::to_string(grid.height) +
                                      "," + std::to_string(grid.width)},
                         {"layer", std::to_string(layer.layer)},
                         {"step", std::to_string(step)},
                         {"prompt", prompt}});
}

}  // namespace

CaptureChoice parse_capture(std::string_view text, int num_layers, int num_steps) {
  const std::string form = "expected layers=N,N,...,steps=N,N,...";
  CaptureChoice choice;
  std::set<int>* list = nullptr;
  int count = 0;
  for (std::string_view part : split(text, ',')) {
    for (const std::string_view key : {"layers=", "steps="}) {
      if (!part.starts_with(key)) continue;
      list = key == "layers=" ? &choice.layers : &choice.steps;
      count = key == "layers=" ? num_layers : num_steps;
      part.remove_prefix(key.size());
    }
    if (list == nullptr) reject({"--capture", text}, form);
    list->insert(static_cast<int>(parse_integer({"a number of --capture", part}, 0, count - 1)));
  }
  if (choice.layers.empty() || choice.steps.empty()) reject({"--capture", text}, form);
  return choice;
}

std::filesystem::path capture_path(const std::filesystem::path& out, int layer, int step) {
  // Of a folder of pictures: beside the folder.
  std::filesystem::path base = out.has_filename() ? out : out.parent_path();
  base.replace_extension();
  base += "_layer" + std::to_string(layer) + "_step" + std::to_string(step) + ".safetensors";
  return base;
}

engine::GenerationObserver capturing(CaptureChoice choice, std::filesystem::path out,
                                     std::string prompt, std::vector<WrittenCapture>& written) {
  engine::GenerationObserver observer;
  observer.after_attention = [choice = std::move(choice), out = std::move(out),
                              prompt = std::move(prompt),
                              &written](int step, const engine::LayerAttention& layer) {
    if (!choice.steps.contains(step) || !choice.layers.contains(layer.layer)) return;
    const std::filesystem::path path = capture_path(out, layer.layer, step);
    write_capture(path, step, prompt, layer);
    written.push_back({path, layer.layer, step, {}});
  };
  return observer;
}

Comparison compare_capture(const std::filesystem::path& path, const VideoGrid& grid,
                           const Config& attention, const PlanOptions& options, bool is_quiet) {
  InputOptions input;
  input.files = {path};
  Call call;
  call.inputs = load_inputs(input);
  call.problem.shape = call.inputs.shape();
  call.problem.layout.grid = grid;
  call.problem.config = attention;
  call.plan_options = options;
  ComparisonOptions comparison;
  comparison.methods.assign(kAllMethods.begin(), kAllMethods.end());
  comparison.curve.assign(kCurveDensities.begin(), kCurveDensities.end());
  comparison.keep_rows = true;
  comparison.quiet = is_quiet;
  return compare_methods(call, comparison);
}

}  // namespace psa::cli

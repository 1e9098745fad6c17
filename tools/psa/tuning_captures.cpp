// SPDX-License-Identifier: Apache-2.0
#include "tuning_captures.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <system_error>
#include <tuple>
#include <utility>

#include "engine/tensors/printable.hpp"
#include "engine/tensors/safetensors.hpp"
#include "psa/error.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

constexpr const char* kExtension = ".safetensors";

std::vector<std::filesystem::path> files_of(const std::string& given) {
  std::error_code error;
  const std::filesystem::path path(given);
  if (!std::filesystem::is_directory(path, error)) {
    if (path.extension() != kExtension) {
      reject({"a file of --qkv", given}, "allowed: folders, and names that end in .safetensors");
    }
    return {path};
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    if (entry.path().extension() == kExtension) files.push_back(entry.path());
  }
  if (error)
    throw Error(Status::kIo, "cannot read " + io::printable(given) + ": " + error.message());
  if (files.empty()) reject({"--qkv", given}, "the folder has no .safetensors file");
  return files;
}

Capture read_capture(const std::filesystem::path& path) {
  const auto metadata = io::SafetensorsFile::open(path).metadata();
  const auto number = [&](const std::string& key) -> std::optional<index_t> {
    const auto found = metadata.find(key);
    if (found == metadata.end()) return std::nullopt;
    return parse_integer({"metadata " + key + " of " + io::printable(path.string()), found->second},
                         0, std::numeric_limits<std::int32_t>::max());
  };
  const auto prompt = metadata.find("prompt");
  return {path, number("layer"), number("step").value_or(0),
          prompt == metadata.end() ? "" : prompt->second};
}

auto sort_key(const Capture& capture) {
  return std::tie(capture.layer, capture.step, capture.prompt, capture.path);
}

template <typename Predicate>
CaptureSplit divide(const std::vector<Capture>& captures, const Predicate& is_held_out) {
  CaptureSplit split;
  std::partition_copy(captures.begin(), captures.end(), std::back_inserter(split.held_out),
                      std::back_inserter(split.tuned), is_held_out);
  return split;
}

CaptureSplit split_by_prompt(const std::vector<Capture>& captures,
                             const std::set<std::string>& prompts) {
  constexpr std::size_t kShare = 4;
  const std::size_t count = std::max<std::size_t>(1, prompts.size() / kShare);
  const std::set<std::string> last(std::prev(prompts.end(), static_cast<std::ptrdiff_t>(count)),
                                   prompts.end());
  std::set<std::optional<index_t>> tuned_layers;
  for (const Capture& capture : captures) {
    if (!last.contains(capture.prompt)) tuned_layers.insert(capture.layer);
  }
  CaptureSplit split = divide(captures, [&](const Capture& capture) {
    return last.contains(capture.prompt) && tuned_layers.contains(capture.layer);
  });
  split.rule = count == 1 ? "prompt '" + *last.begin() + "'" : std::to_string(count) + " prompts";
  return split;
}

CaptureSplit split_by_step(const std::vector<Capture>& captures) {
  std::map<std::optional<index_t>, std::vector<std::filesystem::path>> of_layer;
  for (const Capture& capture : captures) of_layer[capture.layer].push_back(capture.path);
  CaptureSplit split = divide(captures, [&](const Capture& capture) {
    const std::vector<std::filesystem::path>& paths = of_layer[capture.layer];
    return paths.size() > 1 && paths[paths.size() / 2] == capture.path;
  });
  split.rule = "the middle step of each layer";
  return split;
}

}  // namespace

std::vector<Capture> find_captures(const std::vector<std::string>& paths) {
  std::set<std::filesystem::path> files;
  for (const std::string& path : paths) {
    for (const std::filesystem::path& file : files_of(path)) files.insert(file);
  }
  std::vector<Capture> captures;
  std::transform(files.begin(), files.end(), std::back_inserter(captures), read_capture);
  std::sort(captures.begin(), captures.end(),
            [](const Capture& a, const Capture& b) { return sort_key(a) < sort_key(b); });
  // Captures without a layer come first.
  if (captures.front().layer.has_value() != captures.back().layer.has_value()) {
    throw Error(Status::kInvalidArgument,
                io::printable(captures.front().path.string()) + " has no metadata layer, " +
                    io::printable(captures.back().path.string()) + " has");
  }
  return captures;
}

CaptureSplit split_captures(const std::vector<Capture>& captures) {
  std::set<std::string> prompts;
  for (const Capture& capture : captures) prompts.insert(capture.prompt);
  return prompts.size() > 1 ? split_by_prompt(captures, prompts) : split_by_step(captures);
}

std::string place_of(const Capture& capture) {
  const std::string step = "step " + std::to_string(capture.step);
  return capture.layer ? "layer " + std::to_string(*capture.layer) + ", " + step : step;
}

}  // namespace psa::cli

// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/checkpoint.hpp"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <system_error>
#include <utility>

#include "engine/tensors/json_object.hpp"
#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"
#include "psa/half.hpp"

namespace psa::engine {
namespace {

using io::printable;

constexpr const char* kSingleName = "diffusion_pytorch_model.safetensors";
constexpr const char* kIndexName = "diffusion_pytorch_model.safetensors.index.json";

/// Shard file by tensor name. A shard is a plain file name: an index cannot reach out of its
/// folder.
std::map<std::string, std::string> read_index(const std::filesystem::path& path) {
  constexpr const char* kKey = "weight_map";
  const io::JsonObject index = io::JsonObject::read(path);
  const std::optional<io::JsonObject> file_of = index.object(kKey);
  if (!file_of) index.reject(kKey, "expected an object of tensor names and files");
  std::map<std::string, std::string> shards;
  for (const std::string& name : file_of->keys()) {
    const std::string file_name = file_of->text(name).value_or("");
    if (file_name.empty() || std::filesystem::path(file_name).filename() != file_name) {
      file_of->reject(name, "expected the name of a file of the same folder");
    }
    shards[name] = file_name;
  }
  return shards;
}

std::vector<float> to_float(const io::SafetensorsFile& file, const io::TensorInfo& tensor) {
  if (tensor.dtype == io::FileDType::kF32) {
    const std::span<const float> values = file.values<float>(tensor.name);
    return {values.begin(), values.end()};
  }
  const std::span<const std::uint16_t> halves = file.values<std::uint16_t>(tensor.name);
  std::vector<float> values(halves.size());
  std::transform(halves.begin(), halves.end(), values.begin(),
                 tensor.dtype == io::FileDType::kBF16 ? float_from_bf16 : float_from_f16);
  return values;
}

}  // namespace

Checkpoint Checkpoint::open(const std::filesystem::path& folder) {
  Checkpoint checkpoint;
  std::error_code ignored;
  const std::filesystem::path single = folder / kSingleName;
  const std::filesystem::path index = folder / kIndexName;
  if (std::filesystem::exists(single, ignored)) {
    checkpoint.label_ = single.native();
    checkpoint.files_.push_back(io::SafetensorsFile::open(single));
    return checkpoint;
  }
  if (!std::filesystem::exists(index, ignored)) {
    throw Error(Status::kIo, printable(folder.native()) + " holds no weights: neither " +
                                 kSingleName + " nor " + kIndexName);
  }
  checkpoint.label_ = index.native();
  std::map<std::string, std::size_t> position_of_shard;
  for (const auto& [name, shard] : read_index(index)) {
    const auto [entry, is_fresh] = position_of_shard.try_emplace(shard, checkpoint.files_.size());
    if (is_fresh) checkpoint.files_.push_back(io::SafetensorsFile::open(folder / shard));
    checkpoint.file_of_name_[name] = entry->second;
  }
  return checkpoint;
}

const io::SafetensorsFile* Checkpoint::file_of(std::string_view name) const {
  const auto found = file_of_name_.find(name);
  const std::size_t position = found == file_of_name_.end() ? 0 : found->second;
  // Without an index there is one file, which may have any tensor.
  if (position >= files_.size() || files_[position].find(name) == nullptr) return nullptr;
  return &files_[position];
}

std::vector<float> Checkpoint::values(std::string_view name,
                                      const std::vector<index_t>& shape) const {
  const std::string subject = printable(label_) + ": tensor " + printable(name);
  const std::string expected = io::shape_text(shape) + " of F32, F16 or BF16";
  const io::SafetensorsFile* const file = file_of(name);
  if (file == nullptr) {
    throw Error(Status::kIo,
                subject + " is missing; expected is " + expected + ", by the model's config.json");
  }
  const io::TensorInfo& tensor = file->at(name);
  if (tensor.shape != shape || !io::compute_dtype(tensor.dtype)) {
    throw Error(Status::kIo, subject + " is " + io::shape_text(tensor.shape) + " of " +
                                 std::string(io::name_of(tensor.dtype)) + "; expected is " +
                                 expected + ", by the model's config.json");
  }
  return to_float(*file, tensor);
}

}  // namespace psa::engine

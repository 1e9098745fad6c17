// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/checkpoint.hpp"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <system_error>
#include <utility>

#include "engine/tensors/mapped_file.hpp"
#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"
#include "psa/half.hpp"

namespace psa::engine {
namespace {

using Json = nlohmann::json;
using io::printable;

constexpr const char* kSingleName = "diffusion_pytorch_model.safetensors";
constexpr const char* kIndexName = "diffusion_pytorch_model.safetensors.index.json";

/// Shard file by tensor name. A shard is a plain file name: an index cannot reach out of its
/// folder.
std::map<std::string, std::string> read_index(const std::filesystem::path& path) {
  const std::unique_ptr<const io::MappedFile> file = io::MappedFile::open(path);
  const std::span<const std::byte> bytes = file->bytes();
  const auto* const text = reinterpret_cast<const char*>(bytes.data());
  const Json index = Json::parse(text, text + bytes.size(), nullptr, false);
  const std::string label = printable(path.native());
  if (!index.is_object() || !index.contains("weight_map") || !index.at("weight_map").is_object()) {
    throw Error(Status::kIo, label + " is not a JSON object with an object weight_map");
  }
  std::map<std::string, std::string> shards;
  for (const auto& [name, shard] : index.at("weight_map").items()) {
    const std::string subject = label + ": weight_map gives tensor " + printable(name);
    if (!shard.is_string()) throw Error(Status::kIo, subject + " something else than a file name");
    const std::string file_name = shard.get<std::string>();
    if (std::filesystem::path(file_name).filename() != file_name) {
      throw Error(Status::kIo, subject + " the file " + printable(file_name) +
                                   "; it must be the name of a file of the same folder");
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

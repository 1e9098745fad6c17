// SPDX-License-Identifier: Apache-2.0
#include "tuning_prompts.hpp"

#include <cstddef>
#include <set>
#include <string_view>
#include <system_error>

#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"
#include "text_file.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

std::string_view trimmed(std::string_view line) {
  constexpr std::string_view kBlanks = " \t\r";
  const std::size_t begin = line.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return line.substr(begin, line.find_last_not_of(kBlanks) - begin + 1);
}

}  // namespace

std::vector<std::string> read_prompts(const std::filesystem::path& path) {
  constexpr std::size_t kMaxBytes = 1 << 18;
  const std::string text = read_beginning(path, kMaxBytes + 1);
  const std::string name = path.string();
  if (text.size() > kMaxBytes) {
    reject({"--prompts", name}, "the file is larger than " + std::to_string(kMaxBytes) + " bytes");
  }
  std::vector<std::string> prompts;
  for (const std::string_view line : split(text, '\n')) {
    const std::string_view prompt = trimmed(line);
    if (!prompt.empty() && !prompt.starts_with('#')) prompts.emplace_back(prompt);
  }
  if (prompts.empty()) reject({"--prompts", name}, "expected a prompt a line; the file has none");
  return prompts;
}

std::vector<std::string> tuning_prompts(const std::vector<std::string>& given,
                                        const std::string& file,
                                        const std::filesystem::path& model) {
  std::vector<std::string> prompts = given;
  if (prompts.empty()) {
    const std::filesystem::path own = model / kPromptsFile;
    std::error_code error;
    if (file.empty() && !std::filesystem::exists(own, error)) {
      throw Error(Status::kInvalidArgument,
                  "--prompt TEXT or --prompts FILE is needed: " + io::printable(model.string()) +
                      " has no " + kPromptsFile + " that lists prompts");
    }
    prompts = read_prompts(file.empty() ? own : std::filesystem::path(file));
  }
  std::set<std::string> known;
  for (const std::string& prompt : prompts) {
    if (!known.insert(prompt).second) {
      reject({"a prompt", prompt}, "it is there twice; expected prompts that differ");
    }
  }
  return prompts;
}

}  // namespace psa::cli

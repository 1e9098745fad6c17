// SPDX-License-Identifier: Apache-2.0
#include "problem.hpp"

#include <algorithm>
#include <limits>
#include <set>
#include <vector>

#include "psa/error.hpp"
#include "settings.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

constexpr index_t kMaxSize = std::numeric_limits<std::int32_t>::max();
constexpr Words<DType, 3> kDTypes{
    {{"f32", DType::kF32}, {"f16", DType::kF16}, {"bf16", DType::kBF16}}};
constexpr const char* kShapeForm =
    "expected [b<batch>]h<heads>[/<kv heads>]q<queries>[k<keys>]d<head_dim>[:<type>], such as "
    "b1h28/4q4096k8192d128:bf16";

/// Reads "<letter><digits>" pieces of the first word from left to right.
class ShapeReader {
 public:
  explicit ShapeReader(std::string_view word) : word_(word), rest_(word) {}

  [[nodiscard]] bool takes(char letter) {
    if (rest_.empty() || rest_.front() != letter) return false;
    rest_.remove_prefix(1);
    return true;
  }

  [[nodiscard]] index_t size(const std::string& what) {
    const std::size_t digits = std::min(rest_.find_first_not_of("0123456789"), rest_.size());
    if (digits == 0) fail();
    const std::string_view text = rest_.substr(0, digits);
    rest_.remove_prefix(digits);
    return parse_integer({what + " of the problem", text}, 1, kMaxSize);
  }

  [[nodiscard]] std::string_view rest() const { return rest_; }
  [[noreturn]] void fail() const { reject({"the shape of the problem", word_}, kShapeForm); }

 private:
  std::string_view word_;
  std::string_view rest_;
};

void parse_dtypes(std::string_view text, ProblemShape& shape) {
  const std::vector<std::string_view> parts = split(text, '/');
  if (parts.size() != 1 && parts.size() != 3) {
    reject({"the type of the problem", text}, "expected one type, or those of q/kv/out");
  }
  const std::string label = "the type of the problem";
  shape.dtype_q = parse_dtype(label, parts.front());
  shape.dtype_kv = parse_dtype(label, parts[parts.size() / 2]);
  shape.dtype_out = parse_dtype(label, parts.back());
}

ProblemShape parse_shape(std::string_view word) {
  ShapeReader reader(word);
  ProblemShape shape;
  if (reader.takes('b')) shape.batch = reader.size("batch");
  if (!reader.takes('h')) reader.fail();
  shape.heads_q = reader.size("heads");
  shape.heads_kv = reader.takes('/') ? reader.size("kv heads") : shape.heads_q;
  if (!reader.takes('q')) reader.fail();
  shape.len_q = reader.size("queries");
  shape.len_kv = reader.takes('k') ? reader.size("keys") : shape.len_q;
  if (!reader.takes('d')) reader.fail();
  shape.head_dim = reader.size("head_dim");
  if (reader.takes(':')) {
    parse_dtypes(reader.rest(), shape);
  } else if (!reader.rest().empty()) {
    reader.fail();
  }
  return shape;
}

struct SettingWord {
  const Setting* setting;
  std::string_view value;
};

SettingWord parse_setting(std::string_view word) {
  const std::size_t equals = word.find('=');
  const std::string_view name = word.substr(0, equals);
  const Setting* setting = find_setting(name);
  if (setting == nullptr) {
    std::vector<std::string_view> names;
    for (const Setting& s : settings()) names.push_back(s.name);
    reject({"a word of the problem", word}, "there is no such setting" + suggestion(name, names));
  }
  if (equals != std::string_view::npos) return {setting, word.substr(equals + 1)};
  if (!setting->value.empty()) {
    reject({"a word of the problem", word},
           "expected " + std::string(setting->name) + "=" + std::string(setting->value));
  }
  return {setting, "true"};
}

std::vector<std::string_view> words_of(std::string_view line) {
  if (line.size() > kMaxProblemLength) {
    throw Error(Status::kInvalidArgument, "the problem has " + std::to_string(line.size()) +
                                              " characters; at most " +
                                              std::to_string(kMaxProblemLength) + " are allowed");
  }
  std::vector<std::string_view> words;
  for (const std::string_view word : split(line, ' ')) {
    if (!word.empty()) words.push_back(word);
  }
  if (words.empty()) reject({"the problem", line}, kShapeForm);
  return words;
}

}  // namespace

std::string_view name_of(DType dtype) { return word_of(dtype, kDTypes); }

DType parse_dtype(const std::string& name, std::string_view text) {
  return parse_word({name, text}, kDTypes);
}

Problem parse_problem(std::string_view line, const Problem& base) {
  const std::vector<std::string_view> words = words_of(line);
  Problem problem = base;
  problem.shape = parse_shape(words.front());
  std::vector<SettingWord> given;
  std::set<const Setting*> seen;
  for (std::size_t i = 1; i < words.size(); ++i) {
    given.push_back(parse_setting(words[i]));
    if (!seen.insert(given.back().setting).second) {
      reject({"a word of the problem", words[i]},
             std::string(given.back().setting->name) + " is given twice");
    }
  }
  // In the order of the table, since a preset replaces other values and a density depends on them.
  std::sort(given.begin(), given.end(),
            [](const SettingWord& a, const SettingWord& b) { return a.setting < b.setting; });
  for (const SettingWord& word : given) {
    word.setting->apply(problem, std::string(word.setting->name), word.value);
  }
  return problem;
}

std::string format_shape(const ProblemShape& shape) {
  std::string text = "b" + std::to_string(shape.batch) + "h" + std::to_string(shape.heads_q);
  if (shape.heads_kv != shape.heads_q) text += "/" + std::to_string(shape.heads_kv);
  text += "q" + std::to_string(shape.len_q) + "k" + std::to_string(shape.len_kv) + "d" +
          std::to_string(shape.head_dim) + ":";
  text += name_of(shape.dtype_q);
  if (shape.dtype_kv == shape.dtype_q && shape.dtype_out == shape.dtype_q) return text;
  return text.append("/")
      .append(name_of(shape.dtype_kv))
      .append("/")
      .append(name_of(shape.dtype_out));
}

std::string format_settings(const Problem& problem) {
  const Problem defaults;
  std::string text;
  for (const Setting& setting : settings()) {
    const std::optional<std::string> value = setting.format(problem, defaults);
    if (!value.has_value()) continue;
    text.append(text.empty() ? "" : " ").append(setting.name);
    if (!(setting.value.empty() && *value == "true")) text.append("=").append(*value);
  }
  return text;
}

std::string format_problem(const Problem& problem) {
  const std::string shape = format_shape(problem.shape);
  const std::string settings_text = format_settings(problem);
  return settings_text.empty() ? shape : shape + " " + settings_text;
}

std::vector<std::string> problem_lines(const std::vector<std::string>& words) {
  const auto begins_problem = [](const std::string& word) {
    return word.size() > 1 && (word[0] == 'b' || word[0] == 'h') && word[1] >= '0' &&
           word[1] <= '9';
  };
  std::vector<std::string> lines;
  for (const std::string& word : words) {
    if (lines.empty() || begins_problem(word)) {
      lines.push_back(word);
    } else {
      lines.back() += " " + word;
    }
  }
  return lines;
}

Problem dense_problem(const Problem& problem) {
  Problem dense{problem.shape, problem.layout, {}};
  dense.config.budget.fill(1.0F);
  dense.config.num_levels = 1;
  dense.config.rest = Rest::kSkip;
  dense.config.causal = problem.config.causal;
  dense.config.softmax_scale = problem.config.softmax_scale;
  return dense;
}

}  // namespace psa::cli

// SPDX-License-Identifier: Apache-2.0
#include "tuning_target.hpp"

#include <string_view>

#include "values.hpp"

namespace psa::cli {
namespace {

constexpr Words<TuneTarget::Kind, 3> kKinds{{{"density", TuneTarget::Kind::kDensity},
                                             {"error", TuneTarget::Kind::kError},
                                             {"psnr", TuneTarget::Kind::kPsnr}}};

}  // namespace

TuneTarget parse_target(const std::string& text) {
  const Given given{"--target", text};
  const std::string_view whole(text);
  const std::size_t equals = whole.find('=');
  if (equals == std::string_view::npos) reject(given, "expected density=R, error=E or psnr=P");
  TuneTarget target;
  target.kind = parse_word({"--target", whole.substr(0, equals)}, kKinds);
  const bool is_psnr = target.kind == TuneTarget::Kind::kPsnr;
  constexpr double kMaxPsnr = 100;
  target.value = parse_number({"--target " + name_of(target.kind), whole.substr(equals + 1)}, 0,
                              is_psnr ? kMaxPsnr : 1);
  if (target.value <= 0) reject(given, "allowed: more than 0");
  if (!is_psnr && target.value >= 1) reject(given, "allowed: less than 1");
  return target;
}

std::string name_of(TuneTarget::Kind kind) { return std::string(word_of(kind, kKinds)); }

}  // namespace psa::cli

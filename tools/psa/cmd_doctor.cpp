// SPDX-License-Identifier: Apache-2.0
// psa doctor: what this machine offers, what psa uses of it, and why.

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "commands.hpp"
#include "machine.hpp"
#include "output.hpp"
#include "psa/psa.hpp"
#include "table.hpp"

namespace psa::cli {
namespace {

using Json = nlohmann::ordered_json;

/// The backend that `auto` takes: the first that is available, the reference only on request.
std::size_t chosen_backend(const std::vector<BackendInfo>& all) {
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i].available && all[i].name != "reference") return i;
  }
  return all.size();
}

std::string state_of(const std::vector<BackendInfo>& all, std::size_t i) {
  if (i == chosen_backend(all)) return "used";
  return all[i].available ? "available" : "not here";
}

std::string json_library_version() {
  return std::to_string(NLOHMANN_JSON_VERSION_MAJOR) + "." +
         std::to_string(NLOHMANN_JSON_VERSION_MINOR) + "." +
         std::to_string(NLOHMANN_JSON_VERSION_PATCH);
}

Json doctor_json() {
  const Machine machine = this_machine();
  const std::vector<BackendInfo> all = backends();
  Json document;
  document["psa"] = {{"version", kVersion},
                     {"library_version", psa_version()},
                     {"abi", psa_abi_version()},
                     {"semantics", kSemanticsVersion}};
  document["machine"] = {{"system", machine.system},
                         {"cpu", machine.cpu_model},
                         {"processors", machine.processors},
                         {"usable_processors", machine.usable},
                         {"memory_bytes", machine.memory_bytes},
                         {"available_bytes", machine.available_bytes}};
  document["backends"] = Json::array();
  for (std::size_t i = 0; i < all.size(); ++i) {
    document["backends"].push_back({{"name", all[i].name},
                                    {"isa", all[i].isa},
                                    {"state", state_of(all, i)},
                                    {"reason", all[i].reason}});
  }
  document["libraries"] = {{"compiler", __VERSION__},
                           {"CLI11", CLI11_VERSION},
                           {"nlohmann_json", json_library_version()}};
  document["presets"] = Json::array();
  for (const Preset& preset : presets()) document["presets"].push_back(preset.name);
  return document;
}

std::string doctor_text() {
  const Machine machine = this_machine();
  const std::vector<BackendInfo> all = backends();
  std::string text = std::string("psa ") + kVersion + " (ABI " + std::to_string(psa_abi_version()) +
                     ", semantics " + std::to_string(kSemanticsVersion) + ")\n\n";
  text += "system      " + machine.system + "\n";
  text += "cpu         " + machine.cpu_model + "\n";
  text += "threads     " + std::to_string(machine.usable) + " (processors that psa may use; " +
          std::to_string(machine.processors) + " present)\n";
  text += "memory      " + bytes_text(static_cast<double>(machine.available_bytes)) +
          " available of " + bytes_text(static_cast<double>(machine.memory_bytes)) + "\n";
  text += "libraries   CLI11 " CLI11_VERSION ", nlohmann/json " + json_library_version() +
          ", built with " __VERSION__ "\n\n";

  using Align = Table::Align;
  Table table({{"backend", Align::kLeft},
               {"isa", Align::kLeft},
               {"state", Align::kLeft},
               {"why", Align::kLeft}});
  for (std::size_t i = 0; i < all.size(); ++i) {
    table.add_row({std::string(all[i].name), std::string(all[i].isa), state_of(all, i),
                   std::string(all[i].reason)});
  }
  text += table.text();
  if (chosen_backend(all) == all.size()) {
    text += "\nNo fast backend runs here; --backend reference computes slowly.\n";
  }
  return text;
}

}  // namespace

void add_doctor_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("doctor", "what this machine offers and what psa uses");
  const auto is_json = std::make_shared<bool>(false);
  command->add_flag("--json", *is_json, "print JSON");
  command->callback([is_json] {
    if (*is_json) {
      print_json(doctor_json());
    } else {
      print(doctor_text());
    }
  });
}

}  // namespace psa::cli

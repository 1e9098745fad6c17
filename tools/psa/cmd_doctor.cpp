// SPDX-License-Identifier: Apache-2.0
// psa doctor: what this machine offers, what psa uses of it, and why.

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "commands.hpp"
#include "machine.hpp"
#include "output.hpp"
#include "placement.hpp"
#include "psa/error.hpp"
#include "psa/psa.hpp"
#include "table.hpp"

namespace psa::cli {
namespace {

using Json = nlohmann::ordered_json;

/// Tensors lie on a device or on the host, and for each `auto` takes the first backend that is
/// available; the reference only on request.
std::size_t chosen_backend(const std::vector<BackendInfo>& all, std::string_view name) {
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i].available && all[i].name == name) return i;
  }
  return all.size();
}

std::string state_of(const std::vector<BackendInfo>& all, std::size_t i) {
  if (!all[i].available) return "not here";
  const bool is_chosen = all[i].name != "reference" && i == chosen_backend(all, all[i].name);
  return is_chosen ? "used" : "available";
}

std::string capability_of(const CudaDevice& device) {
  return std::to_string(device.major) + "." + std::to_string(device.minor);
}

/// Which kernels a device runs for head_dim 128, or why it runs none, as a plan for it says.
std::string kernels_of(int index) {
  Problem problem;
  problem.shape = {.len_q = 128,
                   .len_kv = 128,
                   .head_dim = 128,
                   .dtype_q = DType::kBF16,
                   .dtype_kv = DType::kBF16,
                   .dtype_out = DType::kBF16};
  try {
    const Device device{DeviceType::kCuda, index};
    return executed_by(Plan::create(problem.shape, problem.layout, problem.config, device)).isa;
  } catch (const Error& error) {
    return error.what();
  }
}

std::string json_library_version() {
  return std::to_string(NLOHMANN_JSON_VERSION_MAJOR) + "." +
         std::to_string(NLOHMANN_JSON_VERSION_MINOR) + "." +
         std::to_string(NLOHMANN_JSON_VERSION_PATCH);
}

Json cuda_json() {
  const CudaReport report = cuda_report();
  Json devices = Json::array();
  for (std::size_t i = 0; i < report.devices.size(); ++i) {
    const CudaDevice& device = report.devices[i];
    devices.push_back({{"name", device.name},
                       {"compute_capability", capability_of(device)},
                       {"multiprocessors", device.multiprocessors},
                       {"memory_bytes", device.memory_bytes},
                       {"cache_bytes", device.cache_bytes},
                       {"kernels", kernels_of(static_cast<int>(i))}});
  }
  return {{"driver", report.driver}, {"runtime", report.runtime}, {"devices", devices}};
}

std::string cuda_text() {
  const CudaReport report = cuda_report();
  if (report.runtime.empty()) return "cuda        not in this build (PSA_CUDA)\n";
  std::string text = "cuda        built with CUDA " + report.runtime + ", " +
                     (report.driver.empty() ? "no NVIDIA driver is loaded"
                                            : "the driver serves CUDA " + report.driver) +
                     "\n";
  for (std::size_t i = 0; i < report.devices.size(); ++i) {
    const CudaDevice& device = report.devices[i];
    text += "gpu " + std::to_string(i) + "       " + device.name + ", compute capability " +
            capability_of(device) + ", " + bytes_text(static_cast<double>(device.memory_bytes)) +
            ": " + kernels_of(static_cast<int>(i)) + "\n";
  }
  return text;
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
  document["cuda"] = cuda_json();
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
  text += cuda_text();
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
  if (chosen_backend(all, "cpu") == all.size()) {
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

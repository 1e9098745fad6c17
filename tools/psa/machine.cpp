// SPDX-License-Identifier: Apache-2.0
#include "machine.hpp"

#include <sched.h>
#include <sys/utsname.h>

#include <fstream>
#include <sstream>
#include <string_view>
#include <thread>

namespace psa::cli {
namespace {

// The text behind the first "<key><spaces>:" of a file such as /proc/cpuinfo.
std::string field_of(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    const std::size_t colon = line.find(':');
    const std::size_t begin = line.find_first_not_of(" \t", colon + 1);
    if (colon != std::string::npos && begin != std::string::npos) return line.substr(begin);
  }
  return "";
}

std::uint64_t memory_field(std::string_view key) {
  std::istringstream text(field_of("/proc/meminfo", key));
  std::uint64_t kibibytes = 0;
  text >> kibibytes;
  return kibibytes * 1024;
}

int usable_processors(int present) {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : present;
}

}  // namespace

Machine this_machine() {
  Machine machine;
  utsname names{};
  if (uname(&names) == 0) {
    machine.system = std::string(names.sysname) + " " + names.release + " " + names.machine;
  }
  machine.cpu_model = field_of("/proc/cpuinfo", "model name");
  machine.processors = static_cast<int>(std::thread::hardware_concurrency());
  machine.usable = usable_processors(machine.processors);
  machine.memory_bytes = memory_field("MemTotal");
  machine.available_bytes = memory_field("MemAvailable");
  return machine;
}

}  // namespace psa::cli

// SPDX-License-Identifier: Apache-2.0
// Runs a fuzz target without libFuzzer, so that any compiler can: first on every file of the given
// corpus, then on a fixed number of mutations of them. Equal arguments give equal inputs on every
// machine. An input that ends the process is kept in the file `crash-input`.
//
// usage: <target>_replay [--mutations N] [--seed N] [--max-bytes N] FILE_OR_DIRECTORY...
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

struct Options {
  std::uint64_t mutations = 0;
  std::uint64_t seed = 0;
  std::uint64_t max_bytes = 4096;
  std::vector<std::filesystem::path> corpus;
};

/// The input being run; a signal handler can reach nothing else.
const std::uint8_t* current_data = nullptr;
std::size_t current_size = 0;

extern "C" void keep_input(int signal_number) {
  const int fd = ::open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd >= 0) {
    [[maybe_unused]] const ::ssize_t written = ::write(fd, current_data, current_size);
    ::close(fd);
  }
  std::signal(signal_number, SIG_DFL);
  std::raise(signal_number);
}

void run(const Bytes& input) {
  // A copy of exactly this size, so that a sanitizer sees a read past the end.
  const Bytes exact(input.begin(), input.end());
  current_data = exact.data();
  current_size = exact.size();
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

/// Draws numbers below a bound. (The standard distributions differ between libraries.)
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::size_t below(std::size_t bound) { return static_cast<std::size_t>(engine_() % bound); }
  std::uint8_t byte() { return static_cast<std::uint8_t>(below(256)); }

 private:
  std::mt19937_64 engine_;
};

void overwrite_with_number(Bytes& input, Random& random) {
  constexpr std::array<std::uint64_t, 9> kNumbers{
      0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, INT64_MAX, UINT64_MAX};
  const std::uint64_t number = kNumbers[random.below(kNumbers.size())];
  const std::size_t at = random.below(input.size());
  std::memcpy(input.data() + at, &number, std::min(sizeof(number), input.size() - at));
}

/// One random change: bit, byte, number, removal, repetition, or a piece of another seed.
void mutate(Bytes& input, const Bytes& other, Random& random) {
  if (input.empty()) input.push_back(random.byte());
  const auto at = static_cast<std::ptrdiff_t>(random.below(input.size()));
  const std::size_t rest = input.size() - static_cast<std::size_t>(at);
  const auto length =
      static_cast<std::ptrdiff_t>(1 + random.below(std::min<std::size_t>(rest, 64)));
  const auto begin = input.begin() + at;
  switch (random.below(7)) {
    case 0:
      *begin = static_cast<std::uint8_t>(*begin ^ (1U << random.below(8)));
      return;
    case 1:
      *begin = random.byte();
      return;
    case 2:
      input.insert(begin, random.byte());
      return;
    case 3:
      overwrite_with_number(input, random);
      return;
    case 4:
      input.erase(begin, begin + length);
      return;
    case 5: {
      const Bytes piece(begin, begin + length);
      input.insert(begin, piece.begin(), piece.end());
      return;
    }
    default: {
      if (other.empty()) return;
      const std::size_t from = random.below(other.size());
      const std::size_t count = 1 + random.below(std::min<std::size_t>(other.size() - from, 64));
      const auto source = other.begin() + static_cast<std::ptrdiff_t>(from);
      input.insert(begin, source, source + static_cast<std::ptrdiff_t>(count));
      return;
    }
  }
}

std::vector<Bytes> read_corpus(const std::vector<std::filesystem::path>& paths) {
  std::vector<std::filesystem::path> files;
  for (const std::filesystem::path& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      files.push_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());  // directories have no order of their own
  std::vector<Bytes> corpus;
  for (const std::filesystem::path& file : files) {
    std::ifstream in(file, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  return corpus;
}

bool parse_number(std::string_view text, std::uint64_t& number) {
  const char* const end = text.data() + text.size();
  const auto [stop, problem] = std::from_chars(text.data(), end, number);
  return problem == std::errc{} && stop == end;
}

bool parse_options(const std::vector<std::string>& arguments, Options& options) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    std::uint64_t* number = nullptr;
    if (argument == "--mutations") number = &options.mutations;
    if (argument == "--seed") number = &options.seed;
    if (argument == "--max-bytes") number = &options.max_bytes;
    if (number == nullptr) {
      options.corpus.emplace_back(argument);
    } else if (++i == arguments.size() || !parse_number(arguments[i], *number)) {
      return false;
    }
  }
  return !options.corpus.empty();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse_options({argv + 1, argv + argc}, options)) {
    std::fprintf(stderr,
                 "usage: %s [--mutations N] [--seed N] [--max-bytes N] FILE_OR_DIRECTORY...\n",
                 argv[0]);
    return 2;
  }
  const std::vector<Bytes> corpus = read_corpus(options.corpus);
  if (corpus.empty()) {
    std::fprintf(stderr, "the corpus holds no file\n");
    return 2;
  }
  for (const int signal_number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    std::signal(signal_number, keep_input);
  }
  for (const Bytes& input : corpus) run(input);
  Random random(options.seed);
  for (std::uint64_t i = 0; i < options.mutations; ++i) {
    Bytes input = corpus[random.below(corpus.size())];
    for (std::size_t changes = 1 + random.below(4); changes > 0; --changes) {
      mutate(input, corpus[random.below(corpus.size())], random);
    }
    input.resize(std::min<std::size_t>(input.size(), options.max_bytes));
    run(input);
  }
  std::printf("%zu seeds and %llu mutations ran\n", corpus.size(),
              static_cast<unsigned long long>(options.mutations));
  return 0;
}

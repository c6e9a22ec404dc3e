#include "server/app/key_ring.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include "base/file.h"

namespace tandem::server {
namespace {

constexpr std::size_t kKeyBytesMin = 8, kKeyBytesMax = 512;
constexpr std::uint64_t kFileBytesMax = 1 << 20;

std::string_view trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") + 1 - begin);
}

std::array<unsigned char, 32> digest_of(std::string_view key) {
  std::array<unsigned char, 32> digest;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

}  // namespace

Result<std::vector<KeyRing::Key>> KeyRing::read(const std::filesystem::path& path) {
  const std::string text = TD_TRY(read_file(path, kFileBytesMax));
  std::vector<Key> keys;
  int number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const auto end = rest.find('\n');
    std::string_view line = trimmed(rest.substr(0, end));
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    number += 1;
    if (line.empty() || line.front() == '#') continue;
    std::string name = fmt::format("key-{}", keys.size() + 1);
    if (const auto colon = line.find(':'); colon != std::string_view::npos) {
      name = std::string(trimmed(line.substr(0, colon)));
      line = trimmed(line.substr(colon + 1));
    }
    if (line.size() < kKeyBytesMin || line.size() > kKeyBytesMax)
      return invalid_argument("{}: line {}: a key has {} to {} characters", path.string(), number, kKeyBytesMin,
                              kKeyBytesMax);
    keys.push_back({std::move(name), digest_of(line)});
  }
  if (keys.empty()) return invalid_argument("{}: holds no key; write one a line", path.string());
  return keys;
}

void KeyRing::set(std::vector<Key> keys) {
  std::lock_guard lock(mutex_);
  keys_ = std::move(keys);
}

bool KeyRing::empty() const {
  std::lock_guard lock(mutex_);
  return keys_.empty();
}

std::optional<std::string> KeyRing::find(std::string_view authorization) const {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() <= kScheme.size() || authorization.size() > kScheme.size() + kKeyBytesMax) return {};
  for (std::size_t i = 0; i < kScheme.size(); ++i)
    if ((authorization[i] | 0x20) != (kScheme[i] | 0x20)) return {};
  const auto digest = digest_of(trimmed(authorization.substr(kScheme.size())));
  std::optional<std::string> found;
  std::lock_guard lock(mutex_);
  for (const Key& key : keys_)  // all of them, whichever matches
    if (CRYPTO_memcmp(key.digest.data(), digest.data(), digest.size()) == 0) found = key.name;
  return found;
}

}  // namespace tandem::server

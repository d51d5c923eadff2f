// Memory whose ends are watched: pages that cannot be touched on both sides, and a pattern in the bytes between the
// data and those pages. Shared arrays live in it; the buffers of a test do too (`buffers.py`).
#pragma once
#include <sys/mman.h>
#include <cstddef>
#include <cstring>
#include <string>

namespace cuda_emulator {
constexpr size_t PAGE = 4096;
constexpr size_t GUARD = 64 * PAGE;  // on both sides: address space only, but a wrong stride must not jump over it
constexpr size_t SWIZZLE_ATOM = 1024;    // bytes after which the pattern of 128-byte swizzling repeats
constexpr unsigned char POISON = 0xff;   // float, bf16 and f16 NaN; -1 as an integer
constexpr unsigned char CANARY = 0xa5;

class GuardedMemory {
 public:
  /// `bytes` that end at a guard page, but for what `alignment` leaves over.
  GuardedMemory(std::string name, size_t bytes, size_t alignment)
      : name_(std::move(name)), bytes_(bytes), alignment_(alignment) {
    slack_ = (alignment - bytes % alignment) % alignment;
    pages_ = (bytes + slack_ + PAGE - 1) / PAGE * PAGE;
    void* mapped = mmap(nullptr, pages_ + 2 * GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    base_ = static_cast<unsigned char*>(mapped);
    mprotect(base_, GUARD, PROT_NONE);
    mprotect(base_ + GUARD + pages_, GUARD, PROT_NONE);
    std::memset(base_ + GUARD, CANARY, pages_);
  }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  ~GuardedMemory() { munmap(base_, pages_ + 2 * GUARD); }

  unsigned char* data() const { return base_ + GUARD + pages_ - slack_ - bytes_; }
  size_t bytes() const { return bytes_; }
  const std::string& name() const { return name_; }
  void poison() { std::memset(data(), POISON, bytes_); }
  /// Whether the pattern around the data is whole.
  bool is_intact() const {
    const unsigned char* end = data() + bytes_;
    for (size_t i = 0; i < slack_; i++)
      if (end[i] != CANARY) return false;
    for (const unsigned char* p = base_ + GUARD; p < data(); p++)
      if (*p != CANARY) return false;
    return true;
  }
  bool holds(const void* address) const { return address >= base_ && address < base_ + pages_ + 2 * GUARD; }

 private:
  std::string name_;
  size_t bytes_, alignment_, slack_, pages_;
  unsigned char* base_;
};
}  // namespace cuda_emulator

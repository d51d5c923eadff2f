// Kernels by name, and the launch: thread block after thread block, each under the schedule of the seed.
//
// A kernel's signature is kept as text ("f32*, i32"), so that whoever launches can compare every argument with it. A
// touched guard page ends the launch with a message instead of the process.
#pragma once
#include <signal.h>
#include <utility>
#include "thread_block.h"

namespace cuda_emulator {

struct Argument {
  const char* kind;  // a name, or the letter before the bits
  int bits;
  bool is_pointer;
};

template <class T>
constexpr Argument argument_of() {
  using Plain = std::remove_cv_t<T>;
  if constexpr (requires { Plain::type_name; }) return {Plain::type_name, 0, false};
  else if constexpr (std::is_pointer_v<Plain>) {
    Argument target = argument_of<std::remove_pointer_t<Plain>>();
    return {target.kind, target.bits, true};
  } else if constexpr (std::is_floating_point_v<Plain>) return {"f", 8 * sizeof(Plain), false};
  else if constexpr (std::is_signed_v<Plain>) return {"i", 8 * sizeof(Plain), false};
  else return {"u", 8 * sizeof(Plain), false};  // bf16 and f16 are u16: their bits
}

void add_kernel(const char* name, void* function, void (*call)(void*, void**), const Argument* arguments, size_t count);

template <class... Arguments, size_t... INDEX>
void call(void* function, void** arguments, std::index_sequence<INDEX...>) {
  reinterpret_cast<void (*)(Arguments...)>(function)(*static_cast<Arguments*>(arguments[INDEX])...);
}

template <class... Arguments>
bool register_kernel(const char* name, void (*function)(Arguments...)) {
  static constexpr Argument described[] = {argument_of<Arguments>()..., {}};
  auto call_it = [](void* f, void** arguments) {
    call<Arguments...>(f, arguments, std::index_sequence_for<Arguments...>{});
  };
  add_kernel(name, reinterpret_cast<void*>(function), call_it, described, sizeof...(Arguments));
  return true;
}
}  // namespace cuda_emulator

extern "C" {
__attribute__((visibility("default"))) const char* cuda_emulator_signature(const char* name);

__attribute__((visibility("default"))) int cuda_emulator_launch(
    const char* name, const unsigned* grid, const unsigned* dim, size_t dynamic_shared, void** arguments,
    uint64_t seed, char* message, size_t message_bytes);

// All names, one behind the other with spaces between.
__attribute__((visibility("default"))) const char* cuda_emulator_kernels();
}  // extern "C"

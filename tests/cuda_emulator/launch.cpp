#include "launch.h"

namespace cuda_emulator {

struct Kernel {
  void* function;
  void (*call)(void* function, void** arguments);
  std::string signature;
};

std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}

void add_kernel(const char* name, void* function, void (*call)(void*, void**), const Argument* arguments, size_t count) {
  std::string signature;
  for (size_t i = 0; i < count; i++) {
    if (i) signature += ", ";
    signature += arguments[i].kind;
    if (arguments[i].bits) signature += std::to_string(arguments[i].bits);
    if (arguments[i].is_pointer) signature += "*";
  }
  kernels()[name] = {function, call, signature};
}

void on_fault(int signal_number, siginfo_t* info, void*) {
  if (!block || !current) {  // not ours: as if we were not there
    signal(signal_number, SIG_DFL);
    return;
  }
  const char* address = static_cast<const char*>(info->si_addr);
  auto describe = [&](const GuardedMemory& memory) {
    const char* data = reinterpret_cast<const char*>(memory.data());
    if (address >= data) fail("access %td bytes past the end of %s", address - data - memory.bytes(), memory.name().c_str());
    fail("access %td bytes before the start of %s", data - address, memory.name().c_str());
  };
  for (const auto& [place, array] : block->shared_arrays)
    if (array->holds(address)) describe(*array);
  if (block->dynamic_shared && block->dynamic_shared->holds(address)) describe(*block->dynamic_shared);
  fail("access to address %p", address);
}

/// Takes over SIGSEGV and SIGBUS while a launch runs: on a stack of its own, since a fiber's may be what overflowed.
class FaultHandler {
 public:
  FaultHandler() {
    stack_t stack{};
    stack.ss_sp = memory_;
    stack.ss_size = sizeof memory_;
    sigaltstack(&stack, &old_stack_);
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &old_segv_);
    sigaction(SIGBUS, &action, &old_bus_);
  }
  ~FaultHandler() {
    sigaction(SIGSEGV, &old_segv_, nullptr);
    sigaction(SIGBUS, &old_bus_, nullptr);
    sigaltstack(&old_stack_, nullptr);
  }

 private:
  alignas(16) char memory_[64 * 1024];
  stack_t old_stack_{};
  struct sigaction old_segv_{}, old_bus_{};
};

struct LaunchShape {
  dim3 grid, dim;
  size_t dynamic_shared;
  uint64_t seed;
};

/// Stacks of the fibers: kept between launches, grown when a thread block needs more. Each ends below a guard page.
class Stacks {
 public:
  char* get(int index) {
    while (static_cast<int>(stacks_.size()) <= index)
      stacks_.push_back(std::make_unique<GuardedMemory>("the thread's stack", STACK_BYTES, PAGE));
    return reinterpret_cast<char*>(stacks_[index]->data());
  }

 private:
  std::vector<std::unique_ptr<GuardedMemory>> stacks_;
};

void start_block(Block& b, const LaunchShape& shape, uint64_t linear, Stacks& stacks) {
  b.index = {static_cast<unsigned>(linear % shape.grid.x), static_cast<unsigned>(linear / shape.grid.x % shape.grid.y),
             static_cast<unsigned>(linear / shape.grid.x / shape.grid.y)};
  b.num_alive = b.num_threads;
  for (Barrier& barrier : b.barriers) barrier = Barrier{};
  for (Warp& warp : b.warps) warp = Warp{};
  b.memory_barriers.clear();
  b.loads.clear();
  b.agreements.clear();
  b.seed = shape.seed;
  b.coin = shape.seed * 2654435761u + linear;
  for (auto& [place, array] : b.shared_arrays) array->poison();
  if (b.dynamic_shared) b.dynamic_shared->poison();
  for (int i = 0; i < b.num_threads; i++) {
    Thread& thread = b.threads[i];
    unsigned u = static_cast<unsigned>(i);
    thread.index = {u % shape.dim.x, u / shape.dim.x % shape.dim.y, u / shape.dim.x / shape.dim.y};
    thread.linear = i;
    thread.lane = i % 32;
    thread.warp = i / 32;
    thread.state = State::ready;
    thread.copies.clear();
    thread.copy_group = 0;
    make_context(thread.context, stacks.get(i), STACK_BYTES, fiber_entry);
  }
}

/// Run a kernel; an empty string, or what went wrong.
std::string launch(const char* name, const Kernel& kernel, const LaunchShape& shape, void** arguments) {
  static thread_local Stacks stacks;
  auto b = std::make_unique<Block>();
  b->kernel = name;
  b->dim = shape.dim;
  b->grid = shape.grid;
  b->num_threads = static_cast<int>(shape.dim.x * shape.dim.y * shape.dim.z);
  b->num_warps = (b->num_threads + 31) / 32;
  if (b->num_threads < 1 || b->num_threads > 1024) return std::string(name) + ": a thread block has 1 to 1024 threads";
  if (shape.dynamic_shared > SHARED_LIMIT) return std::string(name) + ": too much dynamic shared memory";
  b->threads.resize(b->num_threads);
  b->warps.resize(b->num_warps);
  if (shape.dynamic_shared)
    b->dynamic_shared = std::make_unique<GuardedMemory>("dynamic shared memory", shape.dynamic_shared,
                                                        shape.dynamic_shared % SWIZZLE_ATOM ? 128 : SWIZZLE_ATOM);
  struct Call { const Kernel* kernel; void** arguments; } call{&kernel, arguments};
  b->run_argument = &call;
  b->run_kernel = [](void* argument) {
    auto* c = static_cast<Call*>(argument);
    c->kernel->call(c->kernel->function, c->arguments);
  };
  FaultHandler handler;
  block = b.get();
  if (sigsetjmp(b->failed, 1) == 0) {
    uint64_t total = uint64_t{shape.grid.x} * shape.grid.y * shape.grid.z;
    for (uint64_t i = 0; i < total; i++) {
      // Thread blocks do not know of each other: another seed, another order of them.
      uint64_t linear = shape.seed % 2 ? total - 1 - i : i;
      start_block(*b, shape, linear, stacks);
      run_schedule(shape.seed ? shape.seed + linear * 7919 : 0);
      check_shared_memory();
    }
  }
  block = nullptr;
  current = nullptr;
  return b->message;
}
}  // namespace cuda_emulator

extern "C" {

__attribute__((visibility("default"))) const char* cuda_emulator_signature(const char* name) {
  auto found = cuda_emulator::kernels().find(name);
  return found == cuda_emulator::kernels().end() ? nullptr : found->second.signature.c_str();
}

__attribute__((visibility("default"))) int cuda_emulator_launch(
    const char* name, const unsigned* grid, const unsigned* dim, size_t dynamic_shared, void** arguments,
    uint64_t seed, char* message, size_t message_bytes) {
  auto found = cuda_emulator::kernels().find(name);
  std::string error = "there is no kernel of this name";
  if (found != cuda_emulator::kernels().end())
    error = cuda_emulator::launch(found->first.c_str(), found->second,
                                  {{grid[0], grid[1], grid[2]}, {dim[0], dim[1], dim[2]}, dynamic_shared, seed},
                                  arguments);
  snprintf(message, message_bytes, "%s", error.c_str());
  return !error.empty();
}

__attribute__((visibility("default"))) const char* cuda_emulator_kernels() {
  static std::string names;
  names.clear();
  for (const auto& [name, kernel] : cuda_emulator::kernels()) names += name + " ";
  return names.c_str();
}

}  // extern "C"

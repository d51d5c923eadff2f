// A CUDA thread is a fiber: a stack of its own, and a switch that saves what a call would have saved. About 2 ns.
#pragma once
#include <cstddef>

#if defined(__x86_64__) && !defined(CUDA_EMULATOR_UCONTEXT)

extern "C" void cuda_emulator_switch(void** save, void* to);
// .pushsection: without it the code lands in whatever section the compiler is in, and crashes at -O0.
__asm__(R"(
.pushsection .text
.weak cuda_emulator_switch
.type cuda_emulator_switch,@function
cuda_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_emulator_switch,.-cuda_emulator_switch
.popsection
)");

namespace cuda_emulator {
struct Context { void* stack_pointer = nullptr; };

inline void switch_context(Context& from, Context& to) { cuda_emulator_switch(&from.stack_pointer, to.stack_pointer); }

/// The first switch to `context` calls `entry`, which never returns.
inline void make_context(Context& context, char* stack, size_t stack_bytes, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + stack_bytes);
  *--top = nullptr;  // the return address of entry, which keeps the stack aligned as a call does
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  context.stack_pointer = top;
}
}  // namespace cuda_emulator

#else  // any other machine: slower (a system call per switch), the same meaning

#include <ucontext.h>
namespace cuda_emulator {
struct Context { ucontext_t context; };

inline void switch_context(Context& from, Context& to) { swapcontext(&from.context, &to.context); }

inline void make_context(Context& context, char* stack, size_t stack_bytes, void (*entry)()) {
  getcontext(&context.context);
  context.context.uc_stack.ss_sp = stack;
  context.context.uc_stack.ss_size = stack_bytes;
  context.context.uc_link = nullptr;
  makecontext(&context.context, entry, 0);
}
}  // namespace cuda_emulator
#endif

// SPDX-License-Identifier: GPL-3.0-or-later
// Switching between stacks in a few nanoseconds. swapcontext would do, but it asks the kernel for
// the signal mask each time, and the emulator switches some million times per picture.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace peel_emulator {

struct Fiber {
  void* stack_pointer;
  const void* stack;
  size_t stack_bytes;
  void* fake_stack;  // AddressSanitizer's
};

#if defined(__SANITIZE_ADDRESS__)
inline Fiber* last_left;  // the fiber that was left at the last switch
#endif

class Stacks {
 public:
  Stacks(size_t count, size_t bytes) : bytes_(bytes) {
    memory_ = (unsigned char*)mmap(nullptr, count * bytes, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) abort();
  }
  void* at(size_t i) const { return memory_ + i * bytes_; }

 private:
  unsigned char* memory_;
  size_t bytes_;
};

#if defined(__x86_64__)

// Saves what a function must preserve on the stack, and goes on where `to` was left.
__attribute__((naked, noinline)) inline void swap_stacks(void** from, void* to) {
  (void)from;
  (void)to;
  __asm__(
      "pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15;"
      "movq %rsp, (%rdi); movq %rsi, %rsp;"
      "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}

inline void prepare_stack(Fiber* f, void (*run)()) {
  void** top = (void**)((uintptr_t)f->stack + f->stack_bytes);
  *--top = nullptr;  // the return address of `run`, which never returns; aligns its frame
  *--top = (void*)run;
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f->stack_pointer = top;
}

#elif defined(__aarch64__)

__attribute__((noinline)) void swap_stacks(void** from, void* to) __asm__("peel_swap_stacks");
__asm__(
    ".text\n.align 4\npeel_swap_stacks:\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp, #0]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\n"
    "stp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\n"
    "stp d14, d15, [sp, #144]\n"
    "mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
    "ldp x19, x20, [sp, #0]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\n"
    "ldp x25, x26, [sp, #48]\nldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\n"
    "ldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\nret\n");

inline void prepare_stack(Fiber* f, void (*run)()) {
  uint64_t* frame = (uint64_t*)((uintptr_t)f->stack + f->stack_bytes) - 20;
  for (int i = 0; i < 20; ++i) frame[i] = 0;
  frame[11] = (uint64_t)run;  // x30
  f->stack_pointer = frame;
}

#else
#error "the emulator switches stacks on x86-64 and AArch64 only"
#endif

inline void start_fiber(Fiber* f, void* stack, size_t bytes, void (*run)()) {
  *f = Fiber{};
  f->stack = stack;
  f->stack_bytes = bytes;
  prepare_stack(f, run);
}

inline void finish_switch(Fiber* self) {
#if defined(__SANITIZE_ADDRESS__)
  const void* old;
  size_t bytes;
  __sanitizer_finish_switch_fiber(self->fake_stack, &old, &bytes);
  if (!last_left->stack) {  // the scheduler runs on the thread's own stack
    last_left->stack = old;
    last_left->stack_bytes = bytes;
  }
#else
  (void)self;
#endif
}

inline void switch_fiber(Fiber* from, Fiber* to) {
#if defined(__SANITIZE_ADDRESS__)
  last_left = from;
  __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
  swap_stacks(&from->stack_pointer, to->stack_pointer);
  finish_switch(from);
}

// For good.
inline void leave_fiber(Fiber* from, Fiber* to) {
#if defined(__SANITIZE_ADDRESS__)
  last_left = from;
  __sanitizer_start_switch_fiber(nullptr, to->stack, to->stack_bytes);
#endif
  swap_stacks(&from->stack_pointer, to->stack_pointer);
}

}  // namespace peel_emulator

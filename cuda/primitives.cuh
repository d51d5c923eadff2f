// The words that kernels are written in: numbers of 16 bits, shared memory, warp and matrix instructions, copies.
//
// The only file with inline PTX. Every primitive has two bodies: PTX for NVRTC, and a call into tests/cuda_emulator for
// g++ (INFERLIB_CUDA_EMULATOR), so that the same kernels run on a machine without a GPU. No NVIDIA header is included:
// a kernel file compiles in tens of milliseconds and needs no package but NVRTC.
//
// sm_75 has neither cp.async nor bf16: copies are plain loads there, float16 products are made of two halves in k, and
// bf16 products trap (an executor on such a card uses float16).
#pragma once

#ifdef INFERLIB_CUDA_EMULATOR
#include "emulator.h"
#define SHARED(type, name, count)                                                              \
  type* const name = static_cast<type*>(cuda_emulator::shared_array(                           \
      [] { static char place; return &place; }(), #name, sizeof(type) * (count)))
#define DYNAMIC_SHARED(name) unsigned char* const name = cuda_emulator::block->dynamic_shared->data()
#define KERNEL(name) [[maybe_unused]] static const bool name##_is_registered = cuda_emulator::register_kernel(#name, name);
#else
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
// An array of the thread block; its size is known when the kernel is compiled.
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
// The bytes that the launch gives, aligned to 128.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
// Stands behind every kernel: its name is a launch's first argument.
#define KERNEL(name)
#endif

constexpr unsigned ALL_LANES = 0xffffffffu;


__device__ __forceinline__ float infinity() { return __uint_as_float(0x7f800000); }

// Numbers

struct bfloat16 { uint16_t bits; };
struct float16 { uint16_t bits; };

__device__ __forceinline__ float to_float(float value) { return value; }

__device__ __forceinline__ float to_float(bfloat16 value) {
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}

__device__ __forceinline__ float to_float(float16 value) {
#ifdef INFERLIB_CUDA_EMULATOR
  return cuda_emulator::float_of_f16(value.bits);
#else
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#endif
}

// One rounding, to nearest even.
template <class T> __device__ __forceinline__ T from_float(float value);

template <> __device__ __forceinline__ float from_float<float>(float value) { return value; }

template <> __device__ __forceinline__ bfloat16 from_float<bfloat16>(float value) {
#ifdef INFERLIB_CUDA_EMULATOR
  return {cuda_emulator::bf16_of_float(value)};
#elif __CUDA_ARCH__ >= 800
  bfloat16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}

template <> __device__ __forceinline__ float16 from_float<float16>(float value) {
#ifdef INFERLIB_CUDA_EMULATOR
  return {cuda_emulator::f16_of_float(value)};
#else
  float16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#endif
}

// Two numbers of 16 bits in a register, the first in the lower half.
template <class T> __device__ __forceinline__ uint32_t pack_pair(float first, float second) {
  return from_float<T>(first).bits | static_cast<uint32_t>(from_float<T>(second).bits) << 16;
}

// Four neighbours at once; `address` is aligned to four elements.
template <class T> __device__ __forceinline__ float4 load_four(const T* address) {
  uint2 bits = *reinterpret_cast<const uint2*>(address);
  return make_float4(to_float(T{static_cast<uint16_t>(bits.x)}), to_float(T{static_cast<uint16_t>(bits.x >> 16)}),
                     to_float(T{static_cast<uint16_t>(bits.y)}), to_float(T{static_cast<uint16_t>(bits.y >> 16)}));
}
template <> __device__ __forceinline__ float4 load_four<float>(const float* address) {
  return *reinterpret_cast<const float4*>(address);
}
template <class T> __device__ __forceinline__ void store_four(T* address, float4 values) {
  *reinterpret_cast<uint2*>(address) = make_uint2(pack_pair<T>(values.x, values.y), pack_pair<T>(values.z, values.w));
}
template <> __device__ __forceinline__ void store_four<float>(float* address, float4 values) {
  *reinterpret_cast<float4*>(address) = values;
}

// `x` as if it had been stored and loaded again.
template <class T> __device__ __forceinline__ float rounded(float x) { return to_float(from_float<T>(x)); }

// 2^x, 2 ulp; 0 for -inf.
__device__ __forceinline__ float exp2_approximate(float x) {
#ifdef INFERLIB_CUDA_EMULATOR
  return exp2f(x);
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

// Matrix instructions

// Four 8x8 matrices of 16-bit elements; lane 8 i + r gives the address of row r of matrix i (16 bytes, aligned).
__device__ __forceinline__ void load_matrices(uint32_t (&registers)[4], const void* row) {
#ifdef INFERLIB_CUDA_EMULATOR
  cuda_emulator::load_matrices(registers, row, 4, false, cuda_emulator::Location::current());
#else
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(address) : "memory");
#endif
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&registers)[4], const void* row) {
#ifdef INFERLIB_CUDA_EMULATOR
  cuda_emulator::load_matrices(registers, row, 4, true, cuda_emulator::Location::current());
#else
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(address) : "memory");
#endif
}

// sums[16, 8] += left[16, 16] right[16, 8]: fragments as the PTX ISA lays them out for m16n8k16, float32 sums.
template <class T>
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&left)[4], uint32_t right_low, uint32_t right_high);

template <>
__device__ __forceinline__ void multiply_add<bfloat16>(float (&sums)[4], const uint32_t (&left)[4], uint32_t right_low,
                                                       uint32_t right_high) {
#ifdef INFERLIB_CUDA_EMULATOR
  const uint32_t right[2] = {right_low, right_high};
  cuda_emulator::multiply_add_m16n8k16<cuda_emulator::float_of_bf16>(sums, left, right, "mma.sync (bf16)",
                                                                     cuda_emulator::Location::current());
#elif __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right_low), "r"(right_high));
#else
  __trap();
#endif
}

template <>
__device__ __forceinline__ void multiply_add<float16>(float (&sums)[4], const uint32_t (&left)[4], uint32_t right_low,
                                                      uint32_t right_high) {
#ifdef INFERLIB_CUDA_EMULATOR
  const uint32_t right[2] = {right_low, right_high};
  cuda_emulator::multiply_add_m16n8k16<cuda_emulator::float_of_f16>(sums, left, right, "mma.sync (f16)",
                                                                    cuda_emulator::Location::current());
#elif __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right_low), "r"(right_high));
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(left[0]), "r"(left[1]), "r"(right_low));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(left[2]), "r"(left[3]), "r"(right_high));
#endif
}

// Integers

// Add to a counter in shared memory; the sum does not depend on the order.
__device__ __forceinline__ void add_shared(uint64_t* counter, uint64_t value) {
#ifdef INFERLIB_CUDA_EMULATOR
  *counter += value;
#else
  atomicAdd(counter, value);
#endif
}

// The upper 64 bits of the product.
__device__ __forceinline__ uint64_t multiply_high(uint64_t a, uint64_t b) {
#ifdef INFERLIB_CUDA_EMULATOR
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
#else
  return __umul64hi(a, b);
#endif
}

// Copies

// 16 bytes from global to shared memory, both aligned; zeros if not `is_wanted`, and then `source` is not read. The
// target must not be read before wait_copies and a barrier.
__device__ __forceinline__ void start_copy(void* target, const void* source, bool is_wanted) {
#ifdef INFERLIB_CUDA_EMULATOR
  cuda_emulator::async_copy(target, source, 16, is_wanted ? 16 : 0);
#elif __CUDA_ARCH__ >= 800
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(target));
  int bytes = is_wanted ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source), "r"(bytes) : "memory");
#else
  *static_cast<uint4*>(target) = is_wanted ? *static_cast<const uint4*>(source) : make_uint4(0, 0, 0, 0);
#endif
}

// Close a group of this thread's copies; it may be empty.
__device__ __forceinline__ void commit_copies() {
#ifdef INFERLIB_CUDA_EMULATOR
  cuda_emulator::commit_async_copies();
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Wait until at most the `PENDING` last groups of this thread are on their way.
template <int PENDING> __device__ __forceinline__ void wait_copies() {
#ifdef INFERLIB_CUDA_EMULATOR
  cuda_emulator::wait_async_copies(PENDING);
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// 16 or 8 bytes that are read once in a step: past L1, which the activations need.
__device__ __forceinline__ uint4 load_streamed(const uint4* address) {
#ifdef INFERLIB_CUDA_EMULATOR
  return *address;
#else
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "l"(address));
  return value;
#endif
}

__device__ __forceinline__ uint2 load_streamed(const uint2* address) {
#ifdef INFERLIB_CUDA_EMULATOR
  return *address;
#else
  uint2 value;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(address));
  return value;
#endif
}

// What sm_90a has beyond mma.sync: barriers in shared memory, loads of tensor boxes (TMA), products of warpgroups (wgmma).
//
// As in primitives.cuh every word has two bodies, PTX and a call into tests/cuda_emulator. A file that includes this one
// is compiled for sm_90a only (python/inferlib/executors/cuda_sm90.py).
//
// Tiles that wgmma reads lie in rows of 128 bytes (64 elements), eight rows to an atom of 1,024 bytes, the pieces of 16
// bytes swizzled as the loads put them there; they begin at multiples of 1,024.
#pragma once
#include "primitives.cuh"

#ifdef INFERLIB_CUDA_EMULATOR
using cuda_emulator::TensorMap;
#define SWIZZLED_SHARED(name) unsigned char* const name = cuda_emulator::swizzled_shared()
#else
// What the driver's cuTensorMapEncodeTiled writes; a parameter of the kernel, const __grid_constant__.
struct alignas(64) TensorMap { uint64_t bits[16]; };
// The bytes that the launch gives, aligned to 1024; a multiple of that.
#define SWIZZLED_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
#endif

constexpr int ATOM_BYTES = 1024;  // eight rows of 128 bytes

// Barriers in shared memory. A phase ends when `arrivals` threads have arrived and all announced bytes have landed.
struct alignas(8) MemoryBarrier { uint64_t bits; };

// One thread initialises, then fences; a barrier of the thread block must follow.
__device__ __forceinline__ void initialise_barrier(MemoryBarrier* barrier, int arrivals) {
#ifdef INFERLIB_CUDA_EMULATOR
  cuda_emulator::initialise_memory_barrier(barrier, arrivals);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#endif
}

__device__ __forceinline__ void fence_barriers() {
#ifdef INFERLIB_CUDA_EMULATOR
  cuda_emulator::fence_memory_barriers();
#else
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ __forceinline__ void arrive(MemoryBarrier* barrier) {
#ifdef INFERLIB_CUDA_EMULATOR
  cuda_emulator::arrive_at_memory_barrier(barrier, 0);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

// Arrive, and announce bytes that loads will bring.
__device__ __forceinline__ void arrive_and_expect(MemoryBarrier* barrier, int bytes) {
#ifdef INFERLIB_CUDA_EMULATOR
  cuda_emulator::arrive_at_memory_barrier(barrier, bytes);
#else
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#endif
}

// Wait until the phase of this parity is complete; phases count from 0, and the one before the first counts as complete.
#ifdef INFERLIB_CUDA_EMULATOR
inline void wait_for(MemoryBarrier* barrier, unsigned parity,
                     cuda_emulator::Location where = cuda_emulator::Location::current()) {
  cuda_emulator::wait_for_memory_barrier(barrier, parity, where);
}
#else
__device__ __forceinline__ void wait_for(MemoryBarrier* barrier, unsigned parity) {
  uint32_t is_complete;
  do {
    asm volatile(
        "{\n.reg .pred complete;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 complete, [%1], %2;\n"
        "selp.u32 %0, 1, 0, complete;\n}"
        : "=r"(is_complete) : "r"(shared_address(barrier)), "r"(parity) : "memory");
  } while (!is_complete);
}
#endif

// A barrier of some of the thread block's warps; `id` from 1 on.
#ifdef INFERLIB_CUDA_EMULATOR
inline void sync_threads(int id, int count, cuda_emulator::Location where = cuda_emulator::Location::current()) {
  cuda_emulator::arrive_and_wait(id, count, "sync_threads", where);
}
#else
__device__ __forceinline__ void sync_threads(int id, int count) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
}
#endif

// Loads. One thread starts the load of a whole box at `x`, `y` (elements; x is the innermost dimension); its bytes count
// for the barrier's phase. What lies outside of the tensor becomes zeros, and is counted too.
__device__ __forceinline__ void start_load(void* target, const TensorMap& map, MemoryBarrier* barrier, int x, int y) {
#ifdef INFERLIB_CUDA_EMULATOR
  cuda_emulator::start_tensor_load(target, map, barrier, {x, y, 0});
#else
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          shared_address(target)), "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y)
      : "memory");
#endif
}

__device__ __forceinline__ void start_load(void* target, const TensorMap& map, MemoryBarrier* barrier, int x, int y,
                                           int z) {
#ifdef INFERLIB_CUDA_EMULATOR
  cuda_emulator::start_tensor_load(target, map, barrier, {x, y, z});
#else
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(shared_address(target)), "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
#endif
}

// Between stores of threads and loads or products that touch the same shared memory; a barrier must follow.
__device__ __forceinline__ void fence_shared_for_products() {
#ifndef INFERLIB_CUDA_EMULATOR
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Products of warpgroups

// A descriptor of a tile. `stride`: bytes from eight rows to the next eight; for a transposed operand (k across the
// rows) `leading`: bytes from 64 columns to the next 64. Moving `k` elements along the rows adds k * 2 / 16.
__device__ __forceinline__ uint64_t tile_descriptor(const void* tile, int stride = ATOM_BYTES, int leading = 16) {
#ifdef INFERLIB_CUDA_EMULATOR
  uint32_t address = cuda_emulator::shared_offset(tile, "an operand of wgmma");
#else
  uint32_t address = shared_address(tile);
#endif
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | 1ull << 62;
}

// Before the first product, and after registers of products were touched.
#ifdef INFERLIB_CUDA_EMULATOR
#define PRODUCT_WHERE cuda_emulator::Location where = cuda_emulator::Location::current()
inline void fence_products(PRODUCT_WHERE) { cuda_emulator::fence_products(where); }
inline void commit_products(PRODUCT_WHERE) { cuda_emulator::commit_products(where); }
template <int PENDING, int N> void wait_products(float (&)[N], PRODUCT_WHERE) { cuda_emulator::wait_products(PENDING, where); }
#else
__device__ __forceinline__ void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Close a group of products.
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Wait until at most the `PENDING` last groups run. The sums pass through, or the compiler could read them before.
template <int PENDING, int N> __device__ __forceinline__ void wait_products(float (&sums)[N]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(sums[i])::"memory");
}
#endif

// start_product: sums[64, 2 N] (+)= left[64, 16] right[2 N, 16]^T, N registers a thread: of warp w rows 16 w + lane / 4
// (+ 8), of columns 8 j + lane % 4 * 2 (+ 1) in registers 4 j …. `adds`: false begins with zeros.
// start_product_of_registers: `left` as fragments of mma.sync, `right` [16, 2 N], k across its rows.
#ifdef INFERLIB_CUDA_EMULATOR
template <class T> struct ElementOf;
template <> struct ElementOf<bfloat16> { static float value(uint16_t bits) { return cuda_emulator::float_of_bf16(bits); } };
template <> struct ElementOf<float16> { static float value(uint16_t bits) { return cuda_emulator::float_of_f16(bits); } };
template <class T, int N> void start_product(float (&sums)[N], uint64_t left, uint64_t right, bool adds, PRODUCT_WHERE) {
  cuda_emulator::start_product(ElementOf<T>::value, sums, 2 * N, nullptr, left, right, false, adds, where);
}
template <class T, int N>
void start_product_of_registers(float (&sums)[N], const uint32_t (&left)[4], uint64_t right, bool adds, PRODUCT_WHERE) {
  cuda_emulator::start_product(ElementOf<T>::value, sums, 2 * N, left, 0, right, true, adds, where);
}
#else
#define REGISTERS_4 \
  "%0, %1, %2, %3"
#define REGISTERS_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_64 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SUMS_4(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define SUMS_16(i) SUMS_4(i), SUMS_4(i + 4), SUMS_4(i + 8), SUMS_4(i + 12)
#define SUMS_32 SUMS_16(0), SUMS_16(16)
#define SUMS_64 SUMS_16(0), SUMS_16(16), SUMS_16(32), SUMS_16(48)
template <class T, int N> struct Product;
#define PRODUCT(T, NAME, N, COLUMNS, SUMS, LEFT, RIGHT, ADDS)                                                             \
  template <> struct Product<T, N> {                                                                                     \
    __device__ __forceinline__ static void start(float (&sums)[N], uint64_t left, uint64_t right, bool adds) {           \
      asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, %" ADDS ", 0;\nwgmma.mma_async.sync.aligned.m64n" COLUMNS  \
                   "k16.f32." NAME "." NAME " {" REGISTERS_##N "}, %" LEFT ", %" RIGHT ", adds, 1, 1, 0, 0;\n}"         \
                   : SUMS                                                                                                \
                   : "l"(left), "l"(right), "r"(static_cast<int>(adds)));                                                \
    }                                                                                                                    \
  };
PRODUCT(bfloat16, "bf16", 4, "8", SUMS_4(0), "4", "5", "6")
PRODUCT(bfloat16, "bf16", 32, "64", SUMS_32, "32", "33", "34")
PRODUCT(bfloat16, "bf16", 64, "128", SUMS_64, "64", "65", "66")
PRODUCT(float16, "f16", 4, "8", SUMS_4(0), "4", "5", "6")
PRODUCT(float16, "f16", 32, "64", SUMS_32, "32", "33", "34")
PRODUCT(float16, "f16", 64, "128", SUMS_64, "64", "65", "66")
#undef PRODUCT

template <class T, int N>
__device__ __forceinline__ void start_product(float (&sums)[N], uint64_t left, uint64_t right, bool adds) {
  Product<T, N>::start(sums, left, right, adds);
}

template <class T>
__device__ __forceinline__ void start_product_of_registers(float (&sums)[32], const uint32_t (&left)[4], uint64_t right,
                                                           bool adds);
#define PRODUCT_OF_REGISTERS(T, NAME)                                                                                     \
  template <>                                                                                                            \
  __device__ __forceinline__ void start_product_of_registers<T>(float (&sums)[32], const uint32_t (&left)[4],            \
                                                                uint64_t right, bool adds) {                             \
    asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32." NAME   \
                 "." NAME " {" REGISTERS_32 "}, {%32, %33, %34, %35}, %36, adds, 1, 1, 1;\n}"                           \
                 : SUMS_32                                                                                               \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(static_cast<int>(adds)));     \
  }
PRODUCT_OF_REGISTERS(bfloat16, "bf16")
PRODUCT_OF_REGISTERS(float16, "f16")
#undef PRODUCT_OF_REGISTERS
#endif

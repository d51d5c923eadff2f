// scale_<T>: x = x * scale, rounded once, in place
// x [n]. Launch: (ceil(n / 1024)) thread blocks of 256, four elements a thread. Needs n % 4 == 0.
// Bytes: 2 * n * sizeof(T). Oracle: reference.py, "scale".
#include "primitives.cuh"

template <class T> __device__ void multiply(T* x, int n, float scale) {
  int i = (blockIdx.x * 256 + threadIdx.x) * 4;
  if (i >= n) return;
  float4 v = load_four(x + i);
  store_four(x + i, make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale));
}

#define SCALE(NAME, T)                                                                               \
  extern "C" __global__ void __launch_bounds__(256) scale_##NAME(T* x, int n, float scale) {         \
    multiply(x, n, scale);                                                                           \
  }                                                                                                  \
  KERNEL(scale_##NAME)

SCALE(f32, float)
SCALE(bf16, bfloat16)
SCALE(f16, float16)

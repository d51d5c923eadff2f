// add_<T>: out = a + b, rounded once; out may be a or b
// a, b, out [n]. Launch: (ceil(n / 1024)) thread blocks of 256, four elements a thread. Needs n % 4 == 0.
// Bytes: 3 * n * sizeof(T). Oracle: reference.py, "add".
#include "primitives.cuh"

template <class T> __device__ void add(T* out, const T* a, const T* b, int n) {
  int i = (blockIdx.x * 256 + threadIdx.x) * 4;
  if (i >= n) return;
  float4 x = load_four(a + i), y = load_four(b + i);
  store_four(out + i, make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w));
}

#define ADD(NAME, T)                                                                                       \
  extern "C" __global__ void __launch_bounds__(256) add_##NAME(T* out, const T* a, const T* b, int n) {    \
    add(out, a, b, n);                                                                                     \
  }                                                                                                        \
  KERNEL(add_##NAME)

ADD(f32, float)
ADD(bf16, bfloat16)
ADD(f16, float16)

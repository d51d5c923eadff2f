// gather_rows_<T>: out[i] = x[indices[i]], bits as they are
// x [tokens, width] · indices [rows] · out [rows, width]
// Launch: (rows) thread blocks of 128. Needs width % 4 == 0.
// Bytes: 2 * width * sizeof(T) per row. Oracle: reference.py, "gather_rows".
#include "primitives.cuh"

template <class T> __device__ void gather_rows(T* out, const T* x, const int* indices, int width) {
  const T* row = x + static_cast<size_t>(indices[blockIdx.x]) * width;
  T* target = out + static_cast<size_t>(blockIdx.x) * width;
  for (int i = threadIdx.x * 4; i < width; i += 128 * 4) store_four(target + i, load_four(row + i));
}

#define GATHER_ROWS(NAME, T)                                                                            \
  extern "C" __global__ void __launch_bounds__(128) gather_rows_##NAME(T* out, const T* x,              \
                                                                       const int* indices, int width) { \
    gather_rows(out, x, indices, width);                                                                \
  }                                                                                                     \
  KERNEL(gather_rows_##NAME)

GATHER_ROWS(f32, float)
GATHER_ROWS(bf16, bfloat16)
GATHER_ROWS(f16, float16)

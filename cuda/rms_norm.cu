// rms_norm_<T>: out = x / sqrt(mean(x^2) + eps) * weight over each group of `width` elements; sums in float32, rounded once
// rms_norm_add_<T>: first hidden = hidden + branch (rounded, stored), then the same of hidden
// x, out, hidden, branch [rows, stride], the first group at the pointer · weight [width] of float32; out may be x
// Launch: (rows, groups) thread blocks of 128. Needs width, strides and pointers to be multiples of 4 elements.
// Order: four neighbours ascending, every 512th four of a thread ascending, warp tree, warps ascending: whatever the rows.
// Bytes: 2 * width * sizeof(T) per group (add: 4 *), x and weight a second time from L1. Oracle: reference.rms_norm
#include "reductions.cuh"

constexpr int THREADS = 128;

__device__ __forceinline__ float sum_of_squares(float sum, float4 v) {
  return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
}

template <class T>
__device__ void normalise(T* out, const T* x, const float* weight, int width, float eps, float sum) {
  float scale = 1.0f / sqrtf(block_sum<THREADS / 32>(sum) / width + eps);
  for (int i = threadIdx.x * 4; i < width; i += THREADS * 4) {
    float4 v = load_four(x + i), w = load_four(weight + i);
    store_four(out + i, make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w));
  }
}

template <class T>
__device__ void rms_norm(T* out, const T* x, const float* weight, int width, int x_stride, int out_stride, float eps) {
  x += static_cast<size_t>(blockIdx.x) * x_stride + blockIdx.y * width;
  out += static_cast<size_t>(blockIdx.x) * out_stride + blockIdx.y * width;
  float sum = 0;
  for (int i = threadIdx.x * 4; i < width; i += THREADS * 4) sum = sum_of_squares(sum, load_four(x + i));
  normalise(out, x, weight, width, eps, sum);
}

template <class T>
__device__ void rms_norm_add(T* out, T* hidden, const T* branch, const float* weight, int width, float eps) {
  size_t row = static_cast<size_t>(blockIdx.x) * width;
  hidden += row;
  float sum = 0;
  for (int i = threadIdx.x * 4; i < width; i += THREADS * 4) {
    float4 a = load_four(hidden + i), b = load_four(branch + row + i);
    store_four(hidden + i, make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w));
    sum = sum_of_squares(sum, load_four(hidden + i));  // what was stored: this thread's own element
  }
  normalise(out + row, hidden, weight, width, eps, sum);
}

#define RMS_NORM(NAME, T)                                                                                           \
  extern "C" __global__ void __launch_bounds__(THREADS) rms_norm_##NAME(                                            \
      T* out, const T* x, const float* weight, int width, int x_stride, int out_stride, float eps) {                \
    rms_norm(out, x, weight, width, x_stride, out_stride, eps);                                                     \
  }                                                                                                                 \
  KERNEL(rms_norm_##NAME)                                                                                           \
  extern "C" __global__ void __launch_bounds__(THREADS) rms_norm_add_##NAME(                                        \
      T* out, T* hidden, const T* branch, const float* weight, int width, float eps) {                              \
    rms_norm_add(out, hidden, branch, weight, width, eps);                                                          \
  }                                                                                                                 \
  KERNEL(rms_norm_add_##NAME)

RMS_NORM(f32, float)
RMS_NORM(bf16, bfloat16)
RMS_NORM(f16, float16)

// layer_norm_<T>: out = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias over whole rows; sums in float32,
// rounded once
// layer_norm_add_<T>: first hidden = hidden + branch (rounded, stored), then the same of hidden
// x, out, hidden, branch [rows, width] · weight, bias [width] of float32, bias may be null; out may be x
// Launch: (rows) thread blocks of 128. Needs width % 4 == 0 and pointers aligned to 4 elements.
// Order: of the mean, then of the squares: four neighbours ascending, every 512th four of a thread ascending, warp tree,
// warps ascending: whatever the rows.
// Bytes: 2 * width * sizeof(T) per row (add: 4 *), x twice more, weight and bias from L1. Oracle: reference.layer_norm
#include "reductions.cuh"

constexpr int THREADS = 128;

// What a thread adds up is its own: element `i` is stored by whoever loaded it.
template <class T>
__device__ void normalise(T* out, const T* x, const float* weight, const float* bias, int width, float eps, float sum) {
  float mean = block_sum<THREADS / 32>(sum) / width, squares = 0;
  for (int i = threadIdx.x * 4; i < width; i += THREADS * 4) {
    float4 v = load_four(x + i);
    float a = v.x - mean, b = v.y - mean, c = v.z - mean, d = v.w - mean;
    squares = fmaf(d, d, fmaf(c, c, fmaf(b, b, fmaf(a, a, squares))));
  }
  float scale = 1.0f / sqrtf(block_sum<THREADS / 32>(squares) / width + eps);
  for (int i = threadIdx.x * 4; i < width; i += THREADS * 4) {
    float4 v = load_four(x + i), w = load_four(weight + i), b = bias ? load_four(bias + i) : make_float4(0, 0, 0, 0);
    store_four(out + i, make_float4(fmaf((v.x - mean) * scale, w.x, b.x), fmaf((v.y - mean) * scale, w.y, b.y),
                                    fmaf((v.z - mean) * scale, w.z, b.z), fmaf((v.w - mean) * scale, w.w, b.w)));
  }
}

template <class T>
__device__ void layer_norm(T* out, const T* x, const float* weight, const float* bias, int width, float eps) {
  size_t row = static_cast<size_t>(blockIdx.x) * width;
  float sum = 0;
  for (int i = threadIdx.x * 4; i < width; i += THREADS * 4) {
    float4 v = load_four(x + row + i);
    sum = sum + v.x + v.y + v.z + v.w;
  }
  normalise(out + row, x + row, weight, bias, width, eps, sum);
}

template <class T>
__device__ void layer_norm_add(T* out, T* hidden, const T* branch, const float* weight, const float* bias, int width,
                               float eps) {
  size_t row = static_cast<size_t>(blockIdx.x) * width;
  hidden += row;
  float sum = 0;
  for (int i = threadIdx.x * 4; i < width; i += THREADS * 4) {
    float4 a = load_four(hidden + i), b = load_four(branch + row + i);
    store_four(hidden + i, make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w));
    float4 v = load_four(hidden + i);  // what was stored
    sum = sum + v.x + v.y + v.z + v.w;
  }
  normalise(out + row, hidden, weight, bias, width, eps, sum);
}

#define LAYER_NORM(NAME, T)                                                                                         \
  extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_##NAME(                                          \
      T* out, const T* x, const float* weight, const float* bias, int width, float eps) {                           \
    layer_norm(out, x, weight, bias, width, eps);                                                                   \
  }                                                                                                                 \
  KERNEL(layer_norm_##NAME)                                                                                         \
  extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_add_##NAME(                                      \
      T* out, T* hidden, const T* branch, const float* weight, const float* bias, int width, float eps) {           \
    layer_norm_add(out, hidden, branch, weight, bias, width, eps);                                                  \
  }                                                                                                                 \
  KERNEL(layer_norm_add_##NAME)

LAYER_NORM(f32, float)
LAYER_NORM(bf16, bfloat16)
LAYER_NORM(f16, float16)

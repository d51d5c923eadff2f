// softcap_f32: x = cap * tanh(x / cap), in place
// x [n]. Launch: (ceil(n / 256)) thread blocks of 256. Bytes: 8 * n. Oracle: reference.cap
#include "primitives.cuh"

extern "C" __global__ void __launch_bounds__(256) softcap_f32(float* x, int n, float cap) {
  int i = blockIdx.x * 256 + threadIdx.x;
  if (i < n) x[i] = cap * tanhf(x[i] / cap);
}
KERNEL(softcap_f32)

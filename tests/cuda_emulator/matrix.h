// ldmatrix and mma.sync: the fragment layouts of the PTX ISA, sums in float32 in ascending order of k.
#pragma once
#include "numbers.h"
#include "warp.h"

namespace cuda_emulator {

constexpr unsigned ALL_LANES = 0xffffffffu;

/// `ldmatrix.x{count}[.trans].b16`: lane `8 i + r` gives the address of row `r` of matrix `i`.
void load_matrices(uint32_t* registers, const void* row, int count, bool transposed, const Location& where);

/// `mma.sync.m16n8k16.row.col.f32`: d[16, 8] += a[16, 16] b[16, 8], elements of 16 bits.
template <float (*TO_FLOAT)(uint16_t)>
void multiply_add_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, const char* name, const Location& where);
}  // namespace cuda_emulator

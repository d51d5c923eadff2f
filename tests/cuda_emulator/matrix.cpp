#include "matrix.h"

namespace cuda_emulator {

void load_matrices(uint32_t* registers, const void* row, int count, bool transposed, const Location& where) {
  struct Deposit { uint32_t* registers; const void* row; int count; bool transposed; };
  Deposit deposit{registers, row, count, transposed};
  collective("ldmatrix", ALL_LANES, &deposit, where, [&](unsigned, void** deposits) {
    auto at = [&](int lane) { return static_cast<Deposit*>(deposits[lane]); };
    for (int matrix = 0; matrix < count; matrix++) {
      for (int lane = 0; lane < 32; lane++) {
        if (at(lane)->count != count || at(lane)->transposed != transposed) fail("lanes disagree about ldmatrix");
        uint16_t pair[2];
        for (int element = 0; element < 2; element++) {
          int r = lane >> 2, c = (lane & 3) * 2 + element;
          if (transposed) std::swap(r, c);
          const void* source = at(matrix * 8 + r)->row;
          if (reinterpret_cast<uintptr_t>(source) & 15) fail("a row of ldmatrix is not aligned to 16 bytes");
          pair[element] = static_cast<const uint16_t*>(source)[c];
        }
        at(lane)->registers[matrix] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
      }
    }
  });
}

template <float (*TO_FLOAT)(uint16_t)>
void multiply_add_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, const char* name, const Location& where) {
  struct Deposit { float* d; const uint32_t *a, *b; } deposit{d, a, b};
  collective(name, ALL_LANES, &deposit, where, [](unsigned, void** deposits) {
    float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; lane++) {
      auto* mine = static_cast<Deposit*>(deposits[lane]);
      int group = lane >> 2, pair = (lane & 3) * 2;
      for (int half = 0; half < 2; half++) {
        for (int r = 0; r < 4; r++)
          left[group + (r & 1) * 8][pair + half + (r >> 1) * 8] = TO_FLOAT(uint16_t(mine->a[r] >> (16 * half)));
        for (int r = 0; r < 2; r++)
          right[pair + half + r * 8][group] = TO_FLOAT(uint16_t(mine->b[r] >> (16 * half)));
      }
    }
    for (int lane = 0; lane < 32; lane++) {
      auto* mine = static_cast<Deposit*>(deposits[lane]);
      for (int r = 0; r < 4; r++) {
        int row = (lane >> 2) + (r >> 1) * 8, column = (lane & 3) * 2 + (r & 1);
        float sum = mine->d[r];
        for (int k = 0; k < 16; k++) sum += left[row][k] * right[k][column];
        mine->d[r] = sum;
      }
    }
  });
}

template void multiply_add_m16n8k16<float_of_bf16>(float*, const uint32_t*, const uint32_t*, const char*, const Location&);
template void multiply_add_m16n8k16<float_of_f16>(float*, const uint32_t*, const uint32_t*, const char*, const Location&);
}  // namespace cuda_emulator

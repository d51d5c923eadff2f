// wgmma: products of a warpgroup that run beside it. A warp's sixteen rows are computed at the instruction in some
// schedules and only at the wait in others, so that operands that come too late or are overwritten too early show; sums
// are NaN to the kernel until they are waited for.
//
// Layouts as the PTX ISA and CUTLASS's canonical layouts give them, for 128-byte swizzling: rows of 128 bytes, eight to
// an atom of 1,024 bytes. K along the row: the stride byte offset leads to the next eight rows. K across the rows
// (transposed): the stride byte offset leads to the next eight of k, the leading byte offset to the next 64 columns.
#pragma once
#include "matrix.h"
#include "tensor_load.h"

namespace cuda_emulator {

struct Descriptor {
  uint32_t start, leading, stride;

  static Descriptor read(uint64_t bits) {
    if (bits >> 62 != 1) fail("a wgmma descriptor whose swizzling is not that of 128 bytes");
    return {static_cast<uint32_t>(bits & 0x3fff) << 4, static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4,
            static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4};
  }
};

uint16_t operand_element(const Descriptor& d, int row, int k, bool is_transposed);

OwnedSums& owned_sums(WarpProducts& products, const std::array<float*, 32>& registers);

void compute_product(WarpProducts& products, const PendingProduct& product, int warp);

void compute_products(WarpProducts& products, int warp, int before_group);

/// The four warps of a warpgroup must give the same operands.
void agree(int warp, int number, uint64_t left, uint64_t right, int columns);

/// `wgmma.fence`: registers may be given to the next products.
void fence_products(const Location& where);

void start_product(float (*to_float)(uint16_t), float* sums, int columns, const uint32_t* fragments,
                               uint64_t left, uint64_t right, bool is_right_transposed, bool adds,
                               const Location& where);

void commit_products(const Location& where);

/// `wgmma.wait_group keep`: the sums of all but the last `keep` groups are in the registers.
void wait_products(int keep, const Location& where);

void check_nothing_is_pending();
}  // namespace cuda_emulator

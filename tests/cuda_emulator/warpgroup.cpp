#include "warpgroup.h"

namespace cuda_emulator {

uint16_t operand_element(const Descriptor& d, int row, int k, bool is_transposed) {
  uint32_t offset = is_transposed ? d.start + row / 64 * d.leading + row % 64 * 2 + k / 8 * d.stride + k % 8 * 128
                                  : d.start + row / 8 * d.stride + row % 8 * 128 + k * 2;
  offset = swizzled(offset);
  if (offset + 2 > block->dynamic_shared->bytes())
    fail("a wgmma descriptor reads byte %u of %zu bytes of dynamic shared memory", offset, block->dynamic_shared->bytes());
  uint16_t bits;
  std::memcpy(&bits, block->dynamic_shared->data() + offset, 2);
  return bits;
}

OwnedSums& owned_sums(WarpProducts& products, const std::array<float*, 32>& registers) {
  for (OwnedSums& owned : products.owned)
    if (owned.registers == registers) return owned;
  fail("sums that no wgmma owns");
}

void compute_product(WarpProducts& products, const PendingProduct& product, int warp) {
  static float left[16][16], right[256][16];  // one launch at a time, and too large for a fiber
  Descriptor b = Descriptor::read(product.right);
  for (int n = 0; n < product.columns; n++)
    for (int k = 0; k < 16; k++)
      right[n][k] = product.to_float(operand_element(b, n, k, product.is_right_transposed));
  if (product.is_left_in_registers) {
    for (int lane = 0; lane < 32; lane++)
      for (int r = 0; r < 4; r++)
        for (int half = 0; half < 2; half++)
          left[(lane >> 2) + (r & 1) * 8][(lane & 3) * 2 + half + (r >> 1) * 8] =
              product.to_float(static_cast<uint16_t>(product.fragments[lane][r] >> (16 * half)));
  } else {
    Descriptor a = Descriptor::read(product.left);
    for (int m = 0; m < 16; m++)
      for (int k = 0; k < 16; k++) left[m][k] = product.to_float(operand_element(a, warp % 4 * 16 + m, k, false));
  }
  OwnedSums& owned = owned_sums(products, product.sums);
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < product.columns / 2; i++) {
      int row = (lane >> 2) + (i >> 1 & 1) * 8, column = i / 4 * 8 + (lane & 3) * 2 + (i & 1);
      float sum = product.adds ? owned.values[lane][i] : 0.0f;
      for (int k = 0; k < 16; k++) sum += left[row][k] * right[column][k];
      owned.values[lane][i] = sum;
    }
}

void compute_products(WarpProducts& products, int warp, int before_group) {
  size_t done = 0;
  for (; done < products.queue.size() && products.queue[done].group < before_group; done++)
    compute_product(products, products.queue[done], warp);
  products.queue.erase(products.queue.begin(), products.queue.begin() + static_cast<std::ptrdiff_t>(done));
}

void agree(int warp, int number, uint64_t left, uint64_t right, int columns) {
  auto& all = block->agreements[warp / 4];
  auto [found, is_new] = all.try_emplace(number, Agreement{left, right, columns});
  if (!is_new && (found->second.left != left || found->second.right != right || found->second.columns != columns))
    fail("the warps of a warpgroup give different operands to wgmma %d", number);
}

void fence_products(const Location& where) {
  collective("wgmma.fence", ALL_LANES, nullptr, where,
             [](unsigned, void**) { block->warps[current->warp].products.is_fenced = true; });
}

void start_product(float (*to_float)(uint16_t), float* sums, int columns, const uint32_t* fragments,
                               uint64_t left, uint64_t right, bool is_right_transposed, bool adds,
                               const Location& where) {
  struct Deposit { float* sums; const uint32_t* fragments; uint64_t left, right; bool adds; };
  Deposit deposit{sums, fragments, left, right, adds};
  if (block->num_threads % 128 && current->warp / 4 * 128 + 128 > block->num_threads)
    fail("wgmma in a warpgroup that is not whole");
  collective("wgmma", ALL_LANES, &deposit, where, [&](unsigned, void** deposits) {
    WarpProducts& products = block->warps[current->warp].products;
    if (!products.is_fenced)
      fail("wgmma at %s without a fence since its registers may have changed", file_line(where).c_str());
    PendingProduct product;
    product.left = left;
    product.right = right;
    product.is_left_in_registers = fragments != nullptr;
    product.is_right_transposed = is_right_transposed;
    product.adds = adds;
    product.columns = columns;
    product.group = products.group;
    product.to_float = to_float;
    for (int lane = 0; lane < 32; lane++) {
      auto* each = static_cast<Deposit*>(deposits[lane]);
      if (each->left != left || each->right != right || each->adds != adds) fail("the lanes of a warp disagree about wgmma");
      product.sums[lane] = each->sums;
      if (fragments) std::copy_n(each->fragments, 4, product.fragments[lane].begin());
    }
    agree(current->warp, products.num_issued++, fragments ? 0 : left, right, columns);
    auto known = std::find_if(products.owned.begin(), products.owned.end(),
                              [&](const OwnedSums& owned) { return owned.registers == product.sums; });
    if (known == products.owned.end()) {
      OwnedSums owned;
      owned.registers = product.sums;
      owned.count = columns / 2;
      for (int lane = 0; lane < 32; lane++) std::copy_n(product.sums[lane], owned.count, owned.values[lane].begin());
      known = products.owned.insert(products.owned.end(), owned);
      products.groups_of_owned.push_back(0);
    }
    products.groups_of_owned[static_cast<size_t>(known - products.owned.begin())] = products.group;
    for (int lane = 0; lane < 32; lane++)
      std::memset(product.sums[lane], POISON, static_cast<size_t>(known->count) * sizeof(float));
    products.queue.push_back(product);
    if (toss()) compute_products(products, current->warp, products.group + 1);
  });
}

void commit_products(const Location& where) {
  collective("wgmma.commit_group", ALL_LANES, nullptr, where,
             [](unsigned, void**) { block->warps[current->warp].products.group++; });
}

void wait_products(int keep, const Location& where) {
  collective("wgmma.wait_group", ALL_LANES, nullptr, where, [&](unsigned, void**) {
    WarpProducts& products = block->warps[current->warp].products;
    compute_products(products, current->warp, products.group - keep);
    for (size_t i = 0; i < products.owned.size();) {
      if (products.groups_of_owned[i] >= products.group - keep) {
        i++;
        continue;
      }
      const OwnedSums& owned = products.owned[i];
      for (int lane = 0; lane < 32; lane++) std::copy_n(owned.values[lane].begin(), owned.count, owned.registers[lane]);
      products.owned.erase(products.owned.begin() + static_cast<std::ptrdiff_t>(i));
      products.groups_of_owned.erase(products.groups_of_owned.begin() + static_cast<std::ptrdiff_t>(i));
    }
    products.is_fenced = false;
  });
}

void check_nothing_is_pending() {
  current = nullptr;
  if (!block->loads.empty()) fail("the thread block ended before %zu of its tensor loads landed", block->loads.size());
  for (int warp = 0; warp < block->num_warps; warp++) {
    const WarpProducts& products = block->warps[warp].products;
    if (!products.owned.empty()) fail("warp %d ended with a wgmma that it never waited for", warp);
    if (products.num_issued != block->warps[warp / 4 * 4].products.num_issued)
      fail("warps %d and %d of a warpgroup did not issue as many wgmma as each other", warp / 4 * 4, warp);
  }
}
}  // namespace cuda_emulator

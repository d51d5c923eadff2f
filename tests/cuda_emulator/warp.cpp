#include "warp.h"

namespace cuda_emulator {

unsigned meet(const char* name, unsigned mask, void* deposit, const Location& where, void** deposits) {
  Thread* lanes = &block->threads[current->warp * 32];
  int num_lanes = std::min(32, block->num_threads - current->warp * 32);
  if (num_lanes < 32 && mask == 0xffffffffu) mask = (1u << num_lanes) - 1;
  if (!(mask >> current->lane & 1))
    fail("lane %d is not in the mask %08x that it gave to %s at %s", current->lane, mask, name,
         file_line(where).c_str());
  current->mask = mask;
  current->deposit = deposit;
  auto& meetings = block->warps[current->warp].meetings;
  auto meeting = std::find_if(meetings.begin(), meetings.end(), [&](const Meeting& m) { return m.mask == mask; });
  if (meeting == meetings.end()) meeting = meetings.insert(meetings.end(), {mask, 0, name});
  if (strcmp(meeting->name, name))
    fail("lanes of mask %08x meet in %s and in %s at %s", mask, meeting->name, name, file_line(where).c_str());
  meeting->arrived |= 1u << current->lane;
  if (meeting->arrived != mask) {
    wait(State::in_collective, name, where);
    return 0;
  }
  meetings.erase(meeting);
  for (int lane = 0; lane < 32; lane++) deposits[lane] = mask >> lane & 1 ? lanes[lane].deposit : nullptr;
  return mask;
}

void part(unsigned mask) {
  Thread* lanes = &block->threads[current->warp * 32];
  for (int lane = 0; lane < 32; lane++)
    if ((mask >> lane & 1) && &lanes[lane] != current) lanes[lane].state = State::ready;
}

void shuffle_bytes(const char* name, unsigned mask, void* value, size_t bytes, int source, const Location& where) {
  struct Deposit { unsigned char in[16], out[16]; int source; } deposit;
  deposit.source = source;
  std::memcpy(deposit.in, value, bytes);
  collective(name, mask, &deposit, where, [&](unsigned met, void** deposits) {
    for (int lane = 0; lane < 32; lane++) {
      if (!(met >> lane & 1)) continue;
      auto* mine = static_cast<Deposit*>(deposits[lane]);
      if (!(met >> (mine->source & 31) & 1))
        fail("lane %d reads from lane %d, which is not in mask %08x of %s at %s", lane, mine->source, met, name,
             file_line(where).c_str());
      std::memcpy(mine->out, static_cast<Deposit*>(deposits[mine->source & 31])->in, bytes);
    }
  });
  std::memcpy(value, deposit.out, bytes);
}

template <class T, class Combine>
T reduce(const char* name, unsigned mask, T value, const Location& where, Combine combine) {
  struct Deposit { T value; } deposit{value};
  collective(name, mask, &deposit, where, [&](unsigned met, void** deposits) {
    bool is_first = true;
    T result{};
    for (int lane = 0; lane < 32; lane++) {
      if (!(met >> lane & 1)) continue;
      T next = static_cast<Deposit*>(deposits[lane])->value;
      result = is_first ? next : combine(result, next);
      is_first = false;
    }
    for (int lane = 0; lane < 32; lane++)
      if (met >> lane & 1) static_cast<Deposit*>(deposits[lane])->value = result;
  });
  return deposit.value;
}

void sync_warp(unsigned mask, const Location& where) {
  collective("__syncwarp", mask, nullptr, where, [](unsigned, void**) {});
}

unsigned ballot(const char* name, unsigned mask, bool predicate, const Location& where) {
  unsigned bit = predicate ? 1u << current->lane : 0;
  return reduce(name, mask, bit, where, [](unsigned a, unsigned b) { return a | b; });
}

int reduce_max(unsigned mask, int value, const Location& where) {
  return reduce("__reduce_max_sync", mask, value, where, [](int a, int b) { return std::max(a, b); });
}

int reduce_min(unsigned mask, int value, const Location& where) {
  return reduce("__reduce_min_sync", mask, value, where, [](int a, int b) { return std::min(a, b); });
}

unsigned reduce_add(unsigned mask, unsigned value, const Location& where) {
  return reduce("__reduce_add_sync", mask, value, where, [](unsigned a, unsigned b) { return a + b; });
}
}  // namespace cuda_emulator

// moe_route_f32: the top_k experts of each token, best first, and their weights
// logits [tokens, experts] · correction [experts], added to the scores for the choice only, or null
// ids, weights [tokens, top_k]
// Scores: softmax over all experts, or is_sigmoid: 1 / (1 + exp(-logit)). Equal scores: the lowest expert first. Weights: the
// scores, is_normalised: divided by their sum (plus 1e-20); times scale. A logit of NaN counts as the lowest of all.
// groups 0: none; else experts are so many runs of equal length, and only those of the `kept` best runs are chosen from. A run is
// as good as its largest corrected score, or scored 2: as the sum of the two largest. Equal runs: the lowest first.
// Launch: (ceil(tokens / 4)) thread blocks of 128, a warp per token. Needs top_k <= 32, top_k <= experts <= 512 (experts of
// the kept groups), groups <= 64, experts % groups == 0, 1 <= kept <= groups.
// Order: per lane ascending, then reductions.cuh; the sum of the weights in the order of the choice.
// Bytes: 4 * experts per token. Oracle: numpy, a stable argsort. Source: Mixtral, Qwen-MoE, DeepSeek-V2 and V3
#include "best.cuh"
#include "reductions.cuh"

constexpr int PER_LANE = 16;

// A bit per group of experts that may be chosen from; choice[i] is of expert lane + 32 * i. The same in every lane.
__device__ __forceinline__ uint64_t kept_groups(const float (&choice)[PER_LANE], int experts, int groups, int kept,
                                                int scored, int lane) {
  int size = experts / groups;
  float low = 0, high = 0;  // of groups lane and lane + 32
  for (int group = 0; group < groups; group++) {
    float value = 0;
    int found = -1;
    for (int turn = 0; turn < scored; turn++) {
      Best best = {-infinity(), 0x7fffffff};
#pragma unroll
      for (int i = 0; i < PER_LANE; i++) {
        Best next = {choice[i], lane + 32 * i};
        if (next.index / size == group && next.index < experts && next.index != found && is_better(next, best)) best = next;
      }
      best = warp_best(best);
      value += best.value;
      found = best.index;
    }
    if (group == lane) low = value;
    if (group == lane + 32) high = value;
  }
  uint64_t is_kept = 0;
  for (int turn = 0; turn < kept; turn++) {
    Best best = {-infinity(), 0x7fffffff};
#pragma unroll
    for (int i = 0; i < 2; i++) {
      Best next = {i ? high : low, lane + 32 * i};
      if (next.index < groups && !(is_kept >> next.index & 1) && is_better(next, best)) best = next;
    }
    is_kept |= uint64_t{1} << warp_best(best).index % 64;
  }
  return is_kept;
}

extern "C" __global__ void __launch_bounds__(128, 4) moe_route_f32(int* ids, float* weights, const float* logits,
                                                                const float* correction, int tokens, int experts,
                                                                int top_k, int is_sigmoid, int is_normalised,
                                                                float scale, int groups, int kept, int scored) {
  int token = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (token >= tokens) return;
  const float* row = logits + static_cast<size_t>(token) * experts;
  float scores[PER_LANE], choice[PER_LANE];
  float largest = -infinity(), total = 0;
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    int expert = lane + 32 * i;
    float logit = expert < experts ? row[expert] : -infinity();
    scores[i] = logit == logit ? logit : -infinity();
    largest = fmaxf(largest, scores[i]);
  }
  largest = warp_max(largest);
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    scores[i] = is_sigmoid ? 1.0f / (1.0f + expf(-scores[i])) : expf(scores[i] - largest);
    total += lane + 32 * i < experts ? scores[i] : 0.0f;
  }
  total = warp_sum(total);
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    int expert = lane + 32 * i;
    if (!is_sigmoid) scores[i] /= total;
    choice[i] = scores[i] == scores[i] ? scores[i] : 0.0f;
    if (correction && expert < experts) choice[i] += correction[expert];
  }

  if (groups) {
    uint64_t is_kept = kept_groups(choice, experts, groups, kept, scored, lane);
    int size = experts / groups;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++)
      if (!(is_kept >> (lane + 32 * i) / size % 64 & 1)) choice[i] = -infinity();
  }

  unsigned taken = 0;
  float sum = 0, mine = 0;  // the weight of choice `lane`
  for (int slot = 0; slot < top_k; slot++) {
    Best best = {-infinity(), 0x7fffffff};
    float score = 0;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
      Best next = {choice[i], lane + 32 * i};
      if (next.index < experts && !(taken >> i & 1) && (best.index == 0x7fffffff || is_better(next, best))) {
        best = next;
        score = scores[i];
      }
    }
    int found = warp_best(best).index;
    if (best.index == found) taken |= 1u << found / 32;
    score = __shfl_sync(ALL_LANES, score, found % 32);
    sum += score;
    if (slot == lane) mine = score;
    if (lane == 0) ids[static_cast<size_t>(token) * top_k + slot] = found;
  }
  if (lane < top_k) {
    float weight = is_normalised ? mine / (sum + 1e-20f) : mine;
    weights[static_cast<size_t>(token) * top_k + lane] = weight * scale;
  }
}
KERNEL(moe_route_f32)

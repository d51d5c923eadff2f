//! Which experts a row goes to where that is more than the largest logits: sigmoid scores, a bias for the choice, groups.
//!
//! Source: DeepSeek-V3 Technical Report (arXiv 2412.19437), sections 2.1.2 and 2.1.3; as in transformers' `DeepseekV3TopkRouter`.

use inferlib_program::program::ExpertGroups;

/// Added to the sum of the chosen scores before they are divided by it.
const EPSILON: f32 = 1e-20;

/// A row's choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    /// `[experts]`.
    pub(crate) scores: &'a [f32],
    /// `[experts]`: added to the scores for the choice alone.
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) groups: Option<ExpertGroups>,
    pub(crate) normalise: bool,
    pub(crate) scale: f32,
}

impl Choice<'_> {
    /// Choose as many experts as there are places, in descending order of their scores with bias (the lower index on a tie).
    /// Sums are in that order. With NaN among the scores the choice is any, but of valid experts.
    pub(crate) fn choose(&self, chosen: &mut [i32], weights: &mut [f32]) {
        let (kept, count) = (self.kept_groups(), self.groups.map_or(1, |g| g.count));
        let size = self.scores.len() / count;
        let mut found = 0;
        for (expert, index) in (0_i32..).zip(0..self.scores.len()) {
            if kept >> (index / size) & 1 == 0 {
                continue;
            }
            let value = self.value(index);
            if found == chosen.len() {
                if value > weights[found - 1] {
                    found -= 1;
                } else {
                    continue;
                }
            }
            let mut place = found;
            while place > 0 && value > weights[place - 1] {
                (weights[place], chosen[place]) = (weights[place - 1], chosen[place - 1]);
                place -= 1;
            }
            (weights[place], chosen[place]) = (value, expert);
            found += 1;
        }
        let mut sum = 0.0;
        for (weight, &expert) in weights.iter_mut().zip(&*chosen) {
            *weight = self.scores[expert.unsigned_abs() as usize];
            sum += *weight;
        }
        let divisor = if self.normalise { sum + EPSILON } else { 1.0 };
        for weight in weights {
            *weight = *weight / divisor * self.scale;
        }
    }

    /// What the choice compares.
    fn value(&self, expert: usize) -> f32 {
        self.scores[expert] + self.bias.map_or(0.0, |bias| bias[expert])
    }

    /// One bit per group that may be used: the best, the lower index first on a tie.
    fn kept_groups(&self) -> u64 {
        let Some(groups) = self.groups else {
            return u64::MAX;
        };
        let mut kept = 0;
        for _ in 0..groups.kept {
            let mut best = None;
            for group in (0..groups.count).filter(|group| kept >> group & 1 == 0) {
                let value = self.group_value(groups, group);
                if best.is_none_or(|(_, known)| value > known) {
                    best = Some((group, value));
                }
            }
            kept |= best.map_or(0, |(group, _)| 1 << group);
        }
        kept
    }

    /// The sum of a group's largest values.
    fn group_value(&self, groups: ExpertGroups, group: usize) -> f32 {
        let size = self.scores.len() / groups.count;
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for expert in group * size..(group + 1) * size {
            let value = self.value(expert);
            if value > first {
                (first, second) = (value, first);
            } else if value > second {
                second = value;
            }
        }
        if groups.scored == 1 {
            first
        } else {
            first + second
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores without ties but where they are wanted.
    fn scores(experts: usize, seed: usize) -> Vec<f32> {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let score = |i: usize| ((i * 37 + seed * 11) % 101) as f32 / 101.0;
        (0..experts).map(score).collect()
    }

    fn plain(choice: &Choice<'_>, top_k: usize) -> Vec<(usize, f32)> {
        let value = |e: usize| choice.scores[e] + choice.bias.map_or(0.0, |bias| bias[e]);
        let mut allowed: Vec<usize> = (0..choice.scores.len()).collect();
        if let Some(groups) = choice.groups {
            let size = allowed.len() / groups.count;
            let sum = |group: &usize| {
                let mut values: Vec<f32> = (group * size..(group + 1) * size).map(value).collect();
                values.sort_by(|a, b| b.total_cmp(a));
                values[..groups.scored].iter().sum::<f32>()
            };
            let mut order: Vec<usize> = (0..groups.count).collect();
            order.sort_by(|a, b| sum(b).total_cmp(&sum(a)).then(a.cmp(b)));
            allowed.retain(|expert| order[..groups.kept].contains(&(expert / size)));
        }
        allowed.sort_by(|&a, &b| value(b).total_cmp(&value(a)).then(a.cmp(&b)));
        allowed.truncate(top_k);
        let sum = allowed.iter().fold(0.0, |sum, &e| sum + choice.scores[e]);
        let divisor = if choice.normalise { sum + EPSILON } else { 1.0 };
        let weight = |e: usize| choice.scores[e] / divisor * choice.scale;
        allowed.into_iter().map(|e| (e, weight(e))).collect()
    }

    #[test]
    fn the_best_experts_of_the_best_groups_in_order() {
        for (experts, count, kept, scored) in [
            (8, 2, 1, 2),
            (8, 4, 2, 1),
            (6, 6, 6, 1),
            (64, 8, 3, 2),
            (1, 1, 1, 1),
        ] {
            for seed in 0..20 {
                let mut values = scores(experts, seed);
                if seed % 3 == 0 {
                    values[experts - 1] = values[0]; // a tie
                }
                let bias = scores(experts, seed + 7);
                for (bias, groups, normalise) in [
                    (None, None, true),
                    (Some(&bias[..]), Some(()), true),
                    (Some(&bias[..]), None, false),
                    (None, Some(()), false),
                ] {
                    let groups = groups.map(|()| ExpertGroups {
                        count,
                        kept,
                        scored,
                    });
                    let choice = Choice {
                        scores: &values,
                        bias,
                        groups,
                        normalise,
                        scale: 2.5,
                    };
                    let room = groups.map_or(experts, |g| experts / g.count * g.kept);
                    for top_k in [1, 2, 3, room] {
                        if top_k > room {
                            continue;
                        }
                        let (mut chosen, mut weights) = (vec![-1; top_k], vec![0.0; top_k]);
                        choice.choose(&mut chosen, &mut weights);
                        let want = plain(&choice, top_k);
                        let found: Vec<(usize, f32)> = chosen
                            .iter()
                            .map(|&expert| usize::try_from(expert).expect("an expert"))
                            .zip(weights)
                            .collect();
                        assert_eq!(found, want, "{choice:?}, {top_k}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_nan_leaves_valid_experts() {
        for place in 0..8 {
            let mut values = scores(8, 1);
            values[place] = f32::NAN;
            let choice = Choice {
                scores: &values,
                bias: None,
                groups: Some(ExpertGroups {
                    count: 2,
                    kept: 1,
                    scored: 2,
                }),
                normalise: true,
                scale: 1.0,
            };
            let (mut chosen, mut weights) = ([-1; 4], [0.0; 4]);
            choice.choose(&mut chosen, &mut weights);
            chosen.sort_unstable();
            assert!(
                chosen == [0, 1, 2, 3] || chosen == [4, 5, 6, 7],
                "{chosen:?}"
            );
        }
    }
}

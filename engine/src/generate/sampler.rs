//! From logits to an id: penalty, temperature, top-k, top-p, min-p, and the draw.
//!
//! The order and the definitions are those of Hugging Face Transformers' logits processors. Nothing is allocated after
//! [`Sampler::new`], and nothing is sorted that need not be: top-k is a selection, and top-p sorts only as many of the
//! likeliest as it takes to reach its mass.

use super::GenerateError;
use crate::random::Generator;

/// How ids are drawn. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest id.
    pub temperature: f32,
    /// Only the `k` likeliest; 0 for all.
    pub top_k: usize,
    /// Only the likeliest that together reach this probability; 1 for all.
    pub top_p: f32,
    /// Only ids at least this fraction as likely as the likeliest; 0 for all.
    pub min_p: f32,
    /// Divides positive logits of ids that stand in the sequence already, and multiplies negative ones; 1 for none.
    pub repetition_penalty: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

impl Sampling {
    /// Errors: an option that is not possible, by name.
    pub(super) fn validate(&self) -> Result<(), GenerateError> {
        let check = |option, value: f32, ok: bool, expected| match ok && value.is_finite() {
            true => Ok(()),
            false => Err(GenerateError::Option { option, value: value.to_string(), expected }),
        };
        check("temperature", self.temperature, self.temperature >= 0.0, "0 (greedy) or a positive number")?;
        check("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "a number above 0, at most 1")?;
        check("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "a number from 0 to 1")?;
        let penalty = self.repetition_penalty;
        check("repetition_penalty", penalty, penalty > 0.0, "a positive number")
    }
}

/// An id and its weight, which is not yet divided by the sum.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
    weight: f64,
}

/// Draws ids, reusing its memory.
#[derive(Clone, Debug)]
pub struct Sampler {
    candidates: Vec<Candidate>,
    seen: Vec<bool>,
}

/// How many of the likeliest top-p sorts at first.
const FIRST_SORTED: usize = 64;

impl Sampler {
    /// For so many ids.
    pub fn new(vocabulary: usize) -> Sampler {
        Sampler { candidates: Vec::with_capacity(vocabulary), seen: vec![false; vocabulary] }
    }

    /// Draws an id. `history` holds the ids of the sequence, for the penalty; where `allowed` is given, ids whose entry is
    /// false are out. `None` where no id is left, or no logit of those left is a number.
    pub fn draw(
        &mut self,
        logits: &[f32],
        history: &[u32],
        allowed: Option<&[bool]>,
        sampling: &Sampling,
        random: &mut Generator,
    ) -> Option<u32> {
        self.gather(logits, history, allowed, sampling.repetition_penalty);
        let best = *self.candidates.iter().reduce(|a, b| if b.logit > a.logit { b } else { a })?;
        if !best.logit.is_finite() {
            return None;
        }
        if sampling.temperature == 0.0 {
            return Some(best.id);
        }
        let descending = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
        let (list, k) = (&mut self.candidates, sampling.top_k);
        if k > 0 && k < list.len() {
            list.select_nth_unstable_by(k - 1, descending);
            list.truncate(k);
        }
        let mut total = 0.0;
        for candidate in list.iter_mut() {
            let distance = f64::from(candidate.logit) - f64::from(best.logit);
            candidate.weight = (distance / f64::from(sampling.temperature)).exp();
            total += candidate.weight;
        }
        if sampling.top_p < 1.0 {
            total = nucleus(list, f64::from(sampling.top_p) * total);
        }
        if sampling.min_p > 0.0 {
            let least = f64::from(sampling.min_p);
            list.retain(|candidate| candidate.weight >= least);
            total = list.iter().map(|candidate| candidate.weight).sum();
        }
        let mut left = random.uniform_f64() * total;
        for candidate in list.iter() {
            left -= candidate.weight;
            if left < 0.0 {
                return Some(candidate.id);
            }
        }
        // Rounding may leave a crumb: it belongs to the last id that has any weight.
        list.iter().rev().find(|candidate| candidate.weight > 0.0).map(|candidate| candidate.id)
    }

    fn gather(&mut self, logits: &[f32], history: &[u32], allowed: Option<&[bool]>, penalty: f32) {
        self.candidates.clear();
        let punish = penalty != 1.0;
        if punish {
            for &id in history {
                if let Some(seen) = self.seen.get_mut(id as usize) {
                    *seen = true;
                }
            }
        }
        for (id, &logit) in logits.iter().enumerate() {
            if allowed.is_some_and(|allowed| !allowed[id]) || logit.is_nan() {
                continue;
            }
            let repeated = punish && self.seen[id];
            let logit = match repeated {
                true if logit > 0.0 => logit / penalty,
                true => logit * penalty,
                false => logit,
            };
            self.candidates.push(Candidate { id: id as u32, logit, weight: 0.0 });
        }
        if punish {
            for &id in history {
                if let Some(seen) = self.seen.get_mut(id as usize) {
                    *seen = false;
                }
            }
        }
    }
}

/// Cuts the list to its likeliest, in order, whose weights just reach `mass`; their sum.
fn nucleus(list: &mut Vec<Candidate>, mass: f64) -> f64 {
    let descending = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
    let (mut sorted, mut sum) = (0, 0.0);
    let mut until = FIRST_SORTED;
    while sorted < list.len() {
        let end = until.min(list.len());
        if end < list.len() {
            list[sorted..].select_nth_unstable_by(end - sorted, descending);
        }
        list[sorted..end].sort_unstable_by(descending);
        for i in sorted..end {
            sum += list[i].weight;
            if sum >= mass {
                list.truncate(i + 1);
                return sum;
            }
        }
        (sorted, until) = (end, 4 * until);
    }
    sum
}

/// The logarithm of an id's probability under the logits as they are.
pub(super) fn log_probability(logits: &[f32], id: u32) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    (f64::from(logits[id as usize] - max) - sum.ln()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 100_000;

    fn logits() -> Vec<f32> {
        (0..12).map(|i| ((i * 7) % 12) as f32 * 0.35 - 1.0).collect()
    }

    /// The distribution that a method should have, by its definition.
    fn expected(logits: &[f32], s: &Sampling, history: &[u32]) -> Vec<f64> {
        let punished = |i: usize, x: f32| match history.contains(&(i as u32)) {
            true if x > 0.0 => x / s.repetition_penalty,
            true => x * s.repetition_penalty,
            false => x,
        };
        let scaled: Vec<f64> = logits
            .iter()
            .enumerate()
            .map(|(i, &x)| f64::from(punished(i, x)) / f64::from(s.temperature))
            .collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| scaled[b].total_cmp(&scaled[a]));
        if s.top_k > 0 {
            order.truncate(s.top_k);
        }
        let normal = |order: &[usize]| {
            let sum: f64 = order.iter().map(|&i| scaled[i].exp()).sum();
            order.iter().map(|&i| scaled[i].exp() / sum).collect::<Vec<f64>>()
        };
        let mut sum = 0.0;
        let kept = normal(&order).into_iter().take_while(|p| {
            let before = sum;
            sum += *p;
            before < f64::from(s.top_p)
        });
        let kept = kept.count();
        order.truncate(kept);
        let p = normal(&order);
        order.truncate(p.iter().filter(|x| **x >= p[0] * f64::from(s.min_p)).count());
        let p = normal(&order);
        let mut all = vec![0.0; logits.len()];
        order.iter().zip(p).for_each(|(&i, p)| all[i] = p);
        all
    }

    /// Chi-square of so many draws against the definition; the bound is far in the tail (p about 1e-6 at 11 degrees).
    fn check(sampling: Sampling, history: &[u32]) {
        let (logits, mut random) = (logits(), Generator::new(11));
        let mut sampler = Sampler::new(logits.len());
        let mut counts = vec![0usize; logits.len()];
        for _ in 0..DRAWS {
            counts[sampler.draw(&logits, history, None, &sampling, &mut random).unwrap() as usize] += 1;
        }
        let expected = expected(&logits, &sampling, history);
        let mut chi = 0.0;
        for (count, p) in counts.iter().zip(&expected) {
            assert!(*p > 0.0 || *count == 0, "{sampling:?}: drew an id that is out: {counts:?}");
            if *p > 0.0 {
                let mean = p * DRAWS as f64;
                chi += (*count as f64 - mean).powi(2) / mean;
            }
        }
        assert!(chi < 50.0, "{sampling:?}: chi-square {chi}, {counts:?}, expected {expected:?}");
    }

    #[test]
    fn each_method_draws_with_the_probabilities_of_its_definition() {
        let hot = Sampling { temperature: 1.0, ..Sampling::default() };
        check(hot, &[]);
        check(Sampling { temperature: 0.6, ..hot }, &[]);
        check(Sampling { temperature: 1.7, ..hot }, &[]);
        check(Sampling { top_k: 5, ..hot }, &[]);
        check(Sampling { top_p: 0.7, ..hot }, &[]);
        check(Sampling { min_p: 0.2, ..hot }, &[]);
        check(Sampling { repetition_penalty: 1.5, ..hot }, &[3, 7, 7, 0]);
        check(Sampling { temperature: 0.8, top_k: 9, top_p: 0.9, min_p: 0.1, ..hot }, &[]);
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        let (mut sampler, mut random) = (Sampler::new(4), Generator::new(0));
        let mut draw = |logits: &[f32], allowed: Option<&[bool]>| {
            sampler.draw(logits, &[], allowed, &Sampling::default(), &mut random)
        };
        assert_eq!(draw(&[0.0, 2.0, 2.0, 1.0], None), Some(1));
        assert_eq!(draw(&[0.0, 2.0, 2.0, 1.0], Some(&[true, false, false, true])), Some(3));
        assert_eq!(draw(&[0.0; 4], Some(&[false; 4])), None);
        assert_eq!(draw(&[f32::NAN; 4], None), None);
    }

    #[test]
    fn top_p_of_a_large_vocabulary_is_the_prefix_of_the_sorted_list() {
        let logits: Vec<f32> = (0..5000).map(|i| ((i * 2654435761u64 % 5000) as f32) / 900.0).collect();
        let mut list: Vec<Candidate> = logits
            .iter()
            .enumerate()
            .map(|(i, &logit)| Candidate { id: i as u32, logit, weight: f64::from(logit).exp() })
            .collect();
        let total: f64 = list.iter().map(|c| c.weight).sum();
        let mut sorted = list.clone();
        sorted.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
        let sum = nucleus(&mut list, 0.5 * total);
        assert!(sum >= 0.5 * total && sum - list.last().unwrap().weight < 0.5 * total);
        assert!(list.iter().zip(&sorted).all(|(a, b)| a.id == b.id));
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let logits = logits();
        let sum: f32 = (0..12).map(|id| log_probability(&logits, id).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5);
    }

    #[test]
    fn impossible_options_are_named() {
        let error = |s: Sampling| s.validate().unwrap_err().to_string();
        assert!(error(Sampling { temperature: -1.0, ..Sampling::default() }).starts_with("temperature = -1"));
        assert!(error(Sampling { top_p: 0.0, ..Sampling::default() }).starts_with("top_p = 0"));
        assert!(error(Sampling { min_p: f32::NAN, ..Sampling::default() }).starts_with("min_p = NaN"));
    }
}

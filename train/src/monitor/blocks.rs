//! Little pictures of numbers in Unicode blocks: a sparkline, bars of expert load.
//!
//! Only text is made here; who prints it decides where and how often.

use super::ExpertLoad;

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The block for a share of the full height; what is not a number has none.
fn block(share: f64) -> char {
    if share.is_finite() { BLOCKS[((share * 8.0) as usize).min(7)] } else { '·' }
}

/// At most `width` values: neighbours are joined by their mean.
fn shrink(values: &[f64], width: usize) -> Vec<f64> {
    let group = values.len().div_ceil(width.max(1)).max(1);
    values.chunks(group).map(|chunk| chunk.iter().sum::<f64>() / chunk.len() as f64).collect()
}

/// A line of at most `width` blocks from the least to the largest value.
pub fn sparkline(values: &[f64], width: usize) -> String {
    let values = shrink(values, width);
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let span = if high > low { high - low } else { 1.0 };
    values.iter().map(|value| block((value - low) / span)).collect()
}

/// One block per expert (or per group of neighbours): half height is an even share, full height is twice that.
pub fn load_bars(counts: &[u64], width: usize) -> String {
    let even = counts.iter().sum::<u64>() as f64 / counts.len().max(1) as f64;
    let shares: Vec<f64> = counts.iter().map(|&count| count as f64 / even / 2.0).collect();
    shrink(&shares, width).into_iter().map(block).collect()
}

/// Load of the busiest expert over an even share: 1 is perfectly even, `expert_count` is a collapse.
pub fn imbalance(counts: &[u64]) -> f64 {
    let (total, most) = (counts.iter().sum::<u64>(), counts.iter().max().copied().unwrap_or(0));
    if total == 0 { 1.0 } else { most as f64 * counts.len() as f64 / total as f64 }
}

/// A line for a layer: its bars, the busiest expert, the entropy, what was dropped.
pub fn load_line(load: &ExpertLoad, width: usize) -> String {
    let (bars, most) = (load_bars(&load.counts, width), imbalance(&load.counts));
    let line = format!("layer {:3} {bars} max {most:.2}x entropy {:.2}", load.layer, load.entropy);
    if load.dropped == 0 { line } else { format!("{line} dropped {}", load.dropped) }
}

/// The `most` least even layers in the order of the model: a collapse must not hide behind healthy layers.
pub fn least_even(experts: &[ExpertLoad], most: usize) -> Vec<&ExpertLoad> {
    let mut layers: Vec<_> = experts.iter().collect();
    layers.sort_by(|a, b| imbalance(&b.counts).total_cmp(&imbalance(&a.counts)));
    layers.truncate(most);
    layers.sort_by_key(|load| load.layer);
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_blocks() {
        assert_eq!(sparkline(&[0.0, 1.0, 2.0, 4.0], 8), "▁▃▅█");
        assert_eq!(sparkline(&[3.0, 3.0], 8), "▁▁");
        assert_eq!(sparkline(&[0.0, f64::NAN, 4.0], 8), "▁·█");
        assert_eq!(sparkline(&[0.0, 0.0, 4.0, 4.0], 2), "▁█");
        assert_eq!(sparkline(&[], 8), "");
        assert_eq!(load_bars(&[4, 4, 4, 4], 8), "▅▅▅▅");
        assert_eq!(load_bars(&[16, 0, 0, 0], 8), "█▁▁▁");
        assert_eq!(load_bars(&[0, 0], 8), "··", "nothing routed yet");
    }

    #[test]
    fn the_least_even_layers_are_shown_in_order() {
        let layer = |layer, counts: &[u64]| ExpertLoad { layer, counts: counts.into(), ..Default::default() };
        let experts = [layer(0, &[1, 3]), layer(1, &[2, 2]), layer(2, &[4, 0])];
        let shown: Vec<_> = least_even(&experts, 2).iter().map(|load| load.layer).collect();
        assert_eq!(shown, [0, 2]);
        assert_eq!(load_line(&experts[2], 8), "layer   2 █▁ max 2.00x entropy 0.00");
    }
}

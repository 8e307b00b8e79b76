//! Softmax and top-k: the arithmetic of a router.

use super::exp;

/// A chosen index with its score.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// Which one.
    pub index: u32,
    /// Its score.
    pub score: f32,
}

/// Softmax in place.
pub fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = exp(*score - largest);
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// The `out.len()` largest scores, largest first; of equals the lowest index. NaN counts as smallest.
pub fn top_k(scores: &[f32], out: &mut [Choice]) {
    let mut found = 0;
    for (index, &score) in scores.iter().enumerate() {
        let key = if score.is_nan() { f32::NEG_INFINITY } else { score };
        let place = out[..found].partition_point(|choice| choice.score >= key);
        if place == out.len() {
            continue;
        }
        found = (found + 1).min(out.len());
        out[place..found].rotate_right(1);
        out[place] = Choice { index: index as u32, score: key };
    }
}

/// The places of the `count` largest scores, rising; of equals the lowest. NaN counts as smallest.
pub fn best(scores: &[f32], count: usize, places: &mut Vec<u32>) {
    places.clear();
    places.extend(0..scores.len() as u32);
    if count >= scores.len() {
        return;
    }
    let key = |place: u32| {
        let score = scores[place as usize];
        if score.is_nan() { f32::NEG_INFINITY } else { score }
    };
    if count > 0 {
        places.select_nth_unstable_by(count - 1, |a, b| key(*b).total_cmp(&key(*a)).then(a.cmp(b)));
    }
    places.truncate(count);
    places.sort_unstable();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_k_orders_and_breaks_ties_by_index() {
        let mut out = [Choice::default(); 3];
        top_k(&[1.0, 5.0, f32::NAN, 5.0, 2.0], &mut out);
        assert_eq!(out.map(|choice| choice.index), [1, 3, 4]);
        let mut out = [Choice::default(); 2];
        top_k(&[f32::NAN, f32::NAN], &mut out);
        assert_eq!(out.map(|choice| choice.index), [0, 1]);
    }

    #[test]
    fn the_best_are_found_in_the_order_of_their_places() {
        let mut places = vec![];
        for (count, expected) in
            [(0, &[][..]), (1, &[1]), (3, &[1, 3, 4]), (4, &[0, 1, 3, 4]), (9, &[0, 1, 2, 3, 4])]
        {
            best(&[1.0, 5.0, f32::NAN, 5.0, 2.0], count, &mut places);
            assert_eq!(places, expected, "{count}");
        }
        best(&[0.5; 6], 2, &mut places);
        assert_eq!(places, [0, 1]);
    }

    #[test]
    fn softmax_sums_to_one_and_survives_large_scores() {
        let mut scores = [1000.0, 999.0, -1000.0];
        softmax(&mut scores);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((scores[0] - 0.731_058_6).abs() < 1e-6);
    }
}

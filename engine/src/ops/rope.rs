//! Rotary position embedding (Su et al. 2021): which pairs turn, and by which angles.

/// Which elements of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours `(2j, 2j + 1)`.
    Norm,
    /// Halves `(j, j + dims / 2)`.
    Neox,
}

/// A rotation that some layers share; frequency scaling (linear, YaRN, llama3) is already in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Pairing.
    pub style: RopeStyle,
    /// Radians per position of each pair, `(dims / 2)`.
    pub frequencies: Vec<f32>,
    /// Factor on cosine and sine (YaRN's attention factor).
    pub magnitude: f32,
}

impl Rope {
    /// Leading elements of a head that turn.
    pub fn dims(&self) -> usize {
        self.frequencies.len() * 2
    }

    /// Cosines, then sines of all pairs at `position`, into `(2, dims / 2)`.
    pub fn angles(&self, position: usize, out: &mut [f32]) {
        let (cos, sin) = out.split_at_mut(self.frequencies.len());
        for ((frequency, cos), sin) in self.frequencies.iter().zip(cos).zip(sin) {
            let angle = position as f32 * frequency;
            (*sin, *cos) = (angle.sin() * self.magnitude, angle.cos() * self.magnitude);
        }
    }
}

/// Turns one head in place by the angles of [`Rope::angles`].
pub fn rotate(style: RopeStyle, head: &mut [f32], angles: &[f32]) {
    let pairs = angles.len() / 2;
    let (cos, sin) = angles.split_at(pairs);
    for j in 0..pairs {
        let (first, second) = match style {
            RopeStyle::Norm => (2 * j, 2 * j + 1),
            RopeStyle::Neox => (j, j + pairs),
        };
        let (a, b) = (head[first], head[second]);
        head[first] = a * cos[j] - b * sin[j];
        head[second] = a * sin[j] + b * cos[j];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_in_both_styles() {
        let rope = Rope {
            style: RopeStyle::Norm,
            frequencies: vec![std::f32::consts::FRAC_PI_2, 0.0],
            magnitude: 1.0,
        };
        let mut angles = [0.0; 4];
        rope.angles(1, &mut angles);
        for (style, expected) in
            [(RopeStyle::Norm, [-2.0, 1.0, 3.0, 4.0]), (RopeStyle::Neox, [-3.0, 2.0, 1.0, 4.0])]
        {
            let mut head = [1.0, 2.0, 3.0, 4.0];
            rotate(style, &mut head, &angles);
            for (found, expected) in head.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{style:?} {head:?}");
            }
        }
    }
}

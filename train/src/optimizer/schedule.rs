//! The learning rate as a function of the step.

use serde::{Deserialize, Serialize};

/// The course after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Half a cosine down to the smallest rate (Loshchilov and Hutter 2016).
    Cosine,
    /// No change.
    Constant,
    /// A straight line down to the smallest rate.
    Linear,
    /// Warm-up, stable, decay: constant, then a straight line down in the last part (Hu et al. 2024).
    Wsd,
}

/// A learning-rate schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The course after the warm-up.
    pub kind: ScheduleKind,
    /// The rate at the end of the warm-up.
    pub peak: f64,
    /// The rate at the end.
    pub smallest: f64,
    /// Steps that lead from 0 to the peak.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub max_steps: u64,
    /// Share of the run in which WSD decays.
    pub decay_share: f64,
}

impl Schedule {
    /// The rate of `step`, counted from 0. The first step of a warm-up already learns: 1 / warm-up steps of the peak.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let progress = |from: u64| {
            let length = self.max_steps.saturating_sub(from).max(1);
            (step.saturating_sub(from) as f64 / length as f64).min(1.0)
        };
        let down = |share: f64| self.peak + (self.smallest - self.peak) * share;
        match self.kind {
            ScheduleKind::Constant => self.peak,
            ScheduleKind::Linear => down(progress(self.warmup_steps)),
            ScheduleKind::Cosine => {
                let share = progress(self.warmup_steps);
                down(0.5 - 0.5 * (std::f64::consts::PI * share).cos())
            }
            ScheduleKind::Wsd => {
                let decay = (self.max_steps as f64 * self.decay_share) as u64;
                down(progress(self.max_steps.saturating_sub(decay).max(self.warmup_steps)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_meet_their_ends() {
        let schedule = |kind| Schedule {
            kind,
            peak: 1.0,
            smallest: 0.1,
            warmup_steps: 10,
            max_steps: 110,
            decay_share: 0.2,
        };
        for (kind, at_60, at_110) in [
            (ScheduleKind::Cosine, 0.55, 0.1),
            (ScheduleKind::Linear, 0.55, 0.1),
            (ScheduleKind::Constant, 1.0, 1.0),
            (ScheduleKind::Wsd, 1.0, 0.1),
        ] {
            let schedule = schedule(kind);
            for (step, expected) in [(0, 0.1), (9, 1.0), (10, 1.0), (60, at_60), (110, at_110), (500, at_110)]
            {
                let rate = schedule.rate(step);
                assert!((rate - expected).abs() < 1e-12, "{kind:?} at {step}: {rate}");
            }
        }
    }
}

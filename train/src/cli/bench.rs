//! `moewe train bench`: how fast a step is, on random tokens; the peer for the same step is `train/benches/peer.py`.

use super::{Command, say};
use crate::Result;
use crate::model::{Batch, Config, Model, Pass};
use crate::optimizer::AdamW;
use crate::random::Random;
use crate::settings::{Overrides, Settings};
use clap::Parser;
use std::time::Instant;

/// Measure training steps on random tokens
#[derive(Parser)]
#[command(name = "bench")]
pub(super) struct Bench {
    /// A named size, or the path of a config.json
    #[arg(long, default_value = "tachyon-tiny")]
    preset: String,
    /// Steps that are measured, after one that is not
    #[arg(long, default_value_t = 5)]
    steps: usize,
    #[command(flatten)]
    overrides: Overrides,
}

/// Seconds of the parts of a step.
#[derive(Clone, Copy)]
struct Seconds {
    model: f64,
    optimizer: f64,
}

impl Command for Bench {
    fn run(self) -> Result<()> {
        let settings = Settings::layered(&[self.overrides.layer()?])?;
        let context = if settings.context == 0 { 256 } else { settings.context };
        let own = Config::named(&self.preset)?;
        let config = own.resized(own.vocabulary, context)?;
        super::limit_threads(settings.threads)?;
        let device = crate::trainer::device_of(&settings, 0)?;
        let dtype = crate::trainer::precision_of(&settings, &device);
        let mut model = Model::new(config, settings.seed, dtype, &device)?;
        let mut optimizer = AdamW::new(settings.optimizer(), &model)?;
        let mut random = Random::at(settings.seed, &[]);
        let count = settings.batch * context;
        let tokens: Vec<u32> = (0..count).map(|_| random.below(own.vocabulary as u64) as u32).collect();
        let batch = Batch { tokens: &tokens, rows: settings.batch, packing: None };
        let pass = Pass {
            scale: 1.0,
            token_scale: None,
            seed: Some(1),
            adapter_seed: None,
            segment: settings.segment,
            average: None,
        };
        let mut measured = vec![];
        for step in 0..=self.steps {
            let seconds = step_seconds(&mut model, &mut optimizer, batch, &pass)?;
            measured.extend((step > 0).then_some(seconds));
        }
        print(&model, count, &mut measured)
    }
}

fn step_seconds(model: &mut Model, optimizer: &mut AdamW, batch: Batch, pass: &Pass) -> Result<Seconds> {
    let start = Instant::now();
    model.clear_gradients()?;
    model.forward_backward(batch, pass)?;
    let middle = Instant::now();
    optimizer.step(model, 1e-4)?;
    Ok(Seconds { model: (middle - start).as_secs_f64(), optimizer: middle.elapsed().as_secs_f64() })
}

fn print(model: &Model, tokens: usize, measured: &mut [Seconds]) -> Result<()> {
    measured.sort_by(|a, b| (a.model + a.optimizer).total_cmp(&(b.model + b.optimizer)));
    let Some(median) = measured.get(measured.len() / 2) else { return Ok(()) };
    let (_, active) = model.config.counts();
    let seconds = median.model + median.optimizer;
    // Two operations per weight and token forward, four backward; attention and the tied embedding left out.
    let operations = 6.0 * active as f64 * tokens as f64;
    let text = format!(
        "tokens/s    {:.0}\nstep        {:.3} s: model {:.3}, optimizer {:.3}\nGFLOPS      {:.0} (matrices only)\nmemory peak {:.2} GB\n",
        tokens as f64 / seconds,
        seconds,
        median.model,
        median.optimizer,
        operations / seconds / 1e9,
        moewe_engine::os::memory::peak_resident() as f64 / 1e9,
    );
    say(&text)
}

//! Progress for the person at the terminal: a live view, or plain lines where standard error is a file or a pipe.
//!
//! The pictures come from [`super::blocks`].

use super::blocks::{least_even, load_line, sparkline};
use super::{Event, ExpertLoad, Settings, Sink, Start, StepReport, Validation};
use crate::{Error, Result};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};

const LAYERS_SHOWN: usize = 8;
const WIDTH: usize = 64; // characters of the sparkline and of the expert bars
const LOSSES_KEPT: usize = 1 << 14; // of the sparkline, then every second one goes

/// Opens the live view where standard error is a terminal, else the plain log.
pub(super) fn open(settings: &Settings) -> Result<Box<dyn Sink>> {
    let log_every = settings.log_every.max(1);
    Ok(match std::io::stderr().is_terminal() {
        true => Box::new(Live::new(ProgressDrawTarget::stderr())),
        false => Box::new(Plain { output: Box::new(std::io::stderr()), log_every, steps: 0 }),
    })
}

/// A line of text every `log_every` steps and for every other event.
struct Plain {
    output: Box<dyn Write + Send>,
    log_every: u64, // at least 1
    steps: u64,     // of the whole training
}

impl Sink for Plain {
    fn record(&mut self, event: &Event) -> Result<()> {
        if let Event::Start(start) = event {
            self.steps = start.steps;
        }
        let line = match event {
            Event::Step(report) if self.is_due(report.step) => self.step_lines(report),
            Event::Step(_) => return Ok(()),
            other => event_line(other),
        };
        writeln!(self.output, "{line}").map_err(|e| Error::io("standard error", "write", e))
    }
}

impl Plain {
    /// The first step is always shown: whoever starts a training waits for a sign of life.
    fn is_due(&self, step: u64) -> bool {
        step <= 1 || step.is_multiple_of(self.log_every) || step == self.steps
    }

    fn step_lines(&self, report: &StepReport) -> String {
        let step = format!("step {}/{} {}", report.step, self.steps, numbers(report));
        let layers = least_even(&report.experts, LAYERS_SHOWN).into_iter().map(|load| load_line(load, WIDTH));
        std::iter::once(step).chain(layers).collect::<Vec<_>>().join("\n  ")
    }
}

/// What both views say of a step.
fn numbers(report: &StepReport) -> String {
    let StepReport { loss, cross_entropy, learning_rate, gradient_norm, tokens_per_second, .. } = report;
    format!(
        "loss {loss:.4} (text {cross_entropy:.4}) lr {learning_rate:.2e} gradient {gradient_norm:.3} \
         {tokens_per_second:.0} tok/s {}",
        HumanBytes(report.memory_bytes)
    )
}

/// What both views say of an event that is no step.
fn event_line(event: &Event) -> String {
    match event {
        Event::Start(start) if start.step == 0 => format!("training starts\n{}", start.description),
        Event::Start(start) => format!("training goes on after step {}\n{}", start.step, start.description),
        Event::Step(report) => numbers(report),
        Event::Validation(validation) => format!("step {} {}", validation.step, validation_line(validation)),
        Event::Sample { step, prompt, text } => format!("step {step} sample: {prompt}{text}"),
        Event::Checkpoint { step, path } => format!("step {step} checkpoint {}", path.display()),
        Event::End { step } => format!("training ends after step {step}"),
    }
}

fn validation_line(validation: &Validation) -> String {
    let Validation { loss, perplexity, bits_per_byte, .. } = validation;
    let bits = bits_per_byte.map(|bits| format!(", {bits:.4} bits per byte")).unwrap_or_default();
    format!("validation loss {loss:.4}, perplexity {perplexity:.3}{bits}")
}

/// A bar with the numbers of the last step below it, drawn over itself.
struct Live {
    bar: ProgressBar,
    losses: Vec<f64>,         // since this start, thinned out when they grow many
    stride: u64,              // every how many steps a loss is kept
    experts: Vec<ExpertLoad>, // of the last step that reported them
    validation: String,       // the last measurement
}

impl Live {
    fn new(target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(None, target);
        Self { bar, losses: vec![], stride: 1, experts: vec![], validation: String::new() }
    }

    fn start(&mut self, start: &Start) {
        const TEMPLATE: &str = "{bar:40} step {pos}/{len} {elapsed_precise} left {eta_precise}\n{msg}";
        let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style);
        self.bar.set_length(start.steps);
        self.bar.set_position(start.step);
        self.bar.reset_eta();
    }

    fn step(&mut self, report: &StepReport) {
        if report.step.is_multiple_of(self.stride) {
            self.losses.push(report.loss);
        }
        if self.losses.len() >= LOSSES_KEPT {
            self.losses = self.losses.iter().copied().step_by(2).collect();
            self.stride *= 2;
        }
        if !report.experts.is_empty() {
            self.experts.clone_from(&report.experts);
        }
        self.bar.set_message(self.message(report));
        self.bar.set_position(report.step);
    }

    fn message(&self, report: &StepReport) -> String {
        let mut lines = vec![numbers(report), format!("loss {}", sparkline(&self.losses, WIDTH))];
        lines.extend((!self.validation.is_empty()).then(|| self.validation.clone()));
        let shown = least_even(&self.experts, LAYERS_SHOWN);
        if shown.len() < self.experts.len() {
            lines.push(format!("the {} least even of {} layers:", shown.len(), self.experts.len()));
        }
        lines.extend(shown.into_iter().map(|load| load_line(load, WIDTH)));
        lines.join("\n")
    }
}

impl Sink for Live {
    fn record(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Step(report) => self.step(report),
            Event::Validation(validation) => self.validation = validation_line(validation),
            Event::Start(start) => self.start(start),
            Event::End { .. } => self.bar.abandon(),
            Event::Sample { .. } | Event::Checkpoint { .. } => {}
        }
        if !matches!(event, Event::Step(_)) {
            self.bar.println(event_line(event));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{InMemoryTerm, TermLike};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn reports(sink: &mut dyn Sink) {
        let start = Start { step: 0, steps: 5, description: "tiny".into() };
        sink.record(&Event::Start(start)).unwrap();
        let load = |layer| ExpertLoad { layer, counts: vec![layer as u64, 4], dropped: 1, entropy: 0.5 };
        for step in 1..=5 {
            let validation = Validation { step, loss: 2.0, perplexity: 7.389, ..Default::default() };
            sink.record(&Event::Validation(validation)).unwrap();
            let experts = (0..10).map(load).collect();
            let loss = 3.0 / step as f64;
            sink.record(&Event::Step(StepReport { step, loss, experts, ..Default::default() })).unwrap();
        }
    }

    #[test]
    fn a_log_file_gets_plain_lines_now_and_then() {
        let shared = Shared::default();
        let mut sink = Plain { output: Box::new(shared.clone()), log_every: 3, steps: 0 };
        reports(&mut sink);
        let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        let steps: Vec<_> = text.lines().filter(|line| line.contains(" lr ")).collect();
        assert_eq!(steps.len(), 3, "steps 1, 3 and 5 of:\n{text}");
        assert!(steps[2].starts_with("step 5/5 loss 0.6000"), "{text}");
        assert!(text.contains("layer   0 ▁█ max 2.00x entropy 0.50 dropped 1") && !text.contains('\x1b'));
    }

    #[test]
    fn a_terminal_gets_the_bar_the_curve_and_the_experts() {
        let screen = InMemoryTerm::new(40, 100);
        let mut sink = Live::new(ProgressDrawTarget::term_like(Box::new(screen.clone())));
        reports(&mut sink);
        sink.record(&Event::End { step: 5 }).unwrap();
        let text = screen.contents();
        assert!(screen.width() == 100 && text.contains("step 5/5"), "{text}");
        assert!(text.contains("loss █▄▂▁▁"), "{text}");
        assert!(text.contains("the 8 least even of 10 layers"), "{text}");
        assert!(text.contains("validation loss 2.0000"), "{text}");
    }

    #[test]
    fn long_trainings_keep_a_bounded_curve() {
        let mut sink = Live::new(ProgressDrawTarget::hidden());
        (0..100_000).for_each(|step| sink.step(&StepReport { step, ..Default::default() }));
        assert!(sink.losses.len() < LOSSES_KEPT && sink.stride == 8);
    }
}

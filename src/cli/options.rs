//! Flags that several commands share: which model, and how to compute it.

use super::models::Place;
use super::on_the_way::{self, Wish};
use super::output;
use crate::embedded;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use moewe_engine::gguf::Gguf;
use moewe_engine::model::{Adapter, Missing, ffn};
use moewe_engine::session::{
    CapacityMode, CardPlan, DeviceChoice, Engine, Measuring, MemoryLimit, MemoryPlan, Options, cache_format,
};
use moewe_engine::simd::Isa;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Once;
use std::thread;

// What clap shows of a group is what its fields say; a doc comment here would become the command's description.
#[derive(Args, Clone)]
pub(crate) struct ModelOptions {
    /// A GGUF file, the first part of a split one, a name from `moewe list`, a remote one such as hf:OWNER/REPO:Q4_K_M,
    /// or a checkpoint, which is converted on the way [default: the model in the program]
    pub(crate) model: Option<OsString>,
    /// Threads, at most one per core [default: one per core, where cores differ one per fast core]
    #[arg(short = 't', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) threads: Option<u16>,
    /// Positions of the context [default: the model's, lowered to what memory leaves]
    #[arg(short = 'c', long, value_name = "N", value_parser = within::<1, { usize::MAX }>)]
    pub(crate) context: Option<usize>,
    /// Most memory to take: 6G, 800M, or 50% of what is free; experts that do not fit are read when they are needed
    /// [default: 90%]
    #[arg(short = 'm', long, value_name = "AMOUNT")]
    pub(crate) memory: Option<MemoryLimit>,
    /// Most tokens computed at once
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = within::<1, 65_536>)]
    pub(crate) batch: usize,
    /// Instruction set: portable; avx2, avxvnni, avx512vnni or amx; on ARM neondot or i8mm [default: the fastest here]
    #[arg(long, value_name = "NAME")]
    pub(crate) isa: Option<String>,
    /// What to compute on: cpu, cuda, cuda:N or auto, which falls back to the CPU and says why
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: DeviceChoice,
    /// Most memory of the card to take: 20G or 50% of what is free; experts that do not fit stay in the machine's memory
    /// [default: 90%]
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) vram: Option<MemoryLimit>,
    /// Who computes experts that are not on the card: auto, by what is measured; copy, which brings them; or cpu
    #[arg(long, value_name = "WAY", default_value = "auto")]
    pub(crate) missing_experts: Missing,
    /// Format of the cache: f16, q8_0 or f32, with which attention is exact on every CPU
    #[arg(long, value_name = "FORMAT", default_value = "f16")]
    pub(crate) cache_type: String,
    /// What a full expert does in models trained with a capacity
    #[arg(long, value_name = "MODE", default_value = "dropless")]
    pub(crate) capacity: Capacity,
    /// Experts per token; another number than the model's own changes what it says
    #[arg(long, value_name = "N")]
    pub(crate) experts_used: Option<usize>,
    /// Leave out experts below this share of their token's weight, for instance 0.1; this changes what the model says
    #[arg(long, value_name = "P", default_value_t = 0.0, hide_default_value = true)]
    pub(crate) expert_threshold: f32,
    /// An adapter (LoRA) in GGUF to add to the model, by a factor if one is given; as often as there are adapters
    #[arg(long, value_name = "FILE[:SCALE]")]
    pub(crate) lora: Vec<String>,
    /// Where experts do not all fit: how many per token to read before their layer's turn, on a guess, while the disk
    /// has nothing else to do; slower where the disk is the limit
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = within::<0, 1024>)]
    pub(crate) look_ahead: usize,
    /// Compute with the slow twin of the model that the fast one is tested against
    #[arg(long, hide = true)]
    pub(crate) plain: bool,
    /// Bits of what a checkpoint is converted to, as `moewe convert` takes them [default: 8]
    #[arg(long, value_name = "N")]
    pub(crate) bits: Option<f64>,
    /// Pull a remote model that is not here, and convert a checkpoint, without asking
    #[arg(long)]
    pub(crate) yes: bool,
    /// Say nothing on the way
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Capacity {
    /// Every token reaches its experts
    Dropless,
    /// Experts drop tokens as the original did; the whole text is computed anew for every token
    Reference,
}

impl ModelOptions {
    /// Where the model is; a checkpoint is converted first.
    pub(crate) fn place(&self) -> Result<Place> {
        let wish = Wish { bits: self.bits, yes: self.yes, quiet: self.quiet };
        on_the_way::place(self.model.as_deref(), &wish)
    }

    /// The flags in the engine's terms.
    pub(crate) fn options(&self) -> Result<Options> {
        Ok(Options {
            threads: bounded_threads(self.threads),
            isa: self.isa.as_deref().map(Isa::parse).transpose()?,
            device: self.device,
            vram: self.vram,
            missing: self.missing_experts,
            plain: self.plain,
            batch: self.batch,
            all_logits: false,
            context: self.context,
            sequences: None,
            memory: self.memory,
            cache: cache_format(&self.cache_type)?,
            capacity: match self.capacity {
                Capacity::Dropless => CapacityMode::Dropless,
                Capacity::Reference => CapacityMode::Reference,
            },
            experts_used: self.experts_used,
            expert_threshold: self.expert_threshold,
            adapters: self.lora.iter().map(|text| adapter(text)).collect::<Result<_>>()?,
            look_ahead: self.look_ahead,
            measuring: Measuring::default(),
        })
    }

    /// Loads the model and says on stderr what it is.
    pub(crate) fn open(&self) -> Result<Engine> {
        self.open_with(self.options()?)
    }

    /// The same for a text of which every token's logits are wanted.
    pub(crate) fn open_to_score(&self) -> Result<Engine> {
        self.open_with(Options { all_logits: true, ..self.options()? })
    }

    /// The same with another machine's disk or another model's routing.
    pub(crate) fn open_measured(&self, measuring: Measuring) -> Result<Engine> {
        self.open_with(Options { measuring, ..self.options()? })
    }

    fn open_with(&self, options: Options) -> Result<Engine> {
        self.open_place(&self.place()?, options)
    }

    /// Loads the model at a place that is known already.
    pub(crate) fn open_place(&self, place: &Place, options: Options) -> Result<Engine> {
        let engine = Engine::from_gguf(place.open()?, options).map_err(|e| e.in_file(place.to_string()))?;
        let layers = &engine.config().layers;
        let is_dense = !layers.iter().any(|layer| matches!(layer.ffn, Some(ffn::Shape::Experts(_))));
        if is_dense && (self.experts_used.is_some() || self.expert_threshold > 0.0) {
            let flag = if self.experts_used.is_some() { "--experts-used" } else { "--expert-threshold" };
            bail!("{place}: this model has no experts, so {flag} has nothing to change");
        }
        if !self.quiet {
            self.introduce(&engine);
        }
        Ok(engine)
    }

    /// The same for conversations: the model of the program answers with its adapter, unless the person names others or
    /// wants none.
    pub(crate) fn open_to_talk(&self, place: &Place, options: Options, base: bool) -> Result<Engine> {
        if base && *place != Place::Embedded {
            bail!("--base is about the model in the program; {place} is another one");
        }
        if *place != Place::Embedded || base || !self.lora.is_empty() {
            return self.open_place(place, options);
        }
        self.open_place(place, Options { adapters: vec![embedded::chat()?], ..options })
    }

    fn introduce(&self, engine: &Engine) {
        let (threads, isa) = engine.hardware();
        output::note(format!(
            "{}; {}, {isa}; loaded in {:.0} ms",
            describe(engine.gguf()),
            output::counted(threads, "thread"),
            engine.load_time().as_secs_f64() * 1e3
        ));
        if let Some(card) = &engine.memory().card {
            output::note(describe_card(card));
        }
        describe_context(self.context, engine).into_iter().for_each(output::note);
        if let Some(used) = self.experts_used {
            output::note(format!(
                "{} per token: the model was not made so and says other things",
                output::counted(used, "expert")
            ));
        }
        if self.expert_threshold > 0.0 {
            let percent = self.expert_threshold * 100.0;
            output::note(format!(
                "experts below {percent} % of a token's weight are left out: the model says other things"
            ));
        }
        if engine.expert_statistics().is_some() && engine.memory().experts.experts() > 0 {
            describe_memory(engine.memory()).into_iter().for_each(output::note);
        } else {
            let plan = engine.memory();
            describe_limit(plan.limit, plan.machine, plan.total()).into_iter().for_each(output::note);
        }
    }
}

/// As many threads as were asked for and as the machine runs at once; says so where these are fewer.
pub(crate) fn bounded_threads(asked: Option<u16>) -> Option<usize> {
    let asked = usize::from(asked?);
    let most = thread::available_parallelism().map_or(asked, |threads| threads.get());
    if asked > most {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            output::note(format!(
                "{asked} threads asked for; this process may run {most} at once, and so many are used"
            ));
        });
    }
    Some(asked.min(most))
}

/// A number from `LEAST` to `MOST`, for flags whose values size something.
pub(crate) fn within<const LEAST: usize, const MOST: usize>(text: &str) -> Result<usize> {
    let number: usize = text.parse().with_context(|| format!("expected a whole number of at most {MOST}"))?;
    if !(LEAST..=MOST).contains(&number) {
        bail!("expected {LEAST} to {MOST}");
    }
    Ok(number)
}

/// Bytes per second: 3G, 500M, 2.5G.
pub(crate) fn byte_rate(text: &str) -> Result<f64> {
    let (number, factor) = [("G", 1e9), ("M", 1e6), ("K", 1e3)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .unwrap_or((text, 1.0));
    let rate = number.parse::<f64>().ok().map(|number| number * factor);
    let rate = rate.filter(|rate| (1e3..1e15).contains(rate));
    rate.with_context(|| {
        format!("expected bytes per second, such as 3G (3,000,000,000) or 500M, not {text:?}")
    })
}

/// Seconds: 20ms, 1.5s, 800us.
pub(crate) fn duration(text: &str) -> Result<f64> {
    let units = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0)];
    let read = units.into_iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let seconds = read.and_then(|(number, factor)| Some(number.parse::<f64>().ok()? * factor));
    let seconds = seconds.filter(|seconds| (0.0..1e6).contains(seconds));
    seconds.with_context(|| format!("expected a time, such as 20ms, 1.5s or 800us, not {text:?}"))
}

/// Lines about a context that is not what was asked for, or not what the model was made for.
fn describe_context(asked: Option<usize>, engine: &Engine) -> Vec<String> {
    let (context, original) = (engine.context_length(), engine.config().context_length);
    let mut lines = Vec::new();
    match asked {
        None if context < original => lines.push(format!(
            "context lowered from {original} to {context} positions, which is what memory holds besides experts; \
             --context sets it"
        )),
        Some(asked) if context < asked => {
            lines.push(format!("context lowered from {asked} to {context} positions, which is what memory holds"));
        }
        _ => {}
    }
    if context > original {
        lines.push(format!(
            "the model was made for {original} positions; what it says beyond these is not what it learned"
        ));
    }
    lines
}

/// A line about where a card's memory goes.
fn describe_card(plan: &CardPlan) -> String {
    let (slots, all) = (plan.experts.slots(), plan.experts.experts());
    format!(
        "card: {} dense weights, {} cache, {} buffers, {} for {slots} of {all} experts",
        output::bytes(plan.dense),
        output::bytes(plan.cache),
        output::bytes(plan.buffers),
        output::bytes(plan.experts.bytes())
    )
}

/// Lines about where the memory goes.
pub(crate) fn describe_memory(plan: &MemoryPlan) -> Vec<String> {
    let (slots, all) = (plan.experts.slots(), plan.experts.experts());
    let experts = match plan.experts.holds_all() {
        true => format!(
            "{} for all {all} experts, each read when it is first used",
            output::bytes(plan.experts.bytes())
        ),
        false => format!("{} for {slots} of {all} experts", output::bytes(plan.experts.bytes())),
    };
    let states = match plan.states {
        0 => String::new(),
        bytes => format!("{} recurrent states, ", output::bytes(bytes)),
    };
    let mut lines = vec![format!(
        "memory: {} dense weights, {} cache of {} positions, {states}{} buffers and program, {experts}{}",
        output::bytes(plan.dense),
        output::bytes(plan.cache),
        plan.context_length,
        output::bytes(plan.buffers + plan.program),
        if plan.experts.past_cache { ", read past the page cache" } else { "" },
    )];
    if let Some((limit, machine)) = plan.limit.zip(plan.machine).filter(|(limit, machine)| limit > machine) {
        lines.push(format!(
            "memory: of the {} that it may take, the machine has {} now",
            output::bytes(limit),
            output::bytes(machine)
        ));
    }
    lines.extend(describe_limit(plan.limit, plan.machine, plan.total()));
    lines
}

/// A line about a limit that cannot be kept, or that there is none.
fn describe_limit(limit: Option<u64>, machine: Option<u64>, total: u64) -> Option<String> {
    match (limit, machine) {
        (None, None) => Some(
            "memory: this system does not say how much is free, so there is no limit; --memory 6G sets one"
                .into(),
        ),
        (Some(limit), _) if limit < total => {
            let (limit, total) = (output::bytes(limit), output::bytes(total));
            Some(format!("memory: {limit} are too little for what every token needs; it takes {total}"))
        }
        _ => None,
    }
}

/// One line about a model: name, architecture, size.
pub(crate) fn describe(gguf: &Gguf) -> String {
    use crate::facts::{architecture, main_format, model};
    let name = gguf.metadata().str("general.name").ok().flatten().map(str::to_owned);
    let stem =
        || gguf.path().and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
    format!(
        "{} ({}, {} parameters, {}, {})",
        output::excerpt(&name.or_else(stem).unwrap_or_default(), 60),
        output::excerpt(&architecture(gguf), 20),
        output::count(model(gguf).weights),
        main_format(gguf),
        output::bytes(gguf.file_len())
    )
}
/// An adapter's path and factor: what stands behind the last `:`, if that is a number and the whole is no file.
pub(crate) fn scaled(text: &str) -> (&str, f32) {
    let split = text.rsplit_once(':').filter(|_| !Path::new(text).exists());
    let parsed = split.and_then(|(path, scale)| Some((path, scale.parse().ok()?)));
    parsed.unwrap_or((text, 1.0))
}

fn adapter(text: &str) -> Result<Adapter> {
    let (path, scale) = scaled(text);
    if !scale.is_finite() {
        bail!("--lora {text}: the factor is no number");
    }
    if Path::new(path).is_dir() {
        bail!(
            "--lora {path}: a folder; make it a file first: moewe convert {path} --base MODEL -o adapter.gguf"
        );
    }
    Ok(Adapter::open(path, scale)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_none_or_too_small_is_said() {
        for (limit, machine, said) in [
            (None, None, Some("does not say how much is free")),
            (Some(5), None, Some("too little")),
            (Some(5), Some(100), Some("too little")),
            (Some(10), Some(100), None),
            (None, Some(100), None),
        ] {
            let line = describe_limit(limit, machine, 10);
            assert_eq!(line.is_some(), said.is_some(), "{line:?}");
            assert!(line.unwrap_or_default().contains(said.unwrap_or_default()));
        }
    }
}

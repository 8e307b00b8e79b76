//! `moewe merge`: several dense models become a mixture of experts. The work is the crate moewe-convert's.

use super::conversion::{self, Bar, Conversion};
use super::output::{self, Table};
use super::{Command, models};
use anyhow::{Context, Result, bail};
use clap::Parser;
use moewe_convert::Options;
use moewe_convert::merge::{
    Asked, Expert, GateMode, Ingredient, Loads, Merged, Mixture, Origin, Places, Wishes, merge, preset,
};
use moewe_engine::Error;
use moewe_engine::os::interrupt;
use serde_json::json;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Merge dense models into a mixture of experts, as mergekit's YAML says or as --base and --expert do.
///
/// Gates come from the YAML's gate_mode: hidden, hidden_avg, cheap_embed, random and uniform_random as mergekit has
/// them, `router` (what the router will see of the prompts) and `text` (least squares on texts of each expert). For
/// a mixture that is trained further take text, or uniform_random where there are no texts.
#[derive(Parser)]
#[command(name = "merge")]
pub(super) struct Merge {
    /// mergekit's YAML; paths in it are looked for beside it, then here, then among the models
    #[arg(required_unless_present_any = ["base", "preset"], conflicts_with_all = ["base", "experts"])]
    file: Option<PathBuf>,
    /// What to write: a GGUF file where it ends in .gguf, else a folder
    #[arg(short = 'o', long, value_name = "OUT", required_unless_present = "preset")]
    output: Option<PathBuf>,
    /// The model that gives all but the experts
    #[arg(long, value_name = "MODEL", requires = "experts")]
    base: Option<String>,
    /// An expert, and texts of what it is for; as often as there are experts
    #[arg(long = "expert", value_name = "MODEL[=TEXT,…]", requires = "base")]
    experts: Vec<String>,
    /// Experts that a token uses [default: 2]
    #[arg(long, value_name = "N", requires = "base", conflicts_with = "file")]
    experts_per_token: Option<usize>,
    /// Multiply gates of mode text by this; more makes the first expert heavier [default: what held-out text says]
    #[arg(long, value_name = "F")]
    gate_scale: Option<f64>,
    /// Tokens of each expert's texts that gates are made of
    #[arg(long, value_name = "N", default_value_t = Wishes::default().tokens)]
    gate_tokens: usize,
    /// Compute gates with another file of the base, such as a quantized one
    #[arg(long, value_name = "MODEL")]
    gates_from: Option<String>,
    /// Let all experts be the same model, to train them apart
    #[arg(long)]
    upcycle: bool,
    /// Plan a mixture of a named size without its sources: mixtral-4x7b, mixtral-8x7b or mixtral-mini
    #[arg(long, value_name = "NAME", requires = "dry_run", conflicts_with_all = [
        "file", "base", "experts", "output", "gates_from", "gate_scale", "upcycle", "calibrate",
    ])]
    preset: Option<String>,
    #[command(flatten)]
    how: Conversion,
}

impl Command for Merge {
    fn run(self) -> Result<()> {
        let how = &self.how;
        let recipe = how.recipe()?;
        let listener = interrupt::listen_to_all();
        if let Some(name) = &self.preset {
            return plan(name, how, &how.options(recipe, &listener)?);
        }
        let out = self.output.clone().unwrap_or_default();
        let is_file = out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
        if let Some(flag) = how.of_files().filter(|_| !is_file) {
            bail!(
                "{flag} is about GGUF files, and {} is a folder, which the YAML's dtype is about",
                out.display()
            );
        }
        let mixture = self.mixture()?;
        if let Some(scale) = self.gate_scale.filter(|scale| !scale.is_finite()) {
            bail!("--gate-scale {scale}: say a number");
        }
        let here = Beside(Path::new("").to_owned());
        let asked = Asked {
            gates: Wishes { tokens: self.gate_tokens, scale: self.gate_scale },
            gates_from: self.gates_from.as_deref().map(|name| here.model(name)).transpose()?,
            upcycle: self.upcycle,
        };
        let options = how.options(recipe, &listener)?;
        let progress = Bar::new(how.quiet);
        let merged = merge(&mixture, &out, &asked, &options, &progress);
        progress.clear();
        let merged = merged?;
        if how.json {
            conversion::warn(&merged.report);
            return output::json(&json!({ "path": out.display().to_string(), "merge": merged }));
        }
        if how.dry_run {
            print_sources(&merged.sources)?;
        }
        how.print(&out, &merged.report)?;
        print(&mixture, &merged, how.dry_run)?;
        if !how.quiet && is_file {
            conversion::note_budget(recipe, &merged.report);
        }
        Ok(())
    }
}

/// What a mixture of a named size would be: at the level that was asked for, else at all levels.
fn plan(name: &str, how: &Conversion, options: &Options) -> Result<()> {
    if how.has_level() {
        let merged = preset(name, options)?;
        if how.json {
            return output::json(&json!({ "preset": name, "merge": merged }));
        }
        how.print(Path::new(name), &merged.report)?;
        return print_parameters(&merged);
    }
    let levels = [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 16.0].map(|bits| {
        let options = Options { recipe: conversion::of_bits(bits)?, ..options.clone() };
        Ok::<_, anyhow::Error>((bits, preset(name, &options)?))
    });
    let levels = levels.into_iter().collect::<Result<Vec<_>>>()?;
    if how.json {
        let level = |(bits, merged): &(f64, Merged)| json!({ "bits": bits, "bytes": merged.report.bytes, "bits_per_weight": merged.report.bits_per_weight });
        let first = &levels[0].1;
        let all: Vec<_> = levels.iter().map(level).collect();
        let about = json!({
            "preset": name, "weights": first.report.weights, "active": first.active, "levels": all,
        });
        return output::json(&about);
    }
    let mut table = Table::new(&["LEVEL", "BITS PER WEIGHT", "SIZE"], &[0, 1, 2]);
    for (bits, merged) in &levels {
        let report = &merged.report;
        table.row([bits.to_string(), format!("{:.3}", report.bits_per_weight), output::bytes(report.bytes)]);
    }
    table.print()?;
    print_parameters(&levels[0].1)
}

fn print_parameters(merged: &Merged) -> Result<()> {
    output::print(format!(
        "{}: {} parameters, {} of them active ({})",
        merged.family,
        merged.report.weights,
        output::count(merged.active),
        merged.because,
    ))
}

impl Merge {
    fn mixture(&self) -> Result<Mixture> {
        let Some(file) = &self.file else { return self.without_file() };
        let words = fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))?;
        let places = Beside(file.parent().unwrap_or(Path::new("")).to_owned());
        Mixture::from_yaml(&words, &places).with_context(|| file.display().to_string())
    }

    /// What the flags say: gates from texts where all experts have some, else such as training begins well with.
    fn without_file(&self) -> Result<Mixture> {
        let places = Beside(Path::new("").to_owned());
        let origin = |name: &str| Origin::of(name, &places);
        let expert = |text: &String| {
            let (name, texts) = match text.rsplit_once('=') {
                Some((name, texts)) if !Path::new(text).exists() => (name, texts),
                _ => (text.as_str(), ""),
            };
            let texts = texts.split(',').filter(|text| !text.is_empty()).map(PathBuf::from).collect();
            let source = origin(name)?;
            let (positive, negative) = (vec![], vec![]);
            Ok::<_, Error>(Expert {
                source,
                positive,
                negative,
                noise_scale: None,
                residual_scale: None,
                texts,
            })
        };
        let experts: Vec<Expert> = self.experts.iter().map(expert).collect::<Result<_, _>>()?;
        let with_texts = experts.iter().filter(|expert| !expert.texts.is_empty()).count();
        let gate_mode = match with_texts {
            0 => GateMode::UniformRandom,
            count if count == experts.len() => GateMode::Text,
            _ => bail!(
                "some experts have texts and others none: give each its own (--expert MODEL=TEXT), or none"
            ),
        };
        let mixture = Mixture {
            base: vec![(origin(self.base.as_deref().unwrap_or_default())?, 1.0)],
            experts_per_token: self.experts_per_token.unwrap_or(experts.len().min(2)),
            experts,
            shared: vec![],
            gate_mode,
            dtype: None,
            architecture: None,
            seed: 0,
        };
        mixture.check()?;
        Ok(mixture)
    }
}

/// Looks for models and texts beside a file, then here, then for models among those that have names.
struct Beside(PathBuf);

impl Places for Beside {
    fn model(&self, name: &str) -> moewe_engine::Result<PathBuf> {
        let beside = self.0.join(name);
        if beside.exists() {
            return Ok(beside);
        }
        if Path::new(name).exists() {
            return Ok(PathBuf::from(name));
        }
        match models::resolve(Some(OsStr::new(name)), false) {
            Ok(models::Place::File(path)) => Ok(path),
            Ok(models::Place::Embedded) => {
                Err(Error::request(format!("{name}: the model in the program is a mixture already")))
            }
            Err(error) => Err(Error::request(error.to_string())),
        }
    }

    fn text(&self, path: PathBuf) -> PathBuf {
        let beside = self.0.join(&path);
        if beside.exists() { beside } else { path }
    }
}

/// What a mixture is made of.
fn print_sources(sources: &[Ingredient]) -> Result<()> {
    let heading =
        ["SOURCE", "FOR", "ARCHITECTURE", "LAYERS", "WIDTH", "HIDDEN", "TOKENS", "FORMATS", "PARAMETERS"];
    let mut table = Table::new(&heading, &[3, 4, 5, 6, 8]);
    for source in sources {
        let numbers = [source.layers, source.width, source.hidden, source.vocabulary];
        let [layers, width, hidden, vocabulary] = numbers.map(|number| number.to_string());
        let name = output::excerpt(&source.name, 40);
        let (parts, formats) = (source.parts.join(", "), source.formats.join(", "));
        let (architecture, weights) = (source.architecture.clone(), output::count(source.weights));
        table.row([name, parts, architecture, layers, width, hidden, vocabulary, formats, weights]);
    }
    table.print()
}

/// What became of it, and where its routers look.
fn print(mixture: &Mixture, merged: &Merged, is_plan: bool) -> Result<()> {
    output::print(format!(
        "{} ({}): {} experts, {} per token, {} of {} parameters active",
        merged.family,
        merged.because,
        mixture.experts.len(),
        mixture.experts_per_token,
        output::count(merged.active),
        output::count(merged.report.weights),
    ))?;
    if is_plan {
        let gates = &merged.gates;
        output::print(format!("memory: {} beyond the files of the sources", output::bytes(merged.memory)))?;
        let read = match gates.tokens {
            0 => "from no text".to_owned(),
            tokens => {
                let passages = gates.passages;
                format!("from {tokens} tokens in {passages} prompts and pieces of text")
            }
        };
        return output::print(format!("gates: mode {}, {read}; a dry run does not compute them", gates.mode));
    }
    let Some(loads) = &merged.loads else { return Ok(()) };
    print_loads(mixture, loads)?;
    loads.warnings.iter().for_each(|line| output::note(format!("warning: {line}")));
    Ok(())
}

fn print_loads(mixture: &Mixture, loads: &Loads) -> Result<()> {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut table = Table::new(&["EXPERT", "SOURCE", "FIRST", "CHOSEN", "OF ITS OWN"], &[0, 2, 3, 4]);
    for (e, (load, expert)) in loads.experts.iter().zip(&mixture.experts).enumerate() {
        let name = output::excerpt(&expert.source.name, 40);
        table.row([e.to_string(), name, percent(load.first), percent(load.chosen), percent(load.own)]);
    }
    table.print()?;
    output::print(format!(
        "over {} tokens: {} find their own expert first, {} among {}; the first weighs {:.2}",
        loads.tokens,
        percent(loads.own_first),
        percent(loads.own_chosen),
        mixture.experts_per_token,
        loads.top_weight,
    ))
}

//! A mixture from the beginning: a base learns two kinds of text, two models each of them, a merge makes experts of them
//! with gates that mean nothing, and training the routers alone lets more of each text find its expert.

mod support;

use moewe_convert::merge::{Asked, Expert, GateMode, Mixture, Origin, merge};
use moewe_convert::{Options as ConvertOptions, convert};
use moewe_engine::eval::trace_routing;
use moewe_engine::quant::Format;
use moewe_engine::session::{Engine, Options};
use std::path::{Path, PathBuf};
use support::golden;
use support::process::trainer;

/// Texts of both kinds: letters go up, digits go down.
fn texts(kind: usize, first: usize, count: usize) -> Vec<String> {
    let text = |number: usize| -> String {
        let letter = |at: usize| match kind {
            0 => char::from(b'a' + ((number * 7 + at) % 26) as u8),
            _ => char::from(b'9' - ((number * 3 + at) % 10) as u8),
        };
        (0..40).map(letter).collect()
    };
    (first..first + count).map(text).collect()
}

/// A folder with models and their data.
struct Workshop(tempfile::TempDir);

impl Workshop {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Trains `base` on `texts`; the result is called `out`.
    fn train(&self, base: &Path, out: &str, texts: &[String], more: &str) {
        let data = self.path(&format!("{out}.jsonl"));
        let line = |text: &String| serde_json::json!({ "text": text }).to_string() + "\n";
        std::fs::write(&data, texts.iter().map(line).collect::<String>()).unwrap();
        let common = "--context 64 --batch 4 --holdout 0 --eval-every 0 -q --monitor jsonl";
        let call = trainer(["finetune".as_ref(), base.as_os_str(), "--data".as_ref(), data.as_os_str()]);
        let call = call.args(["-o".as_ref(), self.path(out).as_os_str()]);
        call.args(common.split_whitespace()).args(more.split_whitespace()).succeed();
    }

    fn expert(&self, name: &str) -> Expert {
        Expert {
            source: Origin { name: name.into(), path: self.path(name), adapters: vec![] },
            positive: vec![],
            negative: vec![],
            noise_scale: None,
            residual_scale: None,
            texts: vec![],
        }
    }

    /// For both kinds the share of tokens and layers at which the first expert chosen is the kind's own.
    fn own_share(&self, mixture: &str) -> [f64; 2] {
        let file = self.path(&format!("{mixture}.gguf"));
        let options = ConvertOptions::new(Format::by_name("F32").unwrap());
        convert(&self.path(mixture), &file, &options, &()).unwrap();
        let engine = Engine::open(&file, Options { threads: Some(1), ..Options::default() }).unwrap();
        [0, 1].map(|kind| {
            let text = texts(kind, 1000, 8).join("\n");
            let trace = trace_routing(&engine, &text, 64, |_, _| true).unwrap();
            let first = trace.tokens.iter().flatten().map(|chosen| chosen[0] as usize);
            let (own, all) =
                first.fold((0, 0), |(own, all), first| (own + u32::from(first == kind), all + 1));
            f64::from(own) / f64::from(all)
        })
    }
}

#[test]
fn training_the_routers_lets_texts_find_their_experts() {
    let shop = Workshop(tempfile::tempdir().unwrap());
    let (letters, digits) = (texts(0, 0, 64), texts(1, 0, 64));
    let both = [&letters[..32], &digits[..32]].concat();
    shop.train(
        &golden("merge/dense/llama-base"),
        "base",
        &both,
        "--train all --epochs 2 --learning-rate 0.003",
    );
    for (name, texts) in [("letters", &letters), ("digits", &digits)] {
        shop.train(&shop.path("base"), name, texts, "--train all --epochs 6 --learning-rate 0.02");
    }
    let mixture = Mixture {
        base: vec![(shop.expert("base").source, 1.0)],
        experts: vec![shop.expert("letters"), shop.expert("digits")],
        shared: vec![],
        experts_per_token: 2,
        gate_mode: GateMode::UniformRandom,
        dtype: None,
        architecture: None,
        seed: 3,
    };
    let options = ConvertOptions::new(Format::by_name("F32").unwrap());
    merge(&mixture, &shop.path("merged"), &Asked::default(), &options, &()).unwrap();
    let before = shop.own_share("merged");
    shop.train(&shop.path("merged"), "routed", &both, "--train router --epochs 6 --learning-rate 0.05");
    let after = shop.own_share("routed");
    assert!(
        before.iter().zip(&after).all(|(before, after)| after > &(before + 0.08)),
        "{before:?} {after:?}"
    );
    assert!(after.iter().sum::<f64>() > 1.4, "{after:?}");
}

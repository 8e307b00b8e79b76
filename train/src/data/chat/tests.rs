//! Conversations against transformers' masks, the rules and their messages, and that no label is lost in rows.

mod kinds;
mod packing;
mod reference;
mod rules;
mod templates;
mod vocabulary;

use super::mask::Masked;
use super::prepare::{Found, first};
use super::{ChatRows, Markers, Settings, Wording, prepare, show};
use crate::Result;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// The tokenizer of the tests, with conversations that transformers has masked.
fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat")
}

const CHATML: &str = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A model's folder without weights, and files of data in it.
struct Folder(TempDir);

impl Folder {
    /// With `template` as the model's own.
    fn new(template: Option<&str>) -> Self {
        Self::with_tokenizer(&reference(), template)
    }

    fn with_tokenizer(of: &Path, template: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(of.join(name), folder.path().join(name)).unwrap();
        }
        if let Some(template) = template {
            std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, lines: &[&str]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, lines.join("\n")).unwrap();
        path
    }

    fn wording(&self) -> Wording {
        Wording::open(self.path(), None, Markers::Known).unwrap()
    }

    /// Examples in `lines`, as they are trained.
    fn masked(&self, context: usize, lines: &[&str]) -> Result<Vec<Masked>> {
        let settings = settings(&[self.write("data.jsonl", lines)], context);
        let found = first(&settings, &self.wording(), usize::MAX)?;
        Ok(found.into_iter().map(|Found { masked, .. }| masked).collect())
    }

    /// What is said of `lines`, without the name of the folder.
    fn refused(&self, lines: &[&str]) -> String {
        let settings = settings(&[self.write("data.jsonl", lines)], 512);
        let error = self.prepared(&settings).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
            .replace(&format!("{}/", self.path().display()), "")
            .replace(&self.path().display().to_string(), "MODEL")
    }

    fn prepared(&self, settings: &Settings) -> Result<ChatRows> {
        prepare(settings, &self.wording(), &mut |_| ())
    }
}

fn settings(data: &[PathBuf], context: usize) -> Settings {
    Settings {
        data: data.to_vec(),
        validation: vec![],
        holdout: 0.0,
        context,
        packing: true,
        stop: Arc::default(),
    }
}

/// The text of the trained tokens, stretch by stretch.
fn trained(masked: &Masked) -> Vec<&str> {
    let answers = masked.answers.iter().map(|answer| {
        let places = &masked.encoded.places[answer.clone()];
        &masked.text[places[0].start..places[places.len() - 1].end]
    });
    answers.collect()
}

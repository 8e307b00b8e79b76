//! Small tokenizers, held to the crate that they are written for and to the converter.

use super::super::corpus::Source;
use super::super::encoder::Encoder;
use super::super::pieces::pieces;
use super::*;
use moewe_engine::gguf::Metadata;
use moewe_engine::tokenizer::Special;
use tempfile::TempDir;

const TEXT: &str = "Es war einmal ein Müller, der hatte drei Söhne.\nDer Müller hatte 1234 Säcke Mehl; das Mehl war weiß!\n\n\
    Und der dritte Sohn sagte: »Ich habe die Mühle nicht.«  Don't we'll see\n  eingerückt\t\tTab\r\nEnde…\nx\n12345\n»y«\n's\n.\n\n\n   \n";

/// A folder with a corpus and a tokenizer trained on it.
fn trained(rules: &'static Rules) -> (TempDir, Outcome) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("corpus.txt"), TEXT.repeat(20)).unwrap();
    let settings = settings(rules, folder.path());
    let (tokenizer, outcome) = train(&settings, &mut |_| ()).unwrap();
    save(&tokenizer, &folder.path().join("tokenizer.json"), false).unwrap();
    (folder, outcome)
}

fn settings(rules: &'static Rules, folder: &Path) -> Settings {
    Settings {
        sources: vec![Source::parse(&folder.join("corpus.txt").display().to_string()).unwrap()],
        separator: Separator::BlankLine,
        vocabulary_size: 340,
        rules,
        special: vec!["<|im_start|>".to_owned()],
        stop: Arc::default(),
    }
}

/// The tokenizer as it goes into a GGUF file.
fn converted(folder: &Path, rows: u64) -> Metadata {
    moewe_convert::hf::tokenizer::tokenizer_metadata(folder, rows).unwrap().unwrap().into_iter().collect()
}

#[test]
fn all_rules_give_the_same_ids_here_in_the_crate_and_in_the_engine() {
    for rules in PRE_TOKENIZERS {
        let (folder, outcome) = trained(rules);
        let path = folder.path().join("tokenizer.json");
        let independent = Tokenizer::from_file(&path).unwrap();
        let encoder = Encoder::open(&path, None).unwrap();
        assert!(encoder.may_cut(), "{}: the fast way is open", rules.name);
        let metadata = converted(folder.path(), 340);
        let engine = moewe_engine::tokenizer::Tokenizer::from_metadata(&metadata).unwrap().unwrap();
        assert_eq!(metadata.require_str("tokenizer.ggml.pre").unwrap(), rules.gguf_name);
        assert_eq!((engine.eos(), engine.bos(), engine.add_bos()), (Some(0), None, false));
        assert_eq!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(false));
        assert_eq!((encoder.eos(), encoder.vocabulary_size(), outcome.vocabulary_size), (0, 340, 340));
        let ids = encoder.encode(TEXT).unwrap();
        assert_eq!(ids, independent.encode(TEXT, true).unwrap().get_ids(), "{}", rules.name);
        assert_eq!(ids, engine.encode(TEXT, Special::Plain).unwrap(), "{}", rules.name);
        assert_eq!(independent.decode(&ids, false).unwrap(), TEXT);
    }
}

#[test]
fn special_tokens_in_a_text_are_text() {
    let (folder, _) = trained(&PRE_TOKENIZERS[0]);
    let encoder = Encoder::open(&folder.path().join("tokenizer.json"), None).unwrap();
    let ids = encoder.encode("a<|endoftext|>b<|im_start|>").unwrap();
    assert!(ids.len() > 10 && ids.iter().all(|&id| id > 1), "{ids:?}");
    let other = Encoder::open(&folder.path().join("tokenizer.json"), Some("<|im_start|>")).unwrap();
    assert_eq!(other.eos(), 1);
    let message =
        Encoder::open(&folder.path().join("tokenizer.json"), Some("<x>")).err().unwrap().to_string();
    assert!(message.contains("<x>") && message.contains("a token"), "{message}");
}

#[test]
fn training_is_repeatable_and_replaces_nothing_unasked() {
    let read = |folder: &TempDir| std::fs::read(folder.path().join("tokenizer.json")).unwrap();
    let (first, outcome) = trained(&PRE_TOKENIZERS[1]);
    let (second, _) = trained(&PRE_TOKENIZERS[1]);
    assert_eq!(read(&first), read(&second));
    assert!(outcome.bytes_per_token > 1.5, "{outcome:?}");
    assert_eq!(outcome.documents, 40);
    let tokenizer = Tokenizer::from_file(first.path().join("tokenizer.json")).unwrap();
    let message = save(&tokenizer, &first.path().join("tokenizer.json"), false).unwrap_err().to_string();
    assert!(message.contains("--force"), "{message}");
    save(&tokenizer, &first.path().join("tokenizer.json"), true).unwrap();
}

#[test]
fn too_small_a_vocabulary_is_refused() {
    let (folder, _) = trained(&PRE_TOKENIZERS[0]);
    let few = Settings { vocabulary_size: 257, ..settings(&PRE_TOKENIZERS[0], folder.path()) };
    let message = train(&few, &mut |_| ()).err().unwrap().to_string();
    assert!(message.contains("there can be 258"), "{message}");
}

#[test]
fn cutting_changes_no_ids() {
    for rules in PRE_TOKENIZERS {
        let (folder, _) = trained(rules);
        let encoder = Encoder::open(&folder.path().join("tokenizer.json"), None).unwrap();
        let whole = encoder.encode(TEXT).unwrap();
        for size in 0..TEXT.len() + 2 {
            let parts = pieces(TEXT, size);
            assert_eq!(parts.concat(), TEXT);
            let ids: Vec<u32> = parts.iter().flat_map(|part| encoder.encode(part).unwrap()).collect();
            assert_eq!(ids, whole, "{} cut at {size}", rules.name);
        }
        assert!(pieces(TEXT, 10).len() > 2);
    }
}

#[test]
fn rare_words_are_forgotten_first() {
    let mut counts: HashMap<String, u64> = (1..=100).map(|n| (format!("w{n}"), n)).collect();
    forget_rare(&mut counts, 100);
    assert_eq!(counts.len(), 100);
    forget_rare(&mut counts, 80);
    assert_eq!((counts.len(), counts.values().min()), (40, Some(&61)));
}

#[test]
fn no_text_makes_no_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("corpus.txt"), "\n \n\n").unwrap();
    let message = train(&settings(&PRE_TOKENIZERS[0], folder.path()), &mut |_| ()).err().unwrap().to_string();
    assert!(message.contains("corpus: no text") && message.contains("--data"), "{message}");
}

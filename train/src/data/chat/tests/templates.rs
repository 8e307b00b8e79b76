//! Which template is taken, and what is said where none fits.

use super::*;

fn open(folder: &Folder, given: Option<&str>, markers: Markers) -> Result<Wording> {
    Wording::open(folder.path(), given, markers)
}

#[track_caller]
fn refused(folder: &Folder, given: &str) -> String {
    let error = open(folder, Some(given), Markers::Known).err().unwrap().to_string();
    error.replace(&folder.path().display().to_string(), "MODEL")
}

const CHAT: &str = r#"{"messages": [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}, {"role": "user", "content": "V"}, {"role": "assistant", "content": "B"}]}"#;

fn texts(folder: &Folder, wording: &Wording) -> (String, Vec<String>) {
    let settings = settings(&[folder.write("data.jsonl", &[CHAT])], 512);
    let masked = first(&settings, wording, 1).unwrap().remove(0).masked;
    let trained = trained(&masked).into_iter().map(str::to_owned).collect();
    (masked.text, trained)
}

#[test]
fn a_model_without_a_template_learns_texts_only() {
    let folder = Folder::new(None);
    assert_eq!(
        folder.refused(&[CHAT]),
        "MODEL has no chat template; name one with --chat-template: chatml, llama3, mistral, gemma, deepseek, harmony, alpaca, or a Jinja file"
    );
    assert_eq!(folder.masked(64, &[r#"{"text": "a"}"#]).unwrap()[0].labels(), 2);
    assert_eq!(folder.wording().template_name(), None);
}

#[test]
fn the_model_s_own_template_is_found() {
    let named =
        |template: &str| serde_json::json!({"eos_token": "</s>", "chat_template": template}).to_string();
    let list = serde_json::json!({"eos_token": {"content": "</s>"}, "chat_template": [
        {"name": "tool_use", "template": "T"}, {"name": "default", "template": CHATML}]});
    for config in [named(CHATML), list.to_string()] {
        let folder = Folder::new(None);
        folder.write("tokenizer_config.json", &[&config]);
        let wording = folder.wording();
        assert!(wording.template_name().unwrap().ends_with("tokenizer_config.json"));
        assert_eq!((wording.template_source(), wording.has_blocks()), (Some(CHATML), false));
        // A file of its own goes first.
        folder.write("chat_template.jinja", &[&CHATML.replace("user", "u")]);
        assert!(folder.wording().template_name().unwrap().ends_with("chat_template.jinja"));
    }
    let folder = Folder::new(Some("{% if %}"));
    let error = open(&folder, None, Markers::Known).err().unwrap().to_string();
    assert!(
        error.contains("chat_template.jinja: key `tokenizer.chat_template`: expected a Jinja template"),
        "{error}"
    );
    let folder = Folder::new(Some("version https://git-lfs.github.com/spec/v1\n"));
    let error = open(&folder, None, Markers::Known).err().unwrap().to_string();
    assert!(error.contains("chat_template.jinja: this is a Git LFS pointer"), "{error}");
    let folder = Folder::new(Some("{{ messages[0].content }}"));
    let error = open(&folder, None, Markers::Known).err().unwrap().to_string();
    assert!(
        error.ends_with("chat_template.jinja: this template leaves out what the assistant says"),
        "{error}"
    );
}

#[test]
fn a_named_template_takes_the_place_of_the_model_s() {
    let folder = Folder::new(Some("x{{ messages[1].content }}"));
    let chatml = open(&folder, Some("chatml"), Markers::Known).unwrap();
    assert_eq!(
        texts(&folder, &chatml),
        (
            "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n".to_owned(),
            vec!["A<|im_end|>".to_owned(), "B<|im_end|>".to_owned()]
        )
    );
    // Words of ordinary language, and the end token of the vocabulary.
    let alpaca = open(&folder, Some("alpaca"), Markers::Known).unwrap();
    let (text, trained) = texts(&folder, &alpaca);
    assert!(text.starts_with("<s>Below is an instruction"), "{text}");
    assert!(text.ends_with("### Instruction:\nV\n\n### Response:\nB</s>\n\n"), "{text}");
    assert_eq!(trained, ["A</s>", "B</s>"]);
    let file = folder.write("my.jinja", &[CHATML]);
    let own = open(&folder, file.to_str(), Markers::Known).unwrap();
    assert_eq!(own.template_name(), file.to_str());
    assert_eq!(own.vocabulary().appended().count(), 0);
    assert_eq!(own.vocabulary().changed_file().unwrap(), None);
}

#[test]
fn markers_are_tokens_or_become_some() {
    let folder = Folder::new(None);
    assert_eq!(
        refused(&folder, "llama3"),
        "--chat-template llama3: <|end_header_id|>, <|eot_id|>, <|start_header_id|> are no single tokens of this vocabulary; \
         choose a template without such markers (alpaca), or --train all, which appends tokens"
    );
    assert!(refused(&folder, "mistral").contains(" [/INST], [INST] are no single tokens"));
    assert!(refused(&folder, "gemma").contains(" <end_of_turn>, <start_of_turn> are no single tokens"));
    assert!(refused(&folder, "deepseek").contains(" <｜Assistant｜>, <｜User｜> are no single tokens"));
    let one = folder.write("one.jinja", &[&CHATML.replace("<|im_start|>", "<|turn|>")]);
    assert!(refused(&folder, one.to_str().unwrap()).contains("one.jinja: <|turn|> is no single token of"));
    assert_eq!(
        refused(&folder, "nonsense"),
        "--chat-template nonsense: no such file, and none of chatml, llama3, mistral, gemma, deepseek, harmony, alpaca"
    );

    let before = folder.wording().vocabulary().size();
    let appended = open(&folder, Some("llama3"), Markers::Appended).unwrap();
    let new: Vec<_> = appended.vocabulary().appended().collect();
    assert_eq!(
        new,
        [
            (before as u32, "<|end_header_id|>"),
            (before as u32 + 1, "<|eot_id|>"),
            (before as u32 + 2, "<|start_header_id|>")
        ]
    );
    assert_eq!(appended.vocabulary().size(), before + 3);
    let (text, trained) = texts(&folder, &appended);
    assert!(text.starts_with("<s><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"), "{text}");
    assert_eq!(trained, ["A<|eot_id|>", "B<|eot_id|>"]);
    // The tokenizer to write beside the model has them, and all that the model's own has.
    let file = appended.vocabulary().changed_file().unwrap().unwrap();
    folder.write("tokenizer.json", &[&file]);
    let again = open(&folder, Some("llama3"), Markers::Known).unwrap();
    assert_eq!(texts(&folder, &again), (text, trained));
    let masked = folder.masked(64, &[r#"{"text": "a<|eot_id|>"}"#]).unwrap();
    assert_eq!(masked[0].encoded.tokens, [1, 69, before as u32 + 1, 2]);
}

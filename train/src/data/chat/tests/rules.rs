//! What is trained, left out and cut, and what is an error.

use super::super::note::Note;
use super::*;

const USER: &str = r#"{"role": "user", "content": "Wie geht es dir?"}"#;

fn chat(messages: &[&str]) -> String {
    format!(r#"{{"messages": [{}]}}"#, messages.join(", "))
}

fn answer(text: &str) -> String {
    serde_json::json!({"role": "assistant", "content": text}).to_string()
}

#[test]
fn what_follows_the_end_token_is_not_trained() {
    // The file names </s> as the end; where there is none the last control token counts, else all of it.
    for (end, trained_end) in [
        ("</s>\n", "</s>"),
        ("<|im_end|>\n", "<|im_end|>"),
        ("</s><|im_end|>", "</s>"),
        ("<|im_start|>x<|im_end|>!", "<|im_start|>x<|im_end|>"),
    ] {
        let template = CHATML.replace("<|im_end|>\n", end);
        let masked = Folder::new(Some(&template))
            .masked(512, &[&chat(&[USER, &answer("A"), USER, &answer("B")])])
            .unwrap();
        assert_eq!(trained(&masked[0]), [format!("A{trained_end}"), format!("B{trained_end}")], "{end}");
    }
    // generation_config.json knows more ends.
    let folder = Folder::new(Some(&CHATML.replace("<|im_end|>", "<|im_end|><|im_start|>")));
    let line = chat(&[USER, &answer("A")]);
    assert_eq!(trained(&folder.masked(512, &[&line]).unwrap()[0]), ["A<|im_end|><|im_start|>"]);
    folder.write("generation_config.json", &[r#"{"eos_token_id": [2, 4]}"#]);
    assert_eq!(trained(&folder.masked(512, &[&line]).unwrap()[0]), ["A<|im_end|>"]);
}

/// GLM stops with the token that begins the next turn; generation_config.json says so.
#[test]
fn the_next_turn_may_end_an_answer() {
    let folder = Folder::new(Some(&CHATML.replace("<|im_end|>", "")));
    folder.write("generation_config.json", &[r#"{"eos_token_id": [2, 3]}"#]);
    let masked = folder.masked(512, &[&chat(&[USER, &answer("A"), USER, &answer("B")])]).unwrap();
    assert_eq!(trained(&masked[0]), ["A\n<|im_start|>", "B\n"]);
    assert_eq!(masked[0].notes, [Note::Endless]);
}

/// The model would never stop.
#[test]
fn answers_without_an_end_are_refused_where_a_message_follows() {
    let bare = CHATML.replace("{{ m.content }}<|im_end|>", "{{ m.content }}");
    let marked = "{% for m in messages %}<|im_start|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}";
    for (template, advice, end) in
        [(&*bare, "answers", r#""\n""#), (marked, "answers, within {% generation %}", r#""B""#)]
    {
        let folder = Folder::new(Some(template));
        assert_eq!(
            folder.refused(&[&chat(&[USER, &answer("B"), USER])]),
            format!(
                "data.jsonl: line 1: messages[1]: the trained part of this answer ends in {end}, which is no end token, though \
                 a message follows, so a model would never stop; let the template write eos_token after {advice}"
            )
        );
        // At the end of a conversation that is said, not refused.
        let last = folder.masked(512, &[&chat(&[USER, &answer("B")])]).unwrap();
        assert_eq!(last[0].notes, [Note::Endless]);
    }
}

#[test]
fn a_template_that_drops_thoughts_trains_the_last_answer() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let folder = Folder::new(Some(template));
    let thought = |text: &str| answer(&format!("<think>t</think>{text}"));
    let masked = folder.masked(512, &[&chat(&[USER, &thought("A"), USER, &thought("B"), USER])]).unwrap();
    assert_eq!(masked[0].notes, [Note::LastOnly]);
    assert_eq!(trained(&masked[0]), ["<think>t</think>B<|im_end|>"]);
    assert!(
        masked[0].text.ends_with("B<|im_end|>\n") && masked[0].text.contains("\nA<|im_end|>"),
        "its own rendering"
    );
    // Where nothing is dropped all answers are.
    let masked = folder.masked(512, &[&chat(&[USER, &answer("A"), USER, &thought("B")])]).unwrap();
    assert_eq!((trained(&masked[0]).len(), &*masked[0].notes), (2, &[][..]));
}

/// Prompts that open a thought: an answer that has none is what follows where both agree.
#[test]
fn a_prompt_may_begin_what_the_answer_has_not() {
    let template = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}");
    let folder = Folder::new(Some(&template));
    let masked =
        folder.masked(512, &[&chat(&[USER, &answer("A"), USER, &answer("<think>\nt</think>B")])]).unwrap();
    assert_eq!(trained(&masked[0]), ["A<|im_end|>", "t</think>B<|im_end|>"]);
    // What begins with the same letters is not cut within a tag.
    let masked = folder.masked(512, &[&chat(&[USER, &answer("<tool>x")])]).unwrap();
    assert_eq!(trained(&masked[0]), ["<tool>x<|im_end|>"]);
    let other = "{% for m in messages %}{{ loop.index - messages | length }}{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}A{% endif %}";
    assert_eq!(
        Folder::new(Some(other)).refused(&[&chat(&[USER, &answer("A")])]),
        "data.jsonl: line 1: messages[1]: the template writes other texts before an answer than in a prompt that asks for it; \
         put {% generation %} and {% endgeneration %} around what is to be trained in the template"
    );
}

/// Many templates ask for the first message, which is not there yet where the assistant begins.
#[test]
fn a_conversation_may_begin_with_an_answer() {
    let strict = "{% if messages[0]['role'] == 'system' %}S{% endif %}".to_owned() + CHATML;
    for template in [CHATML, &strict] {
        let folder = Folder::new(Some(template));
        for begin in ["Gut", "xyz", "x", " x "] {
            let masked = folder.masked(512, &[&chat(&[&answer(begin), USER, &answer("B")])]).unwrap();
            assert_eq!(trained(&masked[0]), [format!("{begin}<|im_end|>"), "B<|im_end|>".to_owned()]);
            assert_eq!(masked[0].notes, []);
        }
    }
}

#[test]
fn blocks_and_answers_have_to_match_where_one_is_left_out() {
    let joined = "{% generation %}{% for m in messages if m.role == 'assistant' %}{{ m.content }}</s>{% endfor %}{% endgeneration %}";
    let folder = Folder::new(Some(joined));
    let masked = folder.masked(512, &[&chat(&[&answer("A"), &answer("B")])]).unwrap();
    assert_eq!(trained(&masked[0]), ["A</s>B</s>"]);
    // A block with nothing in it is one all the same.
    let bare = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}</s>{% endif %}{% endfor %}";
    let ending =
        [answer(""), r#"{"role": "assistant", "content": "A", "weight": 0}"#.to_owned(), answer("B</s>")];
    let ending: Vec<&str> = ending.iter().map(String::as_str).collect();
    let masked = Folder::new(Some(bare)).masked(512, &[&chat(&ending)]).unwrap();
    assert_eq!((trained(&masked[0]), &*masked[0].text), (vec!["B</s>"], "</s>A</s>B</s></s>"));
    // Of an answer in two parts only the last has to end.
    let parts = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}:{% generation %}!END{% endgeneration %}{% endfor %}";
    let masked =
        Folder::new(Some(&parts.replace("END", "</s>"))).masked(512, &[&chat(&[&answer("AB")])]).unwrap();
    assert_eq!((trained(&masked[0]), &*masked[0].notes), (vec!["AB", "!</s>"], &[][..]));
    let folded = Folder::new(Some(&parts.replace("END", "")));
    assert_eq!(folded.masked(512, &[&chat(&[&answer("AB")])]).unwrap()[0].notes, [Note::Endless]);
    let error = folded.refused(&[&chat(&[&answer("AB"), USER])]);
    assert!(
        error.contains(r#"messages[0]: the trained part of this answer ends in "!", which is no end token"#),
        "{error}"
    );
    let untrained = r#"{"role": "assistant", "content": "A", "weight": 0}"#;
    assert_eq!(
        folder.refused(&[&chat(&[untrained, &answer("B")])]),
        "data.jsonl: line 1: the template marks 1 parts of 2 answers with {% generation %}, so none of these can be left untrained"
    );
}

#[test]
fn what_is_too_long_is_cut_after_an_answer() {
    let folder = Folder::new(Some(CHATML));
    let line = chat(&[USER, &answer("Gut, und dir?"), USER, &answer("12 + 30")]);
    let whole = folder.masked(512, &[&line]).unwrap().remove(0);
    let (all, ends) = (whole.encoded.tokens.len(), [whole.answers[0].clone(), whole.answers[1].clone()]);
    let cut = |context: usize| folder.masked(context, &[&line]).unwrap().remove(0);
    for context in [all, all + 1] {
        assert_eq!(cut(context), whole, "{context}");
    }
    for context in [all - 1, ends[1].end] {
        assert_eq!(cut(context).encoded.tokens, whole.encoded.tokens[..ends[1].end], "after the last answer");
    }
    for context in [ends[1].end - 1, ends[0].end + 1, ends[0].end] {
        let cut = cut(context);
        assert_eq!(cut.encoded.tokens, whole.encoded.tokens[..ends[0].end]);
        assert_eq!(cut.trained, whole.trained[..ends[0].end]);
        assert_eq!(cut.notes, [Note::LaterTurns]);
    }
    for context in [ends[0].end - 1, ends[0].start + 1] {
        let cut = cut(context);
        assert_eq!(cut.encoded.tokens, whole.encoded.tokens[..context]);
        assert_eq!((cut.labels(), &*cut.notes), (context - ends[0].start, &[Note::LongAnswer][..]));
    }
    assert_eq!(cut(ends[0].start).notes, [Note::LongPrompt]);
    let texts = folder.masked(5, &[r#"{"text": "Der Wind kam von der See"}"#]).unwrap();
    assert_eq!((texts[0].labels(), &*texts[0].notes), (4, &[Note::LongAnswer][..]));
}

#[test]
fn what_is_left_out_is_counted() {
    let folder = Folder::new(Some(CHATML));
    let untrained = r#"{"role": "assistant", "content": "A", "weight": 0}"#;
    let long = format!(r#"{{"role": "user", "content": "{}"}}"#, "lang ".repeat(60));
    let lines = [
        chat(&[USER, &answer("A")]),
        chat(&[USER, untrained]),
        chat(&[]),
        chat(&[&long, &answer("A")]),
        chat(&[USER, &answer("A"), &long, &answer("B")]),
        chat(&[r#"{"role": "user", "content": "a<|im_end|>b"}"#, &answer("A")]),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let data = [folder.write("data.jsonl", &lines)];
    let rows = folder.prepared(&settings(&data, 64)).unwrap();
    assert_eq!(rows.counts.kinds, [("chat", 6)]);
    let expected =
        [(Note::NothingTrained, 2), (Note::LongPrompt, 1), (Note::LaterTurns, 1), (Note::SpellsControl, 1)];
    assert_eq!(rows.counts.notes, expected);
    assert_eq!(rows.train.iter().map(|row| row.segments.len()).sum::<usize>(), 3);
    assert_eq!(
        folder.refused(&lines[1..3]),
        "no example has a token to train on (2 examples; 2 left out: nothing in it is to be trained); --show-mask 3 shows how they are read"
    );
}

/// A message that spells a control token has letters there, as when the model is run.
#[test]
fn messages_write_no_control_tokens() {
    for template in
        [CHATML.to_owned(), std::fs::read_to_string(reference().join("chat_template.jinja")).unwrap()]
    {
        let folder = Folder::new(Some(&template));
        let spelled = r#"{"role": "user", "content": "a<|im_end|>\n<|im_start|>assistant\nb</s> ö<"}"#;
        let masked = folder.masked(512, &[&chat(&[spelled, &answer("<s>c<|im_end|>d")])]).unwrap().remove(0);
        assert_eq!(masked.notes, [Note::SpellsControl]);
        let control = |wanted: u32| masked.encoded.tokens.iter().filter(|&&token| token == wanted).count();
        assert_eq!([1, 2, 3, 4].map(control), [1, 0, 2, 2], "those of the template alone");
        assert_eq!(trained(&masked), ["<s>c<|im_end|>d<|im_end|>"], "up to the end that the template wrote");
        let places: Vec<&str> =
            masked.encoded.places.iter().map(|place| &masked.text[place.clone()]).collect();
        assert!(places.contains(&"ö") && !places.contains(&"</s>"), "{places:?}");
        // Tokens lie side by side and cover the text.
        let ends =
            masked.encoded.places.windows(2).all(|pair| pair[0].end == pair[1].start || pair[0] == pair[1]);
        assert!(ends && masked.encoded.places.last().unwrap().end == masked.text.len());
    }
}

#[test]
fn what_a_template_refuses_is_said_with_the_line() {
    let folder = Folder::new(Some(
        "{% if messages[0].role != 'user' %}{{ raise_exception('first a question') }}{% endif %}{{ messages[0].content }}{% for m in messages[1:] %}{{ m.content }}</s>{% endfor %}",
    ));
    assert_eq!(
        folder.refused(&[&chat(&[USER, &answer("A")]), &chat(&[&answer("A")])]),
        "data.jsonl: line 2: chat template: first a question"
    );
}

#[test]
fn settings_that_cannot_be_met_are_refused() {
    let folder = Folder::new(Some(CHATML));
    let data = [folder.write("data.jsonl", &[r#"{"text": "a"}"#])];
    let refused = |settings: Settings| folder.prepared(&settings).unwrap_err().to_string();
    assert!(refused(settings(&data, 1)).starts_with("rows of 1 tokens; the context is 2 or more"));
    for holdout in [1.0, -0.1, f64::NAN] {
        let error = refused(Settings { holdout, ..settings(&data, 8) });
        assert!(error.contains("expected a share of 0 or more and below 1"), "{error}");
    }
    assert_eq!(refused(settings(&[], 8)), "no data; name some with --data");
    assert!(refused(settings(&[folder.path().join("none")], 8)).contains("none: cannot open"));
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let error = refused(settings(&[empty], 8));
    assert!(
        error.ends_with("empty: expected files ending in .jsonl, .jsonl.gz, .ndjson, .ndjson.gz, found none"),
        "{error}"
    );
    let stopped = Settings { stop: Arc::new(true.into()), ..settings(&data, 8) };
    assert_eq!(refused(stopped), "stopped");
}

/// Folders are read in the order of names, compressed files like others.
#[test]
fn folders_and_compressed_files_are_read() {
    use std::io::Write;
    let folder = Folder::new(None);
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("b.jsonl"), "{\"text\": \"bb\"}\r\n{\"text\": \"c\"}").unwrap();
    std::fs::write(data.join("notes.txt"), "x").unwrap();
    let file = std::fs::File::create(data.join("a.jsonl.gz")).unwrap();
    let mut file = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    file.write_all("\u{feff}{\"text\": \"ä\"}\n\n".as_bytes()).unwrap();
    file.finish().unwrap();
    let settings = Settings { packing: false, ..settings(&[data], 64) };
    let rows = folder.prepared(&settings).unwrap();
    let lengths: Vec<_> = rows.train.iter().map(|row| row.tokens.len()).collect();
    assert_eq!(lengths, [4, 4, 3], "ä is two bytes");
}

#[test]
fn examples_are_shown() {
    let folder = Folder::new(Some(CHATML));
    let esc = r#"{"role": "user", "content": "a\u001b[31m\u202e\tb"}"#;
    let untrained = r#"{"role": "assistant", "content": "A", "weight": 0}"#;
    let lines = [chat(&[esc, &answer("🐦\nja")]), chat(&[untrained]), chat(&[USER, &answer("x")])];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let path = folder.write("data.jsonl", &lines);
    let shown = show(&settings(std::slice::from_ref(&path), 512), &folder.wording(), 2, false).unwrap();
    let data = path.display();
    let expected = format!(
        "{data}, line 1, chat: 36 tokens, 8 of them trained\n<s><|im_start|>user\na\\u{{1b}}[31m\\u{{202e}}\tb<|im_end|>\n\
         <|im_start|>assistant\n⟦🐦\nja<|im_end|>⟧\n\n\n{data}, line 2, chat: left out: nothing in it is to be trained\n\n\
         ⟦trained⟧, only read: 2 examples, 1 left out; 36 tokens, 8 of them trained\n"
    );
    assert_eq!(shown, expected);
    let coloured = show(&settings(&[path], 20), &folder.wording(), 9, true).unwrap();
    assert!(coloured.contains("left out: the first answer begins beyond --context"), "{coloured}");
    assert!(
        coloured.ends_with(
            "\u{1b}[1;32mtrained\u{1b}[0m, only read: 3 examples, 3 left out; 0 tokens, 0 of them trained\n"
        ),
        "{coloured}"
    );
}

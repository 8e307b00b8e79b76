//! What templates of the families are taken for, and text in every cut.

use super::*;
use crate::tokenizer::bytes::CHARACTERS;
use crate::tokenizer::{BUILT_IN, Message, Tokenizer, VocabularySpec};
use proptest::prelude::*;

/// In the words of the templates that come with the models, as far as thoughts go.
const QWEN3: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and (loop.last or m.reasoning_content) %}<think>\n{{ (m.reasoning_content or '').strip('\\n') }}\n</think>\n\n{{ m.content.lstrip('\\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}";
const R1: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% else %}{% set c = m.content %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}<｜Assistant｜>{{ c }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>";
const GLM: &str = "[gMASK]<sop>{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ m.content }}{% else %}<|assistant|>\n{% if m.reasoning_content %}<think>{{ m.reasoning_content.strip() }}</think>{% else %}<think></think>{% endif %}\n{{ m.content.strip() }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
const MINIMAX: &str = "]~!b[{% for m in messages %}{% if m.role == 'user' %}]~b]user\n{{ m.content }}[e~[\n{% else %}]~b]ai\n{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}[e~[\n{% endif %}{% endfor %}{% if add_generation_prompt %}]~b]ai\n<think>\n{% endif %}";
const KIMI: &str = "{% for m in messages %}<|im_{{ m.role }}|>{{ m.role }}<|im_middle|>{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}";
const SEED: &str = "{% for m in messages %}<seed:bos>{{ m.role }}\n{% if m.reasoning_content %}<seed:think>{{ m.reasoning_content }}</seed:think>{% endif %}{{ m.content }}<seed:eos>{% endfor %}{% if add_generation_prompt %}<seed:bos>assistant\n{% endif %}";
const MAGISTRAL: &str = "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% elif m.content is string %}{{ m.content }}</s>{% else %}{% for b in m.content %}{% if b.type == 'thinking' %}[THINK]{{ b.thinking }}[/THINK]{% else %}{{ b.text }}{% endif %}{% endfor %}</s>{% endif %}{% endfor %}";
const COHERE: &str = "{% for m in messages %}<|START_OF_TURN_TOKEN|>{{ m.role }}{% if m.reasoning %}<|START_THINKING|>{{ m.reasoning }}<|END_THINKING|>{% endif %}<|START_RESPONSE|>{{ m.content }}{% endfor %}";
const GEMMA4: &str = "{% for m in messages %}<|turn>{{ m.role }}\n{% if m.reasoning %}<|channel>thought\n{{ m.reasoning }}<channel|>{% endif %}{{ m.content }}<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}";
const GEMMA4_FIRST: &str = "{% for m in messages %}<|turn>{{ m.role }}\n{{ m.content }}<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% if not enable_thinking | default(false) %}<|channel>thought\n<channel|>{% endif %}{% endif %}";
const GPT_OSS: &str = "{% for m in messages %}{% if m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>{% elif loop.last and not add_generation_prompt %}{% if 'thinking' in m %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>{% else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}";
const HUNYUAN: &str = "{% for m in messages %}{% set c = m.content %}{% if m.role == 'user' %}{{ bos_token }}{{ c }}<|extra_0|>{% else %}{% if '<answer>' in c and not loop.last %}{% set c = c.split('<answer>')[-1].strip('</answer>').strip() %}{% endif %}{{ c }}{{ eos_token }}{% endif %}{% endfor %}{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}";
const TAGGED: &str = "{% for m in messages %}<turn>{{ m.role }}\n{% if m.role == 'user' %}{{ m.content }}{% else %}{% if m.reasoning %}<think>{{ m.reasoning }}</think>{% endif %}<answer>{{ m.content }}</answer>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<turn>assistant\n{% endif %}";
const CHATML_WITH_TURNS: &str = "{% for m in messages %}{% if m.reasoning_content %}<|im_start|>assistant\n{{ m.reasoning_content }}<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "<s>", "</s>").unwrap()
}

/// What a model says after a question, split: thoughts and answer.
fn split(source: &str, generated: &str) -> (String, String) {
    let template = template(source);
    let prompt = template.render(&[Message::new("user", "U")], true).unwrap();
    together(&Dialogue::of(&template), prompt.text(), &[generated])
}

fn together(dialogue: &Dialogue, prompt: &str, parts: &[&str]) -> (String, String) {
    let (mut splitter, mut pieces) = (dialogue.family.splitter(prompt, None), vec![]);
    parts.iter().for_each(|part| splitter.push(part, &mut pieces));
    splitter.finish(&mut pieces);
    let mut texts = (String::new(), String::new());
    for piece in pieces {
        match piece {
            Piece::Reasoning(text) => texts.0 += &text,
            Piece::Answer(text) => texts.1 += &text,
            call => panic!("{call:?}"),
        }
    }
    texts
}

#[test]
fn families_are_recognized_by_what_templates_write() {
    let r1_opened = format!("{R1}<think>\n{{% endif %}}");
    let r1 = format!("{R1}{{% endif %}}");
    for (source, family, generated) in [
        (QWEN3, "tags", "<think>\nR\n</think>\n\nA"),
        (&*r1, "tags", "<think>\nR\n</think>\n\nA"),
        (&*r1_opened, "tags", "R\n</think>\n\nA"),
        (GLM, "tags", "\n<think>R</think>\nA"),
        (MINIMAX, "tags", "R\n</think>\n\nA"),
        (KIMI, "tags", "<think>R</think>A"),
        (SEED, "tags", "<seed:think>R</seed:think>A"),
        (MAGISTRAL, "tags", "[THINK]R[/THINK]A"),
        (COHERE, "tags", "<|START_THINKING|>R<|END_THINKING|>A"),
        (GEMMA4, "tags", "<|channel>thought\nR<channel|>A"),
        (GEMMA4_FIRST, "tags", "<|channel>thought\nR<channel|>A"),
        (HUNYUAN, "tags", "<think>\nR\n</think>\n<answer>\nA\n</answer>"),
        (TAGGED, "tags", "<think>R</think><answer>A</answer>"),
        (
            GPT_OSS,
            "harmony",
            "<|channel|>analysis<|message|>R<|end|><|start|>assistant<|channel|>final<|message|>A",
        ),
    ] {
        let found = Dialogue::of(&template(source));
        assert_eq!((found.family(), found.has_reasoning()), (family, true), "{source}");
        assert_eq!(split(source, generated), ("R".into(), "A".into()), "{source}");
    }
    for source in [CHATML_WITH_TURNS, "{{ messages[0].content }}", "{{ raise_exception('no') }}"] {
        assert_eq!(Dialogue::of(&template(source)).family(), "plain", "{source}");
    }
    for (name, source) in BUILT_IN {
        let expected = if *name == "harmony" { "harmony" } else { "plain" };
        assert_eq!(Dialogue::of(&template(source)).family(), expected, "{name}");
    }
}

#[test]
fn thoughts_between_tags() {
    for (generated, thought, answer) in [
        ("A <think>no</think>", "", "A <think>no</think>"),
        ("<think>\n\n</think>\n\n A\n", "", "A\n"),
        ("<think> a < b </thin \n", "a < b </thin \n", ""),
        ("<think>a</think></think>", "a", "</think>"),
        ("<think><think>a\n\nb </think>", "a\n\nb", ""),
        ("</think>\nA", "", "A"),
        ("<thi", "", "<thi"),
        (" ", "", " "),
        ("", "", ""),
    ] {
        assert_eq!(split(QWEN3, generated), (thought.into(), answer.into()), "{generated:?}");
    }
    assert_eq!(
        split(QWEN3, "<think>a</think><answer>b</answer>").1,
        "<answer>b</answer>",
        "no tags of this model"
    );
    // The prompt decides whether the text begins within.
    let tags = Dialogue::of(&template(QWEN3));
    assert_eq!(together(&tags, "x<think>\n", &["a</think>b"]), ("a".into(), "b".into()));
    assert_eq!(together(&tags, "<think>\n\n</think>\n\n", &["a"]), (String::new(), "a".into()));
}

#[test]
fn answers_between_tags() {
    let tags = Dialogue::of(&template(HUNYUAN));
    for (generated, thought, answer) in [
        ("<answer>\nA\n</answer>\n", "", "A"),
        ("\n<answer> A </answer> B </ans", "", "A </answer> B </ans"),
        ("<think>R</think>\n\nA</answer>", "R", "A</answer>"),
        ("<think>R <answer></think><answer>an <answer>\n", "R <answer>", "an <answer>\n"),
        ("<answer></answer>", "", ""),
        ("<answer> ", "", ""),
        ("<think>R</think><ans", "R", "<ans"),
        ("<answer", "", "<answer"),
        ("A <answer>b</answer>", "", "A <answer>b</answer>"),
    ] {
        assert_eq!(split(HUNYUAN, generated), (thought.into(), answer.into()), "{generated:?}");
        let letters: Vec<String> = generated.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(|letter| &**letter).collect();
        assert_eq!(together(&tags, "", &letters), (thought.into(), answer.into()), "{generated:?}");
    }
}

#[test]
fn channels() {
    for (generated, thought, answer) in [
        ("<|channel|>final<|message|>A<|return|>", "", "A"),
        ("Hello, <b>", "", "Hello, <b>"),
        ("<|message|>A<|end|>", "", "A"),
        (
            "<|channel|>commentary<|message|>P<|end|><|start|>assistant<|channel|>final<|message|>A",
            "",
            "P\n\nA",
        ),
        (" to=functions.f<|channel|>commentary<|constrain|>json<|message|>{}<|call|>", "{}", ""),
        ("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}", "{}", ""),
        ("<|channel|>analysis<|message|>R<|channel|>final<|message|>A <|en", "R", "A <|en"),
        (
            "<|channel|>analysis<|message|>R<|end|>\n<|start|>assistant<|channel|>analysis<|message|>S",
            "R\n\nS",
            "",
        ),
        ("<|channel|>analysis<|message|>R<|end|> Z", "R", "Z"),
        ("<|channel|>anal", "", ""),
        (" to", "", " to"),
    ] {
        assert_eq!(split(GPT_OSS, generated), (thought.into(), answer.into()), "{generated:?}");
    }
    let harmony = Dialogue::of(&template(GPT_OSS));
    let prompt = "<|start|>user<|message|>U<|end|><|start|>assistant<|channel|>analysis<|message|>";
    assert_eq!(together(&harmony, prompt, &["R<|end|>"]), ("R".into(), String::new()));
    assert_eq!(
        (harmony.family.mark("<|channel2|>"), harmony.family.mark("<|im_end|>")),
        (Some("<|channel|>"), None)
    );
}

/// Control tokens are marks where the family knows them, and nothing elsewhere; a stop string in a thought ends nothing.
#[test]
fn tokens_become_pieces() {
    let marks = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|x|>"];
    let bytes: Vec<String> = CHARACTERS.iter().map(char::to_string).collect();
    let tokens = bytes.iter().map(String::as_str).chain(marks).collect();
    let types = [vec![1; 256], vec![3; 5]].concat();
    let spec = VocabularySpec { model: "gpt2", pre: "gpt-2", tokens, types, ..Default::default() };
    let tokenizer = Tokenizer::new(&spec).unwrap();
    let text =
        "<|channel|>analysis<|message|>stop ü<|end|><|start|>assistant<|channel|>final<|message|>ä<|x|>b";
    let read = |more: &str| {
        let tokens = tokenizer.encode(&format!("{text}{more}"), crate::tokenizer::Special::Parse).unwrap();
        let stops = StopScanner::new(["stop".to_owned()]);
        let mut reader = Dialogue::of(&template(GPT_OSS)).reader("<|start|>assistant", stops, None);
        let mut pieces: Vec<Piece> =
            tokens.iter().flat_map(|&token| reader.push(&tokenizer, token)).collect();
        pieces.extend(reader.finish());
        assert!(
            pieces.iter().all(
                |piece| matches!(piece, Piece::Reasoning(text) | Piece::Answer(text) if !text.is_empty())
            )
        );
        assert_eq!(reader.raw(), format!("{text}{more}"));
        (reader.reasoning().to_owned(), reader.answer().to_owned(), reader.stop().map(str::to_owned))
    };
    assert_eq!(read("st"), ("stop ü".into(), "äbst".into(), None));
    assert_eq!(read("stop it"), ("stop ü".into(), "äb".into(), Some("stop".into())));
}

proptest! {
    /// However a stream is cut, the texts are those of the whole.
    #[test]
    fn every_cut_gives_the_same(words in prop::collection::vec(0usize..29, 0..24), cuts: [u8; 12], source in 0usize..5) {
        const WORDS: [&str; 29] = [
            "<think>", "</think>", "<thi", "</", "nk>", "\n", " ", "ü🦙", "a", "<", ">", "<|channel|>", "<|message|>",
            "<|start|>", "<|end|>", "<|return|>", "<|constrain|>", "<|", "|>", "assistant", "analysis", "final",
            "commentary", " to=f", "channel", "json", "<answer>", "</answer>",
            "answer>",
        ];
        let head = ["", "", "", "", "<answer>"][source];
        let whole: String = [head].into_iter().chain(words.iter().map(|&word| WORDS[word])).collect();
        let dialogue = Dialogue::of(&template([QWEN3, MINIMAX, GPT_OSS, CHATML_WITH_TURNS, HUNYUAN][source]));
        let prompt = ["", "<think>\n", "<|start|>assistant", "", ""][source];
        let mut places: Vec<usize> = cuts.iter().map(|&cut| usize::from(cut) % (whole.len() + 1)).collect();
        places.retain(|&place| whole.is_char_boundary(place));
        places.extend([0, whole.len()]);
        places.sort_unstable();
        let parts: Vec<&str> = places.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
        let expected = together(&dialogue, prompt, &[&whole]);
        prop_assert_eq!(together(&dialogue, prompt, &parts), expected.clone());
        let mut single = [0; 4];
        let mut splitter = dialogue.family.splitter(prompt, None);
        let mut pieces = vec![];
        whole.chars().for_each(|c| splitter.push(c.encode_utf8(&mut single), &mut pieces));
        splitter.finish(&mut pieces);
        let texts = |wanted: bool| -> String {
            pieces.iter().filter_map(|piece| match piece {
                Piece::Reasoning(text) if wanted => Some(&**text),
                Piece::Answer(text) if !wanted => Some(&**text),
                _ => None,
            }).collect()
        };
        prop_assert_eq!((texts(true), texts(false)), expected);
    }
}

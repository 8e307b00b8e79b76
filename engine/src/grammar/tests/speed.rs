//! How long a mask takes with a large vocabulary.

use super::*;
use std::collections::BTreeSet;
use std::time::Instant;

const TEXT: &str = concat!(
    include_str!("../../../../README.md"),
    include_str!("../../../../ARCHITECTURE.md"),
    include_str!("../../../../CHANGELOG.md"),
);

/// The bytes, and pieces of a long text as a tokenizer might have them: 128 Ki in all.
fn large() -> Tokenizer {
    let spell = |text: &str| text.bytes().map(|byte| CHARACTERS[usize::from(byte)]).collect::<String>();
    let mut pieces = BTreeSet::new();
    let starts: Vec<usize> = TEXT.char_indices().map(|(at, _)| at).collect();
    for length in 2..40 {
        for window in starts.windows(length + 1) {
            if pieces.len() < (128 << 10) - 300 {
                pieces.insert(&TEXT[window[0]..window[length]]);
            }
        }
    }
    let all: Vec<String> = (0..=255u8)
        .map(|byte| CHARACTERS[usize::from(byte)].to_string())
        .chain(pieces.into_iter().filter(|piece| piece.len() > 1).map(spell))
        .collect();
    let tokens: Vec<&str> = all.iter().map(String::as_str).chain(["<|im_end|>"]).collect();
    let types = (0..tokens.len()).map(|token| if token < all.len() { 1 } else { 3 }).collect();
    Tokenizer::new(&VocabularySpec { model: "gpt2", pre: "gpt-2", tokens, types, ..Default::default() })
        .unwrap()
}

#[test]
#[ignore = "prints times"]
fn masks_of_a_large_vocabulary() {
    let tokenizer = large();
    let start = Instant::now();
    let vocabulary = Vocabulary::new(&tokenizer, tokenizer.vocabulary_size()).unwrap();
    println!("{} tokens prepared in {:?}", vocabulary.size(), start.elapsed());
    let kinds = [
        json!({ "type": "integer" }),
        json!({ "type": "string" }),
        json!({ "type": "boolean" }),
        json!({ "enum": ["a", "b"] }),
        json!({ "type": "array", "items": { "type": "string", "maxLength": 30 } }),
    ];
    let fields: Map<String, Value> = (0..20).map(|n| (format!("field_{n}"), kinds[n % 5].clone())).collect();
    let names: Vec<&String> = fields.keys().collect();
    let schema =
        json!({ "type": "object", "required": names, "properties": fields, "additionalProperties": false });
    for (name, grammar) in [
        ("20 fields", Grammar::JsonSchema(schema)),
        ("any object", Grammar::json_object()),
        ("GBNF's JSON", Grammar::Gbnf(super::gbnf::JSON.into())),
        ("GBNF's arithmetic", Grammar::Gbnf(super::gbnf::ARITHMETIC.into())),
        ("an expression", Grammar::Regex("[A-ZÄÖÜ][a-zäöüß]+( [A-ZÄÖÜ]?[a-zäöüß]+){3,20}[.]".into())),
    ] {
        let start = Instant::now();
        let matcher = vocabulary.compile(&grammar).unwrap();
        let compiled = start.elapsed();
        let (mut random, mut times) = (Random(11), vec![]);
        for _ in 0..20 {
            let mut matcher = matcher.clone();
            for _ in 0..100 {
                let start = Instant::now();
                let allowed = match matcher.allowed().unwrap() {
                    Next::End => break,
                    Next::Tokens(mask) => mask,
                };
                times.push(start.elapsed());
                let tokens: Vec<u32> = allowed.tokens().filter(|token| !tokenizer.is_end(*token)).collect();
                if tokens.is_empty() || matcher.advance(tokens[random.below(tokens.len())]).is_err() {
                    break;
                }
            }
        }
        times.sort_unstable();
        let at = |part: f64| times[(times.len() as f64 * part) as usize];
        let mean = times.iter().sum::<std::time::Duration>() / times.len() as u32;
        let (half, most) = (at(0.5), at(0.99));
        println!(
            "{name}: compiled in {compiled:?}; {} masks, mean {mean:?}, half below {half:?}, 99 % below {most:?}",
            times.len()
        );
    }
}

//! Regular expressions against another automaton, and what holds of every mask.

use super::*;
use regex_automata::util::start::Config;
use regex_automata::{Anchored, dfa::Automaton, dfa::dense};

/// Asks the crate `regex-automata`.
fn judge(expression: &str) -> impl Fn(&[u8]) -> (bool, bool) {
    let dfa = dense::Builder::new()
        .configure(dense::Config::new().minimize(true))
        .build(&format!("^(?:{expression})$"))
        .unwrap();
    move |text| {
        let mut state = dfa.start_state(&Config::new().anchored(Anchored::Yes)).unwrap();
        for &byte in text {
            state = dfa.next_state(state, byte);
        }
        (!dfa.is_dead_state(state), dfa.is_match_state(dfa.next_eoi_state(state)))
    }
}

#[test]
fn expressions_allow_what_an_automaton_can_finish() {
    let mut random = Random(1);
    for expression in [
        "(ab|ba)*c",
        "a{2,5}b?",
        "[a-c]+,[a-c]+",
        "(true|false|null)",
        "-?[0-9]{1,3}([.][0-9]+)?",
        "ü+(öß)?🦙?",
        "[^a]{0,4}",
        "(?s:.){3}",
        "",
        "a*",
        "(aa|aab)b",
        r"\w+=\d{2}",
        "[/]+\\n\"",
    ] {
        let matcher = compile(&Grammar::Regex(expression.into())).unwrap();
        for _ in 0..4 {
            compare(&matcher, &judge(expression), &mut random, 8);
        }
    }
}

#[test]
fn what_is_complete_ends() {
    let mut matcher = compile(&Grammar::Regex("ab".into())).unwrap();
    assert!(!matcher.must_end() && !matcher.may_end().unwrap());
    matcher.advance(256).unwrap();
    assert!(matcher.must_end() && matcher.may_end().unwrap());
    assert!(matches!(matcher.allowed().unwrap(), Next::End));
    assert!(compile(&Grammar::Regex(String::new())).unwrap().must_end());
}

#[test]
fn bytes_go_before_tokens() {
    let mut matcher = compile(&Grammar::Regex("xübba".into())).unwrap();
    matcher.advance_bytes("xü".as_bytes()).unwrap();
    matcher.advance(u32::from(b'b')).unwrap();
    assert!(matcher.clone().advance_bytes(b"x").is_err());
    // A copy goes its own way.
    matcher.advance(257).unwrap();
    assert!(matcher.must_end());
}

#[test]
fn errors_are_values_and_stay() {
    let mut matcher = compile(&Grammar::Regex("ab".into())).unwrap();
    let mut copy = matcher.clone();
    assert!(matcher.advance(u32::from(b'x')).is_err());
    assert!(matcher.allowed().is_err() && matcher.advance(u32::from(b'a')).is_err() && !matcher.must_end());
    copy.advance(256).unwrap();
    assert!(copy.must_end());
}

/// Where the text goes on with what no token has, the grammar is refused, or the answer fails.
#[test]
fn a_vocabulary_may_lack_what_a_grammar_wants() {
    let spec = VocabularySpec {
        model: "gpt2",
        pre: "gpt-2",
        tokens: vec!["a", "b", "<end>"],
        types: vec![1, 1, 3],
        ends: vec![2],
        ..Default::default()
    };
    let tokenizer = Tokenizer::new(&spec).unwrap();
    let vocabulary = Vocabulary::new(&tokenizer, 3).unwrap();
    let error = vocabulary.compile(&Grammar::Regex("c".into())).unwrap_err().to_string();
    assert!(error.contains("no token of the model has"), "{error}");
    let mut matcher = vocabulary.compile(&Grammar::Regex("ac?".into())).unwrap();
    matcher.advance(0).unwrap();
    // Only the end is left of what the vocabulary can write.
    assert!(matches!(matcher.allowed().unwrap(), Next::End));
    let mut matcher = vocabulary.compile(&Grammar::Regex("ac".into())).unwrap();
    matcher.advance(0).unwrap();
    assert!(matcher.allowed().is_err());
}

#[test]
fn masks_exclude_others() {
    let mut mask = Mask::none(70);
    [0, 31, 32, 69, 70, 1000].into_iter().for_each(|token| mask.allow(token));
    let mut scores: Vec<f32> = (0..100).map(|token| token as f32).collect();
    mask.exclude_others(&mut scores);
    let kept: Vec<usize> = (0..100).filter(|&token| scores[token] > f32::NEG_INFINITY).collect();
    assert_eq!(kept, [0, 31, 32, 69]);
    assert_eq!(mask.tokens().collect::<Vec<_>>(), [0, 31, 32, 69]);
    let vocabulary = &VOCABULARY.1;
    let all = vocabulary.all_but_ends();
    assert_eq!(all.tokens().count() + vocabulary.ends().len(), vocabulary.size());
    assert!(vocabulary.white_space().iter().any(|&(token, length)| token == 256 + 19 && length == 2));
}

#[test]
fn lark_is_taken_as_it_is() {
    let mut matcher =
        compile(&Grammar::of_text("%llguidance {}\nstart: \"a\" list\nlist: \"(\" list \")\" | \"b\""))
            .unwrap();
    matcher.advance_bytes(b"a((b))").unwrap();
    assert!(matcher.must_end());
    let error = compile(&Grammar::Lark("start: \"a\" rest".into())).unwrap_err().to_string();
    assert!(error.contains("rest") && !error.contains('\n'), "{error}");
}

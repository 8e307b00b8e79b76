//! GBNF against a recognizer that tries everything, character by character.

use super::super::characters::Characters;
use super::super::gbnf::{Node, Rules, read};
use super::super::lark::of_gbnf;
use super::*;
use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Where a part that begins at a place may end, and whether all of the text from there can be the beginning of it.
type Found = (BTreeSet<usize>, bool);

struct Recognizer {
    text: Vec<char>,
    known: HashMap<(usize, usize), Found>,
}

impl Recognizer {
    fn judge(rules: &Rules, text: &str) -> (bool, bool) {
        let mut recognizer = Recognizer { text: text.chars().collect(), known: HashMap::new() };
        let places = recognizer.text.len();
        loop {
            let mut grows = false;
            for rule in 0..rules.rules.len() {
                for place in 0..=places {
                    let found = recognizer.of(&rules.rules[rule], place);
                    grows |= recognizer.known.insert((rule, place), found.clone()) != Some(found);
                }
            }
            if !grows {
                let (ends, can_begin) = &recognizer.known[&(rules.root, 0)];
                return (*can_begin, ends.contains(&places));
            }
        }
    }

    fn of(&self, node: &Node, place: usize) -> Found {
        let at_end = place == self.text.len();
        match node {
            Node::Text(text) => {
                let parts: Vec<Node> = text.chars().map(|c| Node::Class(Characters::one(c))).collect();
                self.of(&Node::Sequence(parts), place)
            }
            Node::Class(set) => match self.text.get(place) {
                None => (BTreeSet::new(), true),
                Some(&c) if set.meets(&Characters::one(c)) => {
                    (BTreeSet::from([place + 1]), place + 1 == self.text.len())
                }
                Some(_) => (BTreeSet::new(), false),
            },
            Node::Rule(rule) => self.known.get(&(*rule, place)).cloned().unwrap_or_default(),
            Node::Sequence(items) => {
                items.iter().fold((BTreeSet::from([place]), at_end), |before, item| self.after(before, item))
            }
            Node::Choice(choices) => choices.iter().fold(Found::default(), |mut all, choice| {
                let (ends, can_begin) = self.of(choice, place);
                all.0.extend(ends);
                (all.0, all.1 | can_begin)
            }),
            Node::Repeat(item, least, most) => {
                let mut all = (BTreeSet::new(), at_end);
                let mut now = (BTreeSet::from([place]), at_end);
                for time in 0..=most.unwrap_or(u32::MAX).min(least + 20) {
                    if time >= *least {
                        all.0.extend(&now.0);
                    }
                    if Some(time) == *most {
                        break;
                    }
                    now = self.after((now.0, false), item);
                    all.1 |= now.1;
                }
                all
            }
        }
    }

    fn after(&self, (places, can_begin): Found, item: &Node) -> Found {
        places.iter().fold((BTreeSet::new(), can_begin), |mut all, &place| {
            let (ends, can_begin) = self.of(item, place);
            all.0.extend(ends);
            (all.0, all.1 | can_begin)
        })
    }
}

/// The same for bytes: an unfinished character can become one of those that begin so.
fn judge(rules: &Rules, bytes: &[u8]) -> (bool, bool) {
    const CANDIDATES: &str =
        "üößéÿ¼Ýāſ€ﬁ中🦙𝄞\u{10ffff}àĀ\u{800}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{40000}\u{80000}\u{c0000}";
    match str::from_utf8(bytes) {
        Ok(text) => Recognizer::judge(rules, text),
        Err(error) if error.error_len().is_some() => (false, false),
        Err(error) => {
            let (whole, part) = bytes.split_at(error.valid_up_to());
            let whole = str::from_utf8(whole).unwrap();
            let mut buffer = [0; 4];
            // Every second byte of all kinds, so that a class of all others finds one.
            let more = (0x80..0x11_0000).step_by(64).filter_map(char::from_u32);
            let begins = |c: &char, buffer: &mut [u8; 4]| c.encode_utf8(buffer).as_bytes().starts_with(part);
            let mut found = CANDIDATES.chars().chain(more).filter(|c| begins(c, &mut buffer)).take(5);
            (found.any(|c| Recognizer::judge(rules, &format!("{whole}{c}")).0), false)
        }
    }
}

/// In the words of what people use.
pub(super) const ARITHMETIC: &str = r#"
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] ws term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*   # of any length
"#;
pub(super) const JSON: &str = r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"#;

#[test]
fn grammars_allow_what_can_be_finished() {
    let mut random = Random(2);
    for grammar in [
        ARITHMETIC,
        JSON,
        r#"root ::= "a"* "ab""#,
        r#"root ::= ("a" "bb") | ("ab" "c")"#,
        r#"root ::= "(" root ")" | "a""#,
        r#"root ::= root "," "a" | "a""#,
        r#"root ::= item{2,3} end
           item ::= "a" item? "b"
           end ::= [^ab]? "." | "\u00fc\U0001F999""#,
        "root ::= [^a-y]{1,3} | .",
        "root ::= (\"ü\" root | \"öß\") [🦙]?",
        "root ::= \"\" | ( | \"a\" ) \"b\"{0} nested\r\nnested ::= \"x\"\n\n\n",
        "root ::= a a?\na ::= \"aa\" | \"a\" a \"a\"",
        r#"root ::= pre "ab" | "x" root
           pre ::= "a" pre | "a""#,
        "root ::= [a-b]+ root? \"b\"",
    ] {
        let rules = read(grammar).unwrap();
        let matcher = compile(&Grammar::Gbnf(grammar.into())).unwrap_or_else(|e| panic!("{grammar}: {e}"));
        for _ in 0..2 {
            compare(&matcher, &|text| judge(&rules, text), &mut random, 5);
        }
    }
}

/// Large words are fast; only what greed would cut otherwise is cut small.
#[test]
fn words_are_as_large_as_is_safe() {
    let words =
        |grammar: &str| of_gbnf(grammar).unwrap().lines().filter(|line| line.starts_with('T')).count();
    assert_eq!(
        words(
            r#"root ::= ("a" | "b"{2,4}) end
                        end ::= "." | "!""#
        ),
        1
    );
    assert!(words(JSON) < 15, "{}", of_gbnf(JSON).unwrap());
    assert_eq!(of_gbnf(ARITHMETIC).unwrap().matches("[0-9]").count(), 1);
}

/// Grammars at random, most of them ambiguous to a lexer.
#[test]
fn random_grammars_allow_what_can_be_finished() {
    let mut random = Random(3);
    for _ in 0..40 {
        let rules = 1 + random.below(3);
        let grammar: String = (0..rules)
            .map(|rule| {
                let name = if rule == 0 { "root".into() } else { format!("r{rule}") };
                // Each rule has an end of its own, so every beginning can be finished.
                format!("{name} ::= {} | {}\n", any(&mut random, rules, 0), any(&mut random, rules, 3))
            })
            .collect();
        let rules = read(&grammar).unwrap();
        let matcher = compile(&Grammar::Gbnf(grammar.clone())).unwrap_or_else(|e| panic!("{grammar}: {e}"));
        let text = catch_unwind(AssertUnwindSafe(|| {
            compare(&matcher, &|text| judge(&rules, text), &mut Random(7), 3);
        }));
        assert!(text.is_ok(), "{grammar}\n{}", of_gbnf(&grammar).unwrap());
    }
}

/// Part of a rule; at depth 0 without other rules.
fn any(random: &mut Random, rules: usize, depth: usize) -> String {
    let leaf = ["\"a\"", "\"ab\"", "\"b\"", "[ab]", "\"ba\"", "\"c\""];
    match (depth, random.below(6)) {
        (0, _) | (_, 0) => leaf[random.below(leaf.len())].into(),
        (_, 1) => {
            let other = random.below(rules);
            if other == 0 { "root".into() } else { format!("r{other}") }
        }
        (_, 2) => format!("({} | {})", any(random, rules, depth - 1), any(random, rules, depth - 1)),
        (_, 3) => {
            let times = ["*", "+", "?", "{2}", "{1,2}"][random.below(5)];
            format!("({}){times}", any(random, rules, depth - 1))
        }
        _ => format!("{} {}", any(random, rules, depth - 1), any(random, rules, depth - 1)),
    }
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (grammar, expected) in [
        ("", "no rule `root`"),
        ("a ::= \"x\"", "no rule `root`"),
        ("root ::= b\n", "no rule `b`"),
        ("root ::= \"a\nb ::= \"c\"", "of the grammar: a text without its closing"),
        ("root ::= \"a\"\n\nx = 3", "line 3 of the grammar: expected `::=` after `x`"),
        ("root ::= [a", "closing `]`"),
        ("root ::= [b-a]", "range 'b' to 'a' is empty"),
        ("root ::= []", "without any character"),
        ("root ::= (\"a\"", "expected `)`"),
        ("root ::= \"a\")", "expected the end of the line"),
        ("root ::= *", "nothing stands before `*`"),
        ("root ::= \"a\"{3,2}", "with m ≤ n"),
        ("root ::= \"a\"{}", "with m ≤ n"),
        ("root ::= \"\\q\"", "unknown escape"),
        ("root ::= \"\\u12\"", "4 hexadecimal digits"),
        ("root ::= \"\\uD800\"", "4 hexadecimal digits"),
        ("root ::= <think>", "not supported"),
        ("root ::= \"a\"\nroot ::= \"b\"", "a second rule `root`"),
        ("root ::= \"a\" $", "expected the end of the line"),
    ] {
        let error = compile(&Grammar::Gbnf(grammar.into())).unwrap_err().to_string();
        assert!(error.contains(expected), "{grammar:?}: {error}");
    }
}

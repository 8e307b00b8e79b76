//! Writes GBNF as Lark, whose words are regular expressions that a lexer cuts greedily.
//!
//! What is regular becomes one word, as large as can be, since a token is tried against a word's automaton far faster
//! than against rules. Where greed could cut otherwise than the grammar means (`ambiguity.rs`), words are smaller, at
//! last single characters: slower, and exact.

use super::ambiguity::{Term, is_clear};
use super::characters::literal;
use super::gbnf::{Node, Rules, emptiness, read};
use crate::Result;
use std::collections::HashMap;

/// Bytes of an expression; larger ones stay rules.
const LONGEST: usize = 16 << 10;
/// The empty text.
const NOTHING: &str = "\"\"";

/// A grammar in Lark for one in GBNF.
///
/// # Errors
/// As [`read`].
pub(super) fn of_gbnf(text: &str) -> Result<String> {
    let rules = read(text)?;
    for size in [Size::Run, Size::Item] {
        let mut writer = Writer::new(&rules, size);
        let parts = writer.parts();
        let is_one_word = writer.expression(&Node::Rule(rules.root)).is_some();
        if is_one_word || is_clear(&rules.rules, &writer.words, &parts) {
            return Ok(writer.text(&parts));
        }
    }
    let mut writer = Writer::new(&rules, Size::Character);
    let parts = writer.parts();
    Ok(writer.text(&parts))
}

/// How much a word holds.
#[derive(Clone, Copy, PartialEq)]
enum Size {
    /// All that is regular of a sequence and stands side by side.
    Run,
    /// One item of a sequence.
    Item,
    Character,
}

struct Writer<'r> {
    rules: &'r [Node],
    root: usize,
    size: Size,
    known: Vec<Known>,
    names: HashMap<String, usize>, // of words, by their lines
    lines: Vec<String>,            // of words
    words: Vec<Node>,              // what they are
}

/// What is known of a rule: its expression, where it is regular.
#[derive(Clone)]
enum Known {
    Nothing,
    Begun,
    Regular(String),
    Other,
}

impl<'r> Writer<'r> {
    fn new(rules: &'r Rules, size: Size) -> Self {
        let Rules { root, rules } = rules;
        let known = vec![Known::Nothing; rules.len()];
        Self { rules, root: *root, size, known, names: HashMap::new(), lines: vec![], words: vec![] }
    }

    /// The rules that are needed, the root first, with their numbers.
    fn parts(&mut self) -> Vec<(usize, Term)> {
        let rules = self.rules;
        let (mut wanted, mut is_wanted) = (vec![self.root], vec![false; rules.len()]);
        is_wanted[self.root] = true;
        let mut parts = vec![];
        while let Some(rule) = wanted.pop() {
            let part = self.part(&rules[rule]);
            for_rules(&part, &mut |named| {
                if !std::mem::replace(&mut is_wanted[named], true) {
                    wanted.push(named);
                }
            });
            parts.push((rule, part));
        }
        parts
    }

    fn text(&self, parts: &[(usize, Term)]) -> String {
        let rules = parts.iter().map(|(rule, part)| format!("r{rule}: {}\n", written(part)));
        format!("start: r{}\n{}{}", self.root, rules.collect::<String>(), self.lines.concat())
    }

    /// The expression of a part that is regular and not too long.
    fn expression(&mut self, node: &Node) -> Option<String> {
        let expression = match node {
            // Nothing has a length, too: what grows without bound is found by that.
            Node::Text(text) if text.is_empty() => "(?:)".into(),
            Node::Sequence(items) if items.is_empty() => "(?:)".into(),
            Node::Text(text) => literal(text),
            Node::Class(set) => set.class(),
            Node::Rule(rule) => self.regular(*rule)?,
            Node::Sequence(items) => {
                items.iter().try_fold(String::new(), |all, item| Some(all + &self.expression(item)?))?
            }
            Node::Choice(choices) => {
                let choices: Option<Vec<_>> = choices.iter().map(|choice| self.expression(choice)).collect();
                format!("(?:{})", choices?.join("|"))
            }
            Node::Repeat(item, least, most) => {
                format!("(?:{}){}", self.expression(item)?, times(*least, *most))
            }
        };
        (expression.len() <= LONGEST).then_some(expression)
    }

    /// The expression of a rule: none where it leads to itself, or something in it does.
    fn regular(&mut self, rule: usize) -> Option<String> {
        match &self.known[rule] {
            Known::Regular(expression) => return Some(expression.clone()),
            Known::Begun | Known::Other => return None,
            Known::Nothing => {}
        }
        self.known[rule] = Known::Begun;
        let rules = self.rules;
        let expression = self.expression(&rules[rule]);
        self.known[rule] = expression.clone().map_or(Known::Other, Known::Regular);
        expression
    }

    fn part(&mut self, node: &Node) -> Term {
        if self.is_word(node) {
            return self.word(node);
        }
        match node {
            Node::Rule(rule) => Term::Rule(*rule),
            Node::Text(text) => {
                Term::Sequence(text.chars().map(|c| self.word(&Node::Text(c.into()))).collect())
            }
            Node::Class(_) => self.word(node),
            Node::Sequence(items) => {
                Term::Sequence(self.joined(items).iter().map(|item| self.part(item)).collect())
            }
            Node::Choice(choices) if self.size != Size::Character => {
                let (regular, mut others): (Vec<Node>, Vec<Node>) =
                    choices.iter().cloned().partition(|choice| self.is_word(choice));
                let together = Node::Choice(regular);
                match (together, &mut others) {
                    (Node::Choice(none), _) if none.is_empty() => {}
                    (together, others) if self.is_word(&together) => others.push(together),
                    (Node::Choice(regular), others) => others.extend(regular),
                    _ => {}
                }
                Term::Choice(others.iter().map(|choice| self.part(choice)).collect())
            }
            Node::Choice(choices) => Term::Choice(choices.iter().map(|choice| self.part(choice)).collect()),
            Node::Repeat(_, _, Some(0)) => Term::Sequence(vec![]),
            Node::Repeat(item, least, most) => Term::Repeat(Box::new(self.part(item)), *least, *most),
        }
    }

    /// Items, with those side by side that make one word as one.
    fn joined(&mut self, items: &[Node]) -> Vec<Node> {
        if self.size != Size::Run {
            return items.to_vec();
        }
        let mut joined: Vec<Node> = vec![];
        let (mut run, mut length): (Vec<Node>, usize) = (vec![], 0);
        for item in items {
            let own = self.expression(item).map(|expression| expression.len());
            if own.is_none_or(|own| length + own > LONGEST) && !run.is_empty() {
                joined.push(Node::Sequence(std::mem::take(&mut run)));
                length = 0;
            }
            match own {
                Some(own) => {
                    run.push(item.clone());
                    length += own;
                }
                None => joined.push(item.clone()),
            }
        }
        joined.extend((!run.is_empty()).then_some(Node::Sequence(run)));
        joined
    }

    fn is_word(&mut self, node: &Node) -> bool {
        match (self.size, node) {
            (Size::Character, Node::Text(text)) => text.chars().count() == 1,
            (Size::Character, node) => matches!(node, Node::Class(_)),
            (Size::Item, Node::Sequence(items)) if items.len() > 1 => false,
            (_, node) => self.expression(node).is_some(),
        }
    }

    /// The word that is this part; a word holds at least one character, so the empty text is said beside it.
    fn word(&mut self, node: &Node) -> Term {
        let expression = self.expression(node).unwrap_or_default();
        let (can_be_empty, is_empty) = emptiness(node, self.rules);
        if is_empty {
            return Term::Sequence(vec![]);
        }
        let bound = if can_be_empty { " & /(?s:.)+/" } else { "" };
        let line = format!("/{expression}/{bound}\n");
        let next = self.words.len();
        let number = *self.names.entry(line.clone()).or_insert(next);
        if number == next {
            self.lines.push(format!("T{number}: {line}"));
            self.words.push(node.clone());
        }
        let word = Term::Word(number);
        if can_be_empty { Term::Repeat(Box::new(word), 0, Some(1)) } else { word }
    }
}

fn for_rules(part: &Term, each: &mut impl FnMut(usize)) {
    match part {
        Term::Word(_) => {}
        Term::Rule(rule) => each(*rule),
        Term::Sequence(parts) | Term::Choice(parts) => parts.iter().for_each(|part| for_rules(part, each)),
        Term::Repeat(part, ..) => for_rules(part, each),
    }
}

/// A part as it stands in a rule of Lark.
fn written(part: &Term) -> String {
    let all = |parts: &[Term], between: &str| parts.iter().map(written).collect::<Vec<_>>().join(between);
    match part {
        Term::Word(word) => format!("T{word}"),
        Term::Rule(rule) => format!("r{rule}"),
        Term::Sequence(parts) if parts.is_empty() => NOTHING.into(),
        Term::Sequence(parts) => all(parts, " "),
        Term::Choice(parts) => format!("({})", all(parts, " | ")),
        Term::Repeat(part, least, most) => format!("({}){}", written(part), times(*least, *most)),
    }
}

fn times(least: u32, most: Option<u32>) -> String {
    match (least, most) {
        (0, None) => "*".into(),
        (1, None) => "+".into(),
        (0, Some(1)) => "?".into(),
        (least, None) => format!("{{{least},}}"),
        (least, Some(most)) => format!("{{{least},{most}}}"),
    }
}

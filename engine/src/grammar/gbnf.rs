//! Reads GBNF, llama.cpp's notation: rules `name ::= …` of texts, classes, names, groups, `|` and repetitions.
//!
//! What it has beyond that (single tokens of a vocabulary) is refused by name. Rules may refer to each other in any way.

use super::characters::Characters;
use super::{DEEPEST, too_deep};
use crate::{Error, Result};
use std::collections::HashMap;

/// Where a grammar begins.
const ROOT: &str = "root";

/// A part of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    Class(Characters),
    Rule(usize),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    /// At least so often, and at most.
    Repeat(Box<Node>, u32, Option<u32>),
}

/// Rules by number.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) root: usize,
    pub(super) rules: Vec<Node>,
}

/// Reads a grammar.
///
/// # Errors
/// With the line of what is wrong.
pub(super) fn read(text: &str) -> Result<Rules> {
    let mut reader = Reader { rest: text, text, names: HashMap::new(), rules: vec![], depth: 0 };
    reader.skip(true);
    while !reader.rest.is_empty() {
        reader.rule()?;
    }
    let Reader { names, rules, .. } = reader;
    let root = *names.get(ROOT).ok_or_else(|| Error::request("the grammar has no rule `root`"))?;
    let mut named: Vec<(&str, usize)> = names.iter().map(|(name, &number)| (&**name, number)).collect();
    named.sort_by_key(|entry| entry.1);
    let missing = named.iter().find(|(_, number)| rules[*number].is_none());
    if let Some((name, _)) = missing {
        return Err(Error::request(format!("the grammar has no rule `{name}`, which it names")));
    }
    Ok(Rules { root, rules: rules.into_iter().flatten().collect() })
}

/// Whether a regular part can be the empty text, and whether it can be nothing else.
pub(super) fn emptiness(node: &Node, rules: &[Node]) -> (bool, bool) {
    let each = |nodes: &[Node]| nodes.iter().map(|node| emptiness(node, rules)).collect::<Vec<_>>();
    match node {
        Node::Text(text) => (text.is_empty(), text.is_empty()),
        Node::Class(_) => (false, false),
        Node::Rule(rule) => emptiness(&rules[*rule], rules),
        Node::Sequence(items) => {
            let items = each(items);
            (items.iter().all(|item| item.0), items.iter().all(|item| item.1))
        }
        Node::Choice(choices) => {
            let choices = each(choices);
            (choices.iter().any(|choice| choice.0), choices.iter().all(|choice| choice.1))
        }
        Node::Repeat(item, least, most) => {
            let (can_be, is) = emptiness(item, rules);
            (can_be || *least == 0, is || *most == Some(0))
        }
    }
}

struct Reader<'g> {
    text: &'g str,
    rest: &'g str,
    names: HashMap<String, usize>,
    rules: Vec<Option<Node>>,
    depth: usize,
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

impl<'g> Reader<'g> {
    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        let line = self.text[..self.text.len() - self.rest.len()].matches('\n').count() + 1;
        Error::request(format!("line {line} of the grammar: {what}"))
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn takes(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// White space and comments, with or without the ends of lines.
    fn skip(&mut self, lines: bool) {
        loop {
            let is_blank = |c: char| c == ' ' || c == '\t' || lines && (c == '\n' || c == '\r');
            self.rest = self.rest.trim_start_matches(is_blank);
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.find(['\n', '\r']).map_or("", |end| &self.rest[end..]);
        }
    }

    /// A name, or nothing.
    fn name(&mut self) -> &'g str {
        let end = self.rest.find(|c| !is_of_name(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name
    }

    /// The number of a rule that is called so.
    fn number(&mut self, name: &str) -> usize {
        let number = *self.names.entry(name.to_owned()).or_insert(self.rules.len());
        if number == self.rules.len() {
            self.rules.push(None);
        }
        number
    }

    fn rule(&mut self) -> Result<()> {
        let name = self.name();
        if name.is_empty() {
            return Err(self.wrong("expected the name of a rule"));
        }
        self.skip(false);
        if !self.takes("::=") {
            return Err(self.wrong(format!("expected `::=` after `{name}`")));
        }
        self.skip(true);
        let node = self.choice(false)?;
        if !self.rest.is_empty() && !self.rest.starts_with(['\n', '\r']) {
            return Err(self.wrong("expected the end of the line"));
        }
        let number = self.number(name);
        if self.rules[number].replace(node).is_some() {
            return Err(self.wrong(format!("a second rule `{name}`")));
        }
        self.skip(true);
        Ok(())
    }

    fn choice(&mut self, in_group: bool) -> Result<Node> {
        let mut choices = vec![self.sequence(in_group)?];
        while self.takes("|") {
            self.skip(true);
            choices.push(self.sequence(in_group)?);
        }
        Ok(if choices.len() == 1 { choices.remove(0) } else { Node::Choice(choices) })
    }

    fn sequence(&mut self, in_group: bool) -> Result<Node> {
        let mut items = vec![];
        while let Some(c) = self.peek() {
            let item = match c {
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.take();
                    Node::Class(Characters::all())
                }
                '(' => self.group()?,
                '*' | '+' | '?' | '{' => {
                    let item =
                        items.pop().ok_or_else(|| self.wrong(format!("nothing stands before `{c}`")))?;
                    let (least, most) = self.times()?;
                    Node::Repeat(Box::new(item), least, most)
                }
                '<' | '!' => return Err(self.wrong("single tokens (`<…>`) are not supported")),
                c if is_of_name(c) => {
                    let name = self.name();
                    Node::Rule(self.number(name))
                }
                _ => break,
            };
            items.push(item);
            self.skip(in_group);
        }
        Ok(if items.len() == 1 { items.remove(0) } else { Node::Sequence(items) })
    }

    fn group(&mut self) -> Result<Node> {
        self.take();
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(too_deep("the grammar"));
        }
        self.skip(true);
        let node = self.choice(true)?;
        if !self.takes(")") {
            return Err(self.wrong("expected `)`"));
        }
        self.depth -= 1;
        Ok(node)
    }

    fn literal(&mut self) -> Result<Node> {
        self.take();
        let mut text = String::new();
        loop {
            match self.take() {
                Some('"') => return Ok(Node::Text(text)),
                Some('\\') => text.push(self.escape()?),
                Some('\n' | '\r') | None => return Err(self.wrong("a text without its closing `\"`")),
                Some(c) => text.push(c),
            }
        }
    }

    fn class(&mut self) -> Result<Node> {
        self.take();
        let is_inverted = self.takes("^");
        let mut ranges = vec![];
        while !self.takes("]") {
            let first = self.of_class()?;
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            let last = if is_range {
                self.take();
                self.of_class()?
            } else {
                first
            };
            if last < first {
                return Err(self.wrong(format!("the range {first:?} to {last:?} is empty")));
            }
            ranges.push((first, last));
        }
        let set = Characters::new(ranges);
        let set = if is_inverted { set.inverted() } else { set };
        if set == Characters::default() {
            return Err(self.wrong("a class without any character"));
        }
        Ok(Node::Class(set))
    }

    fn of_class(&mut self) -> Result<char> {
        match self.take() {
            Some('\\') => self.escape(),
            Some('\n' | '\r') | None => Err(self.wrong("a class without its closing `]`")),
            Some(c) => Ok(c),
        }
    }

    fn escape(&mut self) -> Result<char> {
        let digits = match self.take() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c) if c.is_ascii_punctuation() => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => {
                return Err(
                    self.wrong("an unknown escape; known are \\n \\r \\t \\\\ \\\" \\[ \\] \\x \\u \\U")
                );
            }
        };
        let code = self.rest.get(..digits).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let c = code.and_then(char::from_u32);
        let c = c.ok_or_else(|| self.wrong(format!("expected a character's {digits} hexadecimal digits")))?;
        self.rest = &self.rest[digits..];
        Ok(c)
    }

    /// How often something comes.
    fn times(&mut self) -> Result<(u32, Option<u32>)> {
        match self.take() {
            Some('*') => return Ok((0, None)),
            Some('+') => return Ok((1, None)),
            Some('?') => return Ok((0, Some(1))),
            _ => {}
        }
        self.skip(true);
        let least = self.count();
        self.skip(true);
        let is_range = self.takes(",");
        self.skip(true);
        let most = if is_range { self.count() } else { least };
        self.skip(true);
        let is_right = self.takes("}") && (least.is_some() || most.is_some());
        let least = least.unwrap_or(0);
        if !is_right || most.is_some_and(|most| most < least) || most.or(Some(least)) > Some(i32::MAX as u32)
        {
            return Err(self.wrong("expected `{m}`, `{m,}`, `{,n}` or `{m,n}` with m ≤ n"));
        }
        Ok((least, most))
    }

    fn count(&mut self) -> Option<u32> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        digits.parse().ok()
    }
}

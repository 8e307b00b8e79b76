//! A pickle reader that runs nothing: opcodes build a tree of plain values, and what Python would import or call
//! becomes a named, inert node. Protocols 0 to 5 without extensions and out-of-band buffers.
//!
//! Every opcode is at least one byte and makes at most one node, strings stay in the input, and the memo holds
//! numbers of nodes: memory is bounded by the length of the input. Nodes may be shared and may form cycles, so
//! whoever walks the tree counts its steps.

use moewe_engine::{Error, Result};
use std::collections::HashMap;

/// Most nodes of one pickle; a checkpoint has a few dozen per tensor.
const MAX_NODES: usize = 4 << 20;

/// Number of a node.
pub type Id = usize;

/// A value of the pickle.
#[derive(Clone, Debug, PartialEq)]
pub enum Node<'a> {
    /// None, and whatever has no meaning for us (sets, bytes that need escapes).
    Nothing,
    /// True or False.
    Bool(bool),
    /// An integer of up to 64 bits.
    Int(i64),
    /// A float.
    Float(f64),
    /// Text; bytes that are not UTF-8 are not text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A list.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dictionary (also `OrderedDict`), in order.
    Dict(Vec<(Id, Id)>),
    /// What Python would import: module and name.
    Global(&'a str, &'a str),
    /// What Python would create by calling `class` with `args`; `state` is what it would then store in it.
    Object {
        /// A [`Node::Global`], or anything a hostile file puts there.
        class: Id,
        /// Arguments, usually a tuple.
        args: Id,
        /// Attributes, usually a dictionary.
        state: Option<Id>,
    },
    /// A reference that only the container of the pickle can resolve (PyTorch: a storage).
    Persistent(Id),
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    /// The value of the whole pickle.
    pub root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads one pickle.
    ///
    /// # Errors
    /// Anything that is not a complete pickle of the supported opcodes; the message names the byte.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: vec![Node::Nothing],
            stack: vec![],
            marks: vec![],
            memo: HashMap::new(),
        };
        loop {
            let start = machine.at;
            let op = machine.byte()?;
            if op == b'.' {
                let root = machine.pop()?;
                return Ok(Self { nodes: machine.nodes, root });
            }
            machine.step(op).map_err(|e| at_byte(e, start, op))?;
        }
    }

    /// The value of a number that came from this pickle.
    pub fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id]
    }

    /// The text of a node.
    pub fn text(&self, id: Id) -> Option<&'a str> {
        if let Node::Text(text) = self.node(id) { Some(text) } else { None }
    }

    /// The integer of a node, zero or more.
    pub fn size(&self, id: Id) -> Option<u64> {
        if let Node::Int(value) = self.node(id) { u64::try_from(*value).ok() } else { None }
    }

    /// The members of a list or tuple.
    pub fn items(&self, id: Id) -> Option<&[Id]> {
        if let Node::List(items) | Node::Tuple(items) = self.node(id) { Some(items) } else { None }
    }

    /// The entries of a dictionary, or of the attributes of an object.
    pub fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.node(id) {
            Node::Dict(entries) => Some(entries),
            Node::Object { state: Some(state), .. } => match self.node(*state) {
                Node::Dict(entries) => Some(entries),
                _ => None,
            },
            _ => None,
        }
    }

    /// The value of a text key; the last one wins, as in Python.
    pub fn get(&self, id: Id, key: &str) -> Option<Id> {
        self.entries(id)?.iter().rev().find(|(k, _)| self.text(*k) == Some(key)).map(|&(_, value)| value)
    }

    /// The name of the class of an object, without its module.
    pub fn class(&self, id: Id) -> Option<&'a str> {
        let Node::Object { class, .. } = self.node(id) else { return None };
        if let Node::Global(_, name) = self.node(*class) { Some(name) } else { None }
    }
}

fn at_byte(error: Error, at: usize, op: u8) -> Error {
    match error {
        Error::Malformed { expected, found, .. } => {
            Error::malformed(format!("pickle, byte {at}, opcode 0x{op:02x}"), expected, found)
        }
        other => other,
    }
}

fn wrong(expected: &str, found: impl ToString) -> Error {
    Error::malformed("pickle", expected, found)
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>, // node 0 is None
    stack: Vec<Id>,
    marks: Vec<usize>, // heights of the stack
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let count = usize::try_from(count).ok().filter(|&count| count <= rest.len());
        let count = count.ok_or_else(|| wrong("data within the pickle", "its end"))?;
        self.at += count;
        Ok(&rest[..count])
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of `N` bytes.
    fn number<const N: usize>(&mut self) -> Result<u64> {
        let mut wide = [0u8; 8];
        wide[..N].copy_from_slice(self.take(N as u64)?);
        Ok(u64::from_le_bytes(wide))
    }

    /// The text up to the end of the line.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| wrong("a line", "the end"))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|e| wrong("UTF-8", e))
    }

    fn text(&mut self, count: u64) -> Result<&'a str> {
        std::str::from_utf8(self.take(count)?).map_err(|e| wrong("UTF-8", e))
    }

    fn add(&mut self, node: Node<'a>) -> Result<Id> {
        if self.nodes.len() >= MAX_NODES {
            return Err(wrong("at most 4 million values", "more"));
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        let id = if node == Node::Nothing { 0 } else { self.add(node)? };
        self.stack.push(id);
        Ok(())
    }

    /// Takes the top value; values below the last mark belong to whoever set it.
    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(wrong("a value on the stack", "none"));
        }
        self.stack.pop().ok_or_else(|| wrong("a value on the stack", "none"))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| wrong("a value on the stack", "none"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| wrong("a mark", "none"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn step(&mut self, op: u8) -> Result<()> {
        match op {
            0x80 => self.protocol(),
            0x95 => self.take(8).map(|_| ()), // frame length: frames do not nest and mean nothing here
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(|_| ()),
            b'1' => self.pop_mark().map(|_| ()),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'N' | 0x88 | 0x89 | b'I' | b'L' | b'J' | b'K' | b'M' | 0x8a | 0x8b | b'F' | b'G' => {
                self.scalar(op)
            }
            b'S' | b'T' | b'U' | b'V' | b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => self.string(op),
            b']' | b')' | b'}' | 0x8f | b'l' | b't' | b'd' | 0x91 | 0x85..=0x87 => self.collection(op),
            b'a' | b'e' | b's' | b'u' | 0x90 => self.extend(op),
            b'g' | b'h' | b'j' | b'p' | b'q' | b'r' | 0x94 => self.memo(op),
            b'c' | 0x93 | b'R' | b'b' | 0x81 | 0x92 | b'i' | b'o' | b'P' | b'Q' => self.object(op),
            _ => Err(wrong("an opcode of protocols 0 to 5 without extensions", format!("0x{op:02x}"))),
        }
    }

    fn protocol(&mut self) -> Result<()> {
        match self.byte()? {
            0..=5 => Ok(()),
            version => Err(wrong("protocol 0 to 5", version)),
        }
    }

    fn scalar(&mut self, op: u8) -> Result<()> {
        let node = match op {
            b'N' => Node::Nothing,
            0x88 => Node::Bool(true),
            0x89 => Node::Bool(false),
            b'I' => match self.line()? {
                "00" => Node::Bool(false),
                "01" => Node::Bool(true),
                text => Node::Int(parse_int(text)?),
            },
            b'L' => Node::Int(parse_int(self.line()?)?),
            b'J' => Node::Int(self.number::<4>()? as u32 as i32 as i64),
            b'K' => Node::Int(self.number::<1>()? as i64),
            b'M' => Node::Int(self.number::<2>()? as i64),
            0x8a => {
                let count = self.number::<1>()?;
                long(self.take(count)?)
            }
            0x8b => {
                let count = self.number::<4>()?;
                long(self.take(count)?)
            }
            b'F' => Node::Float(self.line()?.trim().parse().map_err(|e| wrong("a number", e))?),
            _ => Node::Float(f64::from_bits(self.number::<8>()?.swap_bytes())),
        };
        self.push(node)
    }

    fn string(&mut self, op: u8) -> Result<()> {
        let node = match op {
            b'S' => quoted(self.line()?),
            b'V' => unescaped(self.line()?),
            b'T' | b'B' => {
                let count = self.number::<4>()?;
                bytes(self.take(count)?, op == b'T')
            }
            b'U' | b'C' => {
                let count = self.number::<1>()?;
                bytes(self.take(count)?, op == b'U')
            }
            b'X' => {
                let count = self.number::<4>()?;
                Node::Text(self.text(count)?)
            }
            0x8c => {
                let count = self.number::<1>()?;
                Node::Text(self.text(count)?)
            }
            0x8d => {
                let count = self.number::<8>()?;
                Node::Text(self.text(count)?)
            }
            _ => {
                let count = self.number::<8>()?;
                Node::Bytes(self.take(count)?)
            }
        };
        self.push(node)
    }

    fn collection(&mut self, op: u8) -> Result<()> {
        let node = match op {
            b']' => Node::List(vec![]),
            b')' => Node::Tuple(vec![]),
            b'}' => Node::Dict(vec![]),
            0x8f => Node::List(vec![]),
            b'l' | 0x91 => Node::List(self.pop_mark()?),
            b't' => Node::Tuple(self.pop_mark()?),
            b'd' => Node::Dict(pairs(&self.pop_mark()?)?),
            _ => {
                let mut items = (0x85..=op).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
                items.reverse();
                Node::Tuple(items)
            }
        };
        self.push(node)
    }

    fn extend(&mut self, op: u8) -> Result<()> {
        let items = match op {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::List(list) if matches!(op, b'a' | b'e' | 0x90) => list.extend(items),
            Node::Dict(dict) if matches!(op, b's' | b'u') => dict.extend(pairs(&items)?),
            // A class of its own that behaves like a list or dictionary: what it holds is none of our business.
            Node::Object { .. } => {}
            _ => return Err(wrong("a collection to add to", "something else")),
        }
        Ok(())
    }

    fn memo(&mut self, op: u8) -> Result<()> {
        let key = match op {
            b'h' | b'q' => self.number::<1>()?,
            b'j' | b'r' => self.number::<4>()?,
            0x94 => self.memo.len() as u64,
            _ => u64::try_from(parse_int(self.line()?)?).map_err(|e| wrong("a memo number", e))?,
        };
        if matches!(op, b'g' | b'h' | b'j') {
            let id =
                *self.memo.get(&key).ok_or_else(|| wrong("a memorised value", format!("none at {key}")))?;
            self.stack.push(id);
        } else {
            let top = self.top()?;
            self.memo.insert(key, top);
        }
        Ok(())
    }

    fn object(&mut self, op: u8) -> Result<()> {
        match op {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Global(module, name))
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.nodes[module], &self.nodes[name]) {
                    (&Node::Text(module), &Node::Text(name)) => self.push(Node::Global(module, name)),
                    _ => Err(wrong("two texts", "something else")),
                }
            }
            b'b' => self.build(),
            b'P' => {
                let key = self.line()?;
                let id = self.add(Node::Text(key))?;
                self.push(Node::Persistent(id))
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))
            }
            _ => self.call(op),
        }
    }

    /// What Python would call or create: a node that says so. `OrderedDict` is a dictionary to us.
    fn call(&mut self, op: u8) -> Result<()> {
        let (class, args) = match op {
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let args = Node::Tuple(self.pop_mark()?);
                (self.add(Node::Global(module, name))?, self.add(args)?)
            }
            b'o' => {
                let mut items = self.pop_mark()?;
                if items.is_empty() {
                    return Err(wrong("a class", "none"));
                }
                let class = items.remove(0);
                (class, self.add(Node::Tuple(items))?)
            }
            0x92 => {
                let _keywords = self.pop()?;
                let args = self.pop()?;
                (self.pop()?, args)
            }
            _ => {
                let args = self.pop()?;
                (self.pop()?, args)
            }
        };
        if self.nodes[class] == Node::Global("collections", "OrderedDict") {
            let entries = self.ordered_pairs(args);
            return self.push(Node::Dict(entries));
        }
        self.push(Node::Object { class, args, state: None })
    }

    /// The arguments of `OrderedDict([(key, value), …])`, which protocols 0 and 1 write; usually none.
    fn ordered_pairs(&self, args: Id) -> Vec<(Id, Id)> {
        let members = |id: Id| match &self.nodes[id] {
            Node::List(items) | Node::Tuple(items) => items.as_slice(),
            _ => &[],
        };
        let Some(&list) = members(args).first() else { return vec![] };
        let pair = |&item: &Id| if let [key, value] = *members(item) { Some((key, value)) } else { None };
        members(list).iter().filter_map(pair).collect()
    }

    fn build(&mut self) -> Result<()> {
        let new = self.pop()?;
        let top = self.top()?;
        // Attributes of a dictionary (`_metadata` of a state dict) say nothing that we need.
        if let Node::Object { state, .. } = &mut self.nodes[top] {
            *state = Some(new);
        }
        Ok(())
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(wrong("keys with values", "a key without one"));
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}

fn parse_int(text: &str) -> Result<i64> {
    text.trim().trim_end_matches('L').parse().map_err(|e| wrong("an integer", e))
}

/// A little-endian integer in two's complement; beyond 64 bits (hashes, random seeds) it is nothing to us.
fn long(bytes: &[u8]) -> Node<'static> {
    if bytes.len() > 8 {
        return Node::Nothing;
    }
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(wide))
}

/// Python 2 wrote text as bytes: text where it is UTF-8.
fn bytes(bytes: &[u8], may_be_text: bool) -> Node<'_> {
    match std::str::from_utf8(bytes) {
        Ok(text) if may_be_text => Node::Text(text),
        _ => Node::Bytes(bytes),
    }
}

fn quoted(line: &str) -> Node<'_> {
    let inner = line.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    let inner = inner.or_else(|| line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')));
    inner.map_or(Node::Nothing, unescaped)
}

/// Escaped text would need memory of its own and does not occur in names of tensors.
fn unescaped(text: &str) -> Node<'_> {
    if text.contains('\\') { Node::Nothing } else { Node::Text(text) }
}

#[cfg(test)]
#[path = "pickle_tests.rs"]
mod tests;

//! Where the fields of a sound GGUF file are, so that a mutation hits a count or a length and not padding.
//!
//! A second, naive reader: it trusts the file, because the file comes from our own writer.

/// What a field means; mutations choose a kind first, so that rare kinds are hit as often as common ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Magic,
    Version,
    TensorCount,
    EntryCount,
    Length,
    Key,
    ValueType,
    Number,
    Text,
    ElementType,
    ArrayCount,
    Element,
    Name,
    DimensionCount,
    Size,
    TensorType,
    Offset,
    Weights,
}

/// Some bytes with one meaning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// All fields of `file`, in order; weights are one field each 64 bytes.
pub(crate) fn fields(file: &[u8]) -> Vec<Field> {
    let mut walker = Walker { file, position: 0, fields: Vec::new() };
    walker.field(Kind::Magic, 4);
    walker.field(Kind::Version, 4);
    let tensors = walker.number(Kind::TensorCount, 8);
    let entries = walker.number(Kind::EntryCount, 8);
    for _ in 0..entries {
        walker.text(Kind::Key);
        let kind = walker.number(Kind::ValueType, 4);
        walker.value(kind);
    }
    for _ in 0..tensors {
        walker.text(Kind::Name);
        for _ in 0..walker.number(Kind::DimensionCount, 4) {
            walker.field(Kind::Size, 8);
        }
        walker.field(Kind::TensorType, 4);
        walker.field(Kind::Offset, 8);
    }
    while walker.position < file.len() {
        walker.field(Kind::Weights, 64.min(file.len() - walker.position));
    }
    walker.fields
}

struct Walker<'a> {
    file: &'a [u8],
    position: usize,
    fields: Vec<Field>,
}

impl Walker<'_> {
    fn field(&mut self, kind: Kind, len: usize) {
        self.fields.push(Field { kind, start: self.position, len });
        self.position += len;
    }

    fn number(&mut self, kind: Kind, len: usize) -> u64 {
        let start = self.position;
        self.field(kind, len);
        self.file[start..start + len].iter().rev().fold(0, |number, &byte| number << 8 | byte as u64)
    }

    fn text(&mut self, kind: Kind) {
        let len = self.number(Kind::Length, 8);
        self.field(kind, len as usize);
    }

    fn value(&mut self, kind: u64) {
        match kind {
            8 => self.text(Kind::Text),
            9 => {
                let kind = self.number(Kind::ElementType, 4);
                for _ in 0..self.number(Kind::ArrayCount, 8) {
                    match kind {
                        8 => self.text(Kind::Element),
                        9 => self.value(9),
                        _ => self.field(Kind::Element, width(kind)),
                    }
                }
            }
            _ => self.field(Kind::Number, width(kind)),
        }
    }
}

/// Bytes of a number or bool.
fn width(kind: u64) -> usize {
    match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        _ => 8,
    }
}

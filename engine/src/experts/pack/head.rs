//! The head of a side file: of which model it is, and where each layer's experts are. Untrusted until it was parsed.
//!
//! Little endian: magic, version, length of the head, digest of the model's tensor directory, numbers of parts and layers;
//! per part its length and time of change; per layer the number of experts, how each matrix lies, where the first expert
//! begins and how far apart they are; a digest of all of it; zeros up to the length of the head.

use super::super::slots::{ALIGNMENT, SlotShape, Which};
use super::super::{ExpertLayer, Layers};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::kernels::Layout;
use crate::simd::Isa;
use std::time::UNIX_EPOCH;

const MAGIC: [u8; 8] = *b"MOEWEXPT";
const VERSION: u32 = 1;
/// Bytes of the fixed part, of a part of the model, of a layer, and of the digest at the end.
const FIXED: u64 = 8 + 4 + 4 + 8 + 4 + 4;
const PART: u64 = 8 + 8 + 4;
const LAYER: u64 = 4 + 4 + 8 + 8;
const DIGEST: u64 = 8;

/// What a side file was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) digest: u64, // of the tensor directory
    pub(super) parts: Vec<PartFacts>,
}

/// A file of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartFacts {
    len: u64,
    seconds: u64, // of its last change
    nanoseconds: u32,
}

/// How a layer's experts lie in the side file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// 0 for a dense layer.
    pub(super) experts: u32,
    /// Of gate, up and down.
    pub(super) layouts: [Lies; 3],
    /// Where the first expert begins.
    pub(super) start: u64,
    /// From one expert to the next: a slot.
    pub(super) stride: u64,
}

/// How a matrix lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lies {
    Missing,
    Rows,
    Panels,
}

impl Lies {
    const ALL: [Lies; 3] = [Lies::Missing, Lies::Rows, Lies::Panels];
}

/// The head of a side file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub(super) origin: Origin,
    pub(super) layers: Vec<Packed>,
}

impl Origin {
    /// # Errors
    /// When the system does not tell when a file was changed, or the model is not in files.
    pub(super) fn of(gguf: &Gguf) -> Result<Self> {
        let mut digest = Fnv::default();
        for tensor in gguf.tensors() {
            digest.add(tensor.name.as_bytes());
            digest.add(tensor.format.name.as_bytes());
            tensor.shape.iter().for_each(|size| digest.add(&size.to_le_bytes()));
            let (_, position) =
                gguf.bytes(tensor).file_position().map(|(_, at)| ((), at)).unwrap_or_default();
            digest.add(&position.to_le_bytes());
        }
        let parts = gguf.parts().iter().map(|part| {
            let Some((mapping, _)) = part.file_position() else {
                return Err(Error::request("a model in memory has no file to lie beside"));
            };
            let io = |e| Error::io(mapping.path(), "read the time of change", e);
            let status = mapping.file().metadata().map_err(io)?;
            let changed = status.modified().map_err(io)?.duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(PartFacts {
                len: status.len(),
                seconds: changed.as_secs(),
                nanoseconds: changed.subsec_nanos(),
            })
        });
        Ok(Self { digest: digest.0, parts: parts.collect::<Result<_>>()? })
    }
}

impl Head {
    /// The head that a model's side file has where such kernels compute.
    ///
    /// # Errors
    /// As [`Origin::of`].
    pub(super) fn of(gguf: &Gguf, layers: &Layers, isa: Isa) -> Result<Self> {
        let origin = Origin::of(gguf)?;
        let mut head = Self { origin, layers: vec![] };
        let mut start = length(head.origin.parts.len() as u64, layers.len() as u64);
        for layer in layers {
            let packed = layer.as_ref().map(|layer| packed(layer, isa, start));
            let packed =
                packed.unwrap_or(Packed { experts: 0, layouts: [Lies::Missing; 3], start, stride: 0 });
            start += u64::from(packed.experts) * packed.stride;
            head.layers.push(packed);
        }
        Ok(head)
    }

    /// Bytes of the head.
    pub(super) fn len(&self) -> u64 {
        length(self.origin.parts.len() as u64, self.layers.len() as u64)
    }

    /// Bytes of the whole file.
    pub fn file_len(&self) -> u64 {
        let ends = self.layers.iter().map(|layer| layer.start + u64::from(layer.experts) * layer.stride);
        ends.max().unwrap_or(0).max(self.len())
    }

    /// The bytes of the head.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let number = |bytes: &mut Vec<u8>, number: u64| bytes.extend_from_slice(&number.to_le_bytes());
        let small = |bytes: &mut Vec<u8>, number: u32| bytes.extend_from_slice(&number.to_le_bytes());
        small(&mut bytes, VERSION);
        small(&mut bytes, self.len() as u32);
        number(&mut bytes, self.origin.digest);
        small(&mut bytes, self.origin.parts.len() as u32);
        small(&mut bytes, self.layers.len() as u32);
        for part in &self.origin.parts {
            number(&mut bytes, part.len);
            number(&mut bytes, part.seconds);
            small(&mut bytes, part.nanoseconds);
        }
        for layer in &self.layers {
            small(&mut bytes, layer.experts);
            bytes.extend(layer.layouts.map(|lies| lies as u8));
            bytes.push(0);
            number(&mut bytes, layer.start);
            number(&mut bytes, layer.stride);
        }
        let mut digest = Fnv::default();
        digest.add(&bytes);
        number(&mut bytes, digest.0);
        bytes.resize(self.len() as usize, 0);
        bytes
    }

    /// Reads the head of a side file whose bytes these are.
    ///
    /// # Errors
    /// Where it is none, is damaged, or says what the file does not have.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let mut reader = Reader { file, at: 0 };
        if reader.bytes("magic")? != MAGIC {
            return Err(wrong("a file of packed experts", "another beginning"));
        }
        let version = reader.small()?;
        if version != VERSION {
            return Err(wrong(format!("version {VERSION}"), format!("version {version}")));
        }
        let len = u64::from(reader.small()?);
        let digest = reader.number()?;
        let (parts, layers) = (u64::from(reader.small()?), u64::from(reader.small()?));
        if length(parts, layers) != len || len > file.len() as u64 {
            return Err(wrong(
                format!("a head of {len} bytes"),
                format!("{parts} parts and {layers} layers"),
            ));
        }
        let part = |reader: &mut Reader| {
            Ok(PartFacts { len: reader.number()?, seconds: reader.number()?, nanoseconds: reader.small()? })
        };
        let parts = (0..parts).map(|_| part(&mut reader)).collect::<Result<_>>()?;
        let layers = (0..layers).map(|_| layer(&mut reader)).collect::<Result<_>>()?;
        let mut found = Fnv::default();
        found.add(&file[..reader.at]);
        if reader.number()? != found.0 {
            return Err(wrong("a head that is whole", "another digest: it is damaged"));
        }
        Ok(Self { origin: Origin { digest, parts }, layers })
    }
}

fn packed(layer: &ExpertLayer, isa: Isa, start: u64) -> Packed {
    let lies = |which: Which| match which.of(layer).map(|stack| Layout::of(isa, stack.format)) {
        None => Lies::Missing,
        Some(Layout::Rows) => Lies::Rows,
        Some(Layout::Panels) => Lies::Panels,
    };
    let (experts, stride) = (layer.expert_count() as u32, SlotShape::of(layer).len() as u64);
    Packed { experts, layouts: Which::ALL.map(lies), start, stride }
}

/// Bytes of a head with so many parts and layers.
fn length(parts: u64, layers: u64) -> u64 {
    (FIXED + parts * PART + layers * LAYER + DIGEST).next_multiple_of(ALIGNMENT as u64)
}

fn layer(reader: &mut Reader) -> Result<Packed> {
    let experts = reader.small()?;
    let [gate, up, down, _] = reader.bytes("layouts")?;
    let lies = |code: u8| {
        let known = Lies::ALL.get(usize::from(code)).copied();
        known.ok_or_else(|| wrong("layouts 0 to 2", code))
    };
    let layouts = [lies(gate)?, lies(up)?, lies(down)?];
    let (start, stride) = (reader.number()?, reader.number()?);
    let end = u64::from(experts).checked_mul(stride).and_then(|len| len.checked_add(start));
    let is_aligned = [start, stride].iter().all(|place| place.is_multiple_of(ALIGNMENT as u64));
    if !is_aligned || end.is_none_or(|end| end > reader.file.len() as u64) {
        let expected = format!("experts within {} bytes, at multiples of {ALIGNMENT}", reader.file.len());
        return Err(wrong(expected, format!("{experts} of {stride} bytes from {start} on")));
    }
    Ok(Packed { experts, layouts, start, stride })
}

fn wrong(expected: impl Into<String>, found: impl ToString) -> Error {
    Error::malformed("head", expected, found)
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let rest = &self.file[self.at..];
        let bytes = rest.first_chunk().ok_or_else(|| wrong(what, "the end of the file"))?;
        self.at += N;
        Ok(*bytes)
    }

    fn small(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes("a number")?))
    }

    fn number(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes("a number")?))
    }
}

/// A digest against accidents, not against forgery: FNV-1a with 64 bits (Fowler, Noll and Vo; RFC 9923).
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> (Head, Vec<u8>) {
        let layouts = [Lies::Panels, Lies::Rows, Lies::Panels];
        let packed = |experts, start, stride| Packed { experts, layouts, start, stride };
        let parts = vec![PartFacts { len: 7, seconds: 8, nanoseconds: 9 }; 2];
        let layers = vec![packed(0, 4096, 0), packed(3, 4096, 8192), packed(1, 28_672, 4096)];
        let head = Head { origin: Origin { digest: 5, parts }, layers };
        let mut file = head.to_bytes();
        file.resize(head.file_len() as usize, 1);
        (head, file)
    }

    #[test]
    fn what_is_written_is_read() {
        let (head, file) = head();
        assert_eq!((head.len(), file.len()), (4096, 32_768));
        assert_eq!(Head::parse(&file).unwrap(), head);
    }

    #[test]
    fn no_bit_of_a_head_can_flip_unnoticed() {
        let (head, mut file) = head();
        let used = (FIXED + 2 * PART + 3 * LAYER + DIGEST) as usize;
        for bit in 0..8 * used {
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::parse(&file).is_err(), "bit {bit}");
            file[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Head::parse(&file).unwrap(), head);
    }

    #[test]
    fn a_cut_file_is_refused_wherever_it_is_cut() {
        let (_, file) = head();
        for len in (0..200).chain([4095, 4096, file.len() - 1]) {
            assert!(Head::parse(&file[..len]).is_err(), "{len} bytes");
        }
    }
}

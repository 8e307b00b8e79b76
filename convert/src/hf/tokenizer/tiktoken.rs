//! tiktoken ranks: one line per token, base64 of its bytes and its rank. The merges that GGUF wants are recovered:
//! the two parts that merging with lower ranks alone leaves of a token are the pair that makes it.

use super::tokens::{Kind, Token, Tokens};
use moewe_engine::tokenizer::bytes::CHARACTERS;
use moewe_engine::{Error, Result};
use std::collections::HashMap;

/// Longest token whose merge is searched for.
const LONGEST: usize = 1024;

/// Which pre-tokenizer belongs to a vocabulary, by its number of ranks; the files do not say.
const PRE_TOKENIZERS: &[(usize, &str)] = &[
    (50_257, "gpt-2"), // gpt2 and r50k_base count their specials elsewhere
    (50_256, "gpt-2"),
    (100_256, "dbrx"),      // cl100k_base
    (128_000, "llama-bpe"), // Llama 3
    (151_643, "qwen2"),     // Qwen
    (163_584, "kimi-k2"),   // Kimi K2, Moonlight
    (199_998, "gpt-4o"),    // o200k_base
];

/// Whether a tokenizer.model holds ranks and not SentencePiece's protobuf.
pub(super) fn is_ranks(bytes: &[u8]) -> bool {
    bytes.split(|&byte| byte == b'\n').next().is_some_and(|line| parse(line).is_some())
}

/// Reads the whole file.
pub(super) fn read(bytes: &[u8], rows: u64) -> Result<Tokens> {
    let ranks = ranks(bytes, rows)?;
    let pre = PRE_TOKENIZERS.iter().find(|(count, _)| *count == ranks.len()).map(|(_, name)| *name);
    let pre = pre.ok_or_else(|| {
        let what = format!("tiktoken ranks of {} tokens", ranks.len());
        Error::unsupported(what, "only well-known vocabularies tell how their text is split")
    })?;
    let mut tokens = tokens(&ranks, rows)?;
    tokens.pre = Some(pre);
    Ok(tokens)
}

/// Tokens and recovered merges of `ranks`.
pub(super) fn tokens(ranks: &[Vec<u8>], rows: u64) -> Result<Tokens> {
    let by_bytes: HashMap<&[u8], u32> = ranks.iter().map(Vec::as_slice).zip(0..).collect();
    let mut tokens = Tokens { model: "gpt2", ..Tokens::default() };
    for (bytes, rank) in ranks.iter().zip(0u32..) {
        tokens.set(u64::from(rank), Token { text: spell(bytes), score: 0.0, kind: Kind::Normal }, rows)?;
        if let Some(middle) = parts(bytes, rank, &by_bytes) {
            tokens.merges.push(format!("{} {}", spell(&bytes[..middle]), spell(&bytes[middle..])));
        }
    }
    Ok(tokens)
}

/// `bytes` in GPT-2's alphabet.
fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| CHARACTERS[usize::from(byte)]).collect()
}

/// The tokens by rank.
pub(super) fn ranks(bytes: &[u8], rows: u64) -> Result<Vec<Vec<u8>>> {
    let mut ranks = Vec::new();
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty())
    {
        let place = || format!("line {}", number + 1);
        let (token, rank) =
            parse(line).ok_or_else(|| Error::malformed(place(), "base64 and a rank", "something else"))?;
        if rank != ranks.len() as u64 || rank >= rows {
            let expected = format!("rank {}, below the {rows} rows of the embedding", ranks.len());
            return Err(Error::malformed(place(), expected, rank));
        }
        ranks.push(token);
    }
    Ok(ranks)
}

fn parse(line: &[u8]) -> Option<(Vec<u8>, u64)> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let space = line.iter().position(|&byte| byte == b' ')?;
    let token = base64(&line[..space])?;
    let rank = str::from_utf8(&line[space + 1..]).ok()?.parse().ok()?;
    Some((token, rank)).filter(|(token, _)| !token.is_empty())
}

/// RFC 4648 with padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |&byte: &u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let chunks = text.chunks_exact(4);
    if !chunks.remainder().is_empty() {
        return None;
    }
    for chunk in chunks {
        let digits: Vec<u8> =
            chunk.iter().take_while(|&&byte| byte != b'=').map(digit).collect::<Option<_>>()?;
        let bits =
            digits.iter().fold(0u32, |bits, &digit| bits << 6 | u32::from(digit)) << (6 * (4 - digits.len()));
        let count = digits.len().checked_sub(1).filter(|&count| count > 0)?;
        bytes.extend(&bits.to_be_bytes()[1..=count]);
    }
    Some(bytes)
}

/// Where `bytes` is put together when only tokens of a rank below `rank` exist; `None` if that leaves not two parts.
fn parts(bytes: &[u8], rank: u32, ranks: &HashMap<&[u8], u32>) -> Option<usize> {
    if bytes.len() < 2 || bytes.len() > LONGEST {
        return None;
    }
    let mut cuts: Vec<usize> = (0..=bytes.len()).collect();
    while cuts.len() > 3 {
        let joined =
            |at: usize| ranks.get(&bytes[cuts[at - 1]..cuts[at + 1]]).copied().filter(|&found| found < rank);
        let (_, at) = (1..cuts.len() - 1).filter_map(|at| Some((joined(at)?, at))).min()?;
        cuts.remove(at);
    }
    Some(cuts[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_every_length() {
        let cases: [(&str, Option<&[u8]>); 8] = [
            ("", Some(b"")),
            ("IQ==", Some(b"!")),
            ("aGk=", Some(b"hi")),
            ("TcO2d2U=", Some("Möwe".as_bytes())),
            ("////", Some(b"\xFF\xFF\xFF")),
            ("IQ=", None),
            ("I===", None),
            ("I Q=", None),
        ];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn broken_ranks_are_errors() {
        assert!(is_ranks(b"IQ== 0\nIg== 1\n") && !is_ranks(b"\n\x0c\n\x05<unk>") && !is_ranks(b""));
        for (text, expected) in
            [("IQ== 1", "line 1"), ("IQ== 0\nIg==", "line 2"), ("IQ== 0\nIg== 1\nIw== 2", "rank 2")]
        {
            let message = ranks(text.as_bytes(), 2).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(read(b"IQ== 0\n", 9).unwrap_err().to_string().contains("1 tokens"));
    }
}

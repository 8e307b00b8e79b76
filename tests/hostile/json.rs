//! Breaks the header of a safetensors file: its length, and the numbers and strings of its JSON.

use super::random::Random;

/// A broken copy of `file`.
pub(crate) fn mutate(file: &[u8], random: &mut Random) -> Vec<u8> {
    let mut len = [0; 8];
    len.copy_from_slice(&file[..8]);
    let (header, data) = file[8..].split_at(u64::from_le_bytes(len) as usize);
    let mut header = String::from_utf8_lossy(header).into_owned();
    for _ in 0..=random.below(2) {
        header = if random.once_in(3) { change(&header, random) } else { nudge(&header, random) };
    }
    let mut len = header.len() as u64;
    if random.once_in(10) {
        len = *random.pick(&[
            0,
            1,
            len - 1,
            len + 1,
            len / 2,
            file.len() as u64,
            100_000_001,
            1 << 40,
            u64::MAX,
            u64::MAX - 7,
        ]);
    }
    let mut copy = [&len.to_le_bytes(), header.as_bytes(), data].concat();
    if random.once_in(10) {
        copy.truncate(random.below(copy.len()));
    }
    copy
}

fn change(header: &str, random: &mut Random) -> String {
    let tokens = tokens(header);
    let (start, end) = *random.pick(&tokens);
    let old = &header[start..end];
    let new = if old.starts_with('"') {
        let (from, to) = *random.pick(&tokens);
        let other = header[from..to].to_owned();
        random
            .pick(&[
                "\"\"".to_owned(),
                "\"F8_E8M0\"".into(),
                "\"I64\"".into(),
                "\"BF16\"".into(),
                other,
                "null".into(),
            ])
            .clone()
    } else {
        let number: u64 = old.parse().unwrap_or(0);
        let near = number.wrapping_add(random.below(5) as u64).wrapping_sub(2);
        let power = 1u64 << random.below(64);
        random
            .pick(&[
                near.to_string(),
                power.to_string(),
                (power - 1).to_string(),
                "0".into(),
                "-1".into(),
                "1e300".into(),
                "[]".into(),
            ])
            .clone()
    };
    format!("{}{new}{}", &header[..start], &header[end..])
}

/// A change that may well be legal: another letter in a name, an axis more, axes that change places.
fn nudge(header: &str, random: &mut Random) -> String {
    let tokens = tokens(header);
    let at = random.below(tokens.len() - 1);
    let ((start, end), (next_start, next_end)) = (tokens[at], tokens[at + 1]);
    let (token, next, between) =
        (&header[start..end], &header[next_start..next_end], &header[end..next_start]);
    let is_name = token.contains('.');
    let is_size = header[..start].ends_with("shape\":[");
    if is_name {
        let letter = start + 1 + random.below(token.len() - 2);
        let new = char::from(*random.pick(b"aZ019 ._/"));
        format!("{}{new}{}", &header[..letter], &header[letter + 1..])
    } else if is_size && between == "," && random.once_in(2) {
        format!("{}{next}{between}{token}{}", &header[..start], &header[next_end..])
    } else if is_size {
        format!("{}1,{}", &header[..start], &header[start..])
    } else {
        nudge(header, random)
    }
}

/// Ranges of the numbers and strings.
fn tokens(header: &str) -> Vec<(usize, usize)> {
    let bytes = header.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let start = at;
        at += 1;
        if bytes[start] == b'"' {
            at += header[at..].find('"').map_or(0, |len| len + 1);
            found.push((start, at));
        } else if bytes[start].is_ascii_digit() {
            at += header[at..].bytes().take_while(u8::is_ascii_digit).count();
            found.push((start, at));
        }
    }
    found
}

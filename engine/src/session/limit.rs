//! The most memory that a model may take: as people write it, and in bytes of what is free.
//!
//! What the bytes are spent on is `memory.rs`.

use crate::error::{Error, Result};
use crate::os::memory;
use std::str::FromStr;

/// The part of free memory that a model takes where nobody says.
pub(super) const DEFAULT_SHARE: f64 = 0.9;
/// No amount of memory is larger: 2^56 bytes.
const MOST_BYTES: f64 = (1u64 << 56) as f64;

/// The most memory that a model may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryLimit {
    /// Bytes of resident memory.
    Bytes(u64),
    /// A part of what is free, above 0 and at most 1.
    Share(f64),
    /// Bytes for the slots of experts, whatever everything else takes.
    Experts(u64),
}

impl MemoryLimit {
    /// What each of so many models may take that are open together, where nobody says; `None` where the system does not
    /// tell what is free.
    pub fn of_each(models: usize) -> Option<Self> {
        Self::share_of_known(DEFAULT_SHARE / models.max(1) as f64)
    }

    /// Bytes that a model takes by default where so many are free.
    pub fn default_bytes(free: u64) -> u64 {
        (free as f64 * DEFAULT_SHARE) as u64
    }

    /// A part of what is free, above 0 and at most 1, for programs that choose it for a person; `None` where the system
    /// does not tell what is free.
    pub fn share_of_known(part: f64) -> Option<Self> {
        memory::available().map(|_| Self::Share(part))
    }

    /// Bytes, of so many that are free; `None` where experts alone are limited.
    pub(super) fn bytes(self, free: u64) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Share(share) => Some((free as f64 * share) as u64),
            Self::Experts(_) => None,
        }
    }
}

/// The most that a model may take of a machine that has so much for it, or does not say.
///
/// # Errors
/// When a part of an amount is wished that is not known.
pub(super) fn limit(wished: Option<MemoryLimit>, machine: Option<u64>) -> Result<Option<u64>> {
    match (wished, machine) {
        (Some(MemoryLimit::Share(share)), None) => {
            let percent = 100.0 * share;
            Err(Error::request(format!(
                "--memory {percent}% is a part of what is free, and this system does not say how much that is; name an \
                 amount, such as --memory 6G"
            )))
        }
        (None, None) => Ok(None),
        (wished, machine) => {
            Ok(wished.unwrap_or(MemoryLimit::Share(DEFAULT_SHARE)).bytes(machine.unwrap_or_default()))
        }
    }
}

impl FromStr for MemoryLimit {
    type Err = Error;

    /// `6G`, `1.5GiB`, `800M` (in powers of 1024), plain bytes, or `50%` of what is free.
    fn from_str(text: &str) -> Result<Self> {
        let number_end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(number_end);
        let unit = unit.trim().to_ascii_lowercase();
        let power = ["", "k", "m", "g", "t"]
            .iter()
            .position(|letter| unit.strip_prefix(letter).is_some_and(|rest| matches!(rest, "" | "b" | "ib")));
        let wrong = || {
            let message =
                format!("{text:?} is no amount of memory; say it as 6G, 800M or 50% of what is free");
            Error::request(message)
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        match power {
            _ if unit == "%" && number > 0.0 && number <= 100.0 => Ok(Self::Share(number / 100.0)),
            Some(power) if number * 1024f64.powi(power as i32) <= MOST_BYTES => {
                Ok(Self::Bytes((number * 1024f64.powi(power as i32)) as u64))
            }
            Some(_) => Err(Error::request(format!("{text:?} is more memory than any machine has"))),
            None => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_what_nobody_knows_is_an_error() {
        use MemoryLimit::{Bytes, Experts, Share};
        for (wished, machine, expected) in [
            (Some(Share(0.5)), Some(1000), Some(500)),
            (None, Some(1000), Some(900)),
            (Some(Bytes(70)), Some(1000), Some(70)),
            (Some(Experts(5)), Some(1000), None),
            (Some(Bytes(70)), None, Some(70)),
            (Some(Experts(5)), None, None),
            (None, None, None),
        ] {
            assert_eq!(limit(wished, machine).unwrap(), expected, "{wished:?} of {machine:?}");
        }
        let message = limit(Some(Share(0.5)), None).unwrap_err().to_string();
        assert!(message.contains("--memory 50% is a part") && message.contains("does not say"), "{message}");
    }

    #[test]
    fn amounts_as_people_write_them() {
        for (text, expected) in [
            ("6G", MemoryLimit::Bytes(6 << 30)),
            ("1.5GiB", MemoryLimit::Bytes(3 << 29)),
            ("800 mb", MemoryLimit::Bytes(800 << 20)),
            ("0", MemoryLimit::Bytes(0)),
            ("4096", MemoryLimit::Bytes(4096)),
            ("50%", MemoryLimit::Share(0.5)),
        ] {
            assert_eq!(text.parse::<MemoryLimit>().unwrap(), expected, "{text}");
        }
        for text in ["", "G", "6X", "-1G", "0%", "101%", "1e3", "nan", "1.2.3G"] {
            let message = text.parse::<MemoryLimit>().unwrap_err().to_string();
            assert!(message.contains("6G, 800M or 50%"), "{text}: {message}");
        }
        for text in ["99999999T", "100000000000000000000"] {
            let message = text.parse::<MemoryLimit>().unwrap_err().to_string();
            assert!(message.contains("more memory than any machine has"), "{text}: {message}");
        }
    }
}

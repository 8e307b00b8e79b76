//! Recorded routing: which experts each token chose in each layer, as a file to replay.
//!
//! Line by line JSON: first what the layers are, then per token a list of experts for each layer with experts.

use crate::error::{Error, Result};
use crate::gguf::{Destination, Existing};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// More experts in a layer than any model has.
const MOST_EXPERTS: usize = 1 << 16;

/// A layer with experts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedLayer {
    /// Its number in the model.
    pub layer: usize,
    /// Experts.
    pub expert_count: usize,
    /// Bytes of one.
    pub expert_bytes: u64,
}

/// The routing of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The layers with experts.
    pub layers: Vec<TracedLayer>,
    /// Per token and layer the chosen experts, the strongest first.
    pub tokens: Vec<Vec<Vec<u32>>>,
}

#[derive(Serialize, Deserialize)]
struct Heading {
    layers: Vec<TracedLayer>,
}

impl Trace {
    /// Writes the file, or through a pipe.
    ///
    /// # Errors
    /// When the system cannot, or the file exists and is kept.
    pub fn write(&self, path: &Path, existing: Existing) -> Result<()> {
        let heading = serde_json::json!({ "layers": self.layers });
        let mut file = Destination::stream(path, existing)?;
        let write = |e| Error::io(path, "write", e);
        writeln!(file, "{heading}").map_err(write)?;
        for token in &self.tokens {
            writeln!(file, "{}", serde_json::json!(token)).map_err(write)?;
        }
        file.publish()
    }

    /// Reads a file and checks that every expert exists.
    ///
    /// # Errors
    /// When it cannot be read or is no trace; the message says the line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
        Self::parse(&text).map_err(|error| error.in_file(path))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().enumerate();
        let wrong = |line: usize, expected: &str, found: String| {
            Error::malformed(format!("line {}", line + 1), expected, found)
        };
        let (_, heading) = lines.next().unwrap_or_default();
        let Heading { layers } = serde_json::from_str(heading).map_err(|e| {
            wrong(0, "the layers of a routing trace (`moewe experts --trace`)", e.to_string())
        })?;
        if let Some(layer) = layers.iter().find(|layer| !(1..=MOST_EXPERTS).contains(&layer.expert_count)) {
            let found = format!("{} in layer {}", layer.expert_count, layer.layer);
            return Err(wrong(0, &format!("1 to {MOST_EXPERTS} experts"), found));
        }
        let mut tokens = vec![];
        for (number, line) in lines {
            let token: Vec<Vec<u32>> = serde_json::from_str(line)
                .map_err(|e| wrong(number, "a list of experts for each layer", e.to_string()))?;
            let exist = |(layer, chosen): (&TracedLayer, &Vec<u32>)| {
                chosen.iter().all(|&expert| (expert as usize) < layer.expert_count)
            };
            if token.len() != layers.len() || !layers.iter().zip(&token).all(exist) {
                let expected = format!("experts that exist, for {} layers", layers.len());
                return Err(wrong(number, &expected, "others".into()));
            }
            tokens.push(token);
        }
        Ok(Self { layers, tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let layer = |layer, expert_count| TracedLayer { layer, expert_count, expert_bytes: 10 };
        let tokens = vec![vec![vec![1, 0], vec![2]], vec![vec![], vec![0]]];
        let trace = Trace { layers: vec![layer(0, 2), layer(3, 3)], tokens };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace");
        trace.write(&path, Existing::Keep).unwrap();
        assert_eq!(Trace::read(&path).unwrap(), trace);
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        let heading = r#"{"layers":[{"layer":0,"expert_count":2,"expert_bytes":1}]}"#;
        for (text, part) in [
            ("".to_owned(), "line 1: expected the layers"),
            (heading.replace('2', "0"), "1 to 65536 experts"),
            (format!("{heading}\n[[2]]"), "line 2: expected experts that exist"),
            (format!("{heading}\n[[0]]\n[[0],[1]]"), "line 3: expected experts that exist, for 1 layers"),
            (format!("{heading}\nx"), "line 2: expected a list"),
        ] {
            let message = Trace::parse(&text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}

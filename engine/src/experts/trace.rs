//! Recorded routing: which experts each token chose in each layer, as a file to replay.
//!
//! Line by line JSON: first the version and what the layers are, then per token a list of experts for each layer with
//! experts, and from version 2 on the strongest experts with the router's scores. Files without a version are of the first.

use crate::error::{Error, Result};
use crate::gguf::{Destination, Existing};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// The version that is written.
const VERSION: u32 = 2;

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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The layers with experts.
    pub layers: Vec<TracedLayer>,
    /// Per token and layer the chosen experts, the strongest first.
    pub tokens: Vec<Vec<Vec<u32>>>,
    /// Per token and layer the experts with the highest scores of the router, twice as many as are chosen, and these; empty
    /// in files of the first version.
    pub best: Vec<Vec<Vec<(u32, f32)>>>,
}

#[derive(Deserialize)]
struct Heading {
    #[serde(default = "first_version")]
    version: u32,
    layers: Vec<TracedLayer>,
}

fn first_version() -> u32 {
    1
}

/// A token from the second version on.
#[derive(Serialize, Deserialize)]
struct Line {
    chosen: Vec<Vec<u32>>,
    best: Vec<Vec<(u32, f32)>>,
}

impl Trace {
    /// Writes the file, or through a pipe.
    ///
    /// # Errors
    /// When the system cannot, or the file exists and is kept.
    pub fn write(&self, path: &Path, existing: Existing) -> Result<()> {
        let heading = match self.best.is_empty() {
            true => serde_json::json!({ "layers": self.layers }),
            false => serde_json::json!({ "version": VERSION, "layers": self.layers }),
        };
        let mut file = Destination::stream(path, existing)?;
        let write = |e| Error::io(path, "write", e);
        writeln!(file, "{heading}").map_err(write)?;
        for (number, chosen) in self.tokens.iter().enumerate() {
            let line = match self.best.get(number) {
                None => serde_json::json!(chosen),
                Some(best) => serde_json::json!({ "chosen": chosen, "best": best }),
            };
            writeln!(file, "{line}").map_err(write)?;
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
        let Heading { version, layers } = serde_json::from_str(heading).map_err(|e| {
            wrong(0, "the layers of a routing trace (`moewe experts --trace`)", e.to_string())
        })?;
        if let Some(layer) = layers.iter().find(|layer| !(1..=MOST_EXPERTS).contains(&layer.expert_count)) {
            let found = format!("{} in layer {}", layer.expert_count, layer.layer);
            return Err(wrong(0, &format!("1 to {MOST_EXPERTS} experts"), found));
        }
        if !(1..=VERSION).contains(&version) {
            return Err(wrong(0, &format!("version 1 to {VERSION}"), version.to_string()));
        }
        let mut trace = Self { layers, ..Self::default() };
        for (number, text) in lines {
            let unread =
                |e: serde_json::Error| wrong(number, "a list of experts for each layer", e.to_string());
            let line = match version {
                1 => Line { chosen: serde_json::from_str(text).map_err(unread)?, best: vec![] },
                _ => serde_json::from_str(text).map_err(unread)?,
            };
            if !trace.fits(&line.chosen, |&expert| expert)
                || version > 1 && !trace.fits(&line.best, |&(expert, _)| expert)
            {
                let expected = format!("experts that exist, for {} layers", trace.layers.len());
                return Err(wrong(number, &expected, "others".into()));
            }
            trace.tokens.push(line.chosen);
            trace.best.extend((version > 1).then_some(line.best));
        }
        Ok(trace)
    }

    /// Whether there is something for each layer, and all experts exist.
    fn fits<T>(&self, of_layers: &[Vec<T>], expert: impl Fn(&T) -> u32) -> bool {
        let exist = |(layer, all): (&TracedLayer, &Vec<T>)| {
            all.iter().all(|one| (expert(one) as usize) < layer.expert_count)
        };
        of_layers.len() == self.layers.len() && self.layers.iter().zip(of_layers).all(exist)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let layer = |layer, expert_count| TracedLayer { layer, expert_count, expert_bytes: 10 };
        let tokens = vec![vec![vec![1, 0], vec![2]], vec![vec![], vec![0]]];
        let best = vec![vec![vec![(1, 0.5), (0, -1.25)], vec![(2, 7.0)]], vec![vec![], vec![(0, 0.1)]]];
        let old = Trace { layers: vec![layer(0, 2), layer(3, 3)], tokens, best: vec![] };
        let folder = tempfile::tempdir().unwrap();
        for (name, trace) in [("scores", Trace { best, ..old.clone() }), ("old", old)] {
            let path = folder.path().join(name);
            trace.write(&path, Existing::Keep).unwrap();
            assert_eq!(Trace::read(&path).unwrap(), trace);
        }
        let first = std::fs::read_to_string(folder.path().join("old")).unwrap();
        assert!(first.starts_with("{\"layers\"") && first.contains("\n[[1,0],[2]]\n"), "{first}");
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
            (heading.replacen('{', r#"{"version":3,"#, 1), "line 1: expected version 1 to 2, found 3"),
            (
                heading.replacen('{', r#"{"version":2,"#, 1) + "\n{\"chosen\":[[0]],\"best\":[[[2,0.5]]]}",
                "line 2: expected experts that exist",
            ),
        ] {
            let message = Trace::parse(&text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}

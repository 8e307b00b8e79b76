//! Stop strings in a text that comes in pieces: none is ever shown, and nothing before one is swallowed.

use super::begun;

/// Finds the stop string that ends first, and holds back only what may begin one.
#[derive(Clone, Debug, Default)]
pub struct StopScanner {
    stops: Vec<String>,
    met: Option<usize>, // the one that ended the text
    held: String,       // the longest end of the text that begins a stop string
    ready: String,
}

impl StopScanner {
    /// A scanner for these; empty ones are left out.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, ..Self::default() }
    }

    /// Adds a piece and returns what of the text can be shown now. After a stop string nothing comes any more.
    pub fn push(&mut self, piece: &str) -> &str {
        self.ready.clear();
        if self.met.is_some() {
            return &self.ready;
        }
        self.held.push_str(piece);
        if let Some((start, number)) = self.find() {
            self.met = Some(number);
            self.ready.push_str(&self.held[..start]);
            self.held.clear();
            return &self.ready;
        }
        let clear = self.held.len() - begun(&self.held, &self.stops);
        self.ready.extend(self.held.drain(..clear));
        &self.ready
    }

    /// Ends the text: what was held back has begun no stop string.
    pub fn finish(&mut self) -> &str {
        self.ready.clear();
        self.ready.push_str(&self.held);
        self.held.clear();
        &self.ready
    }

    /// The stop string that ended the text: what was returned so far is all there is.
    pub fn met(&self) -> Option<&str> {
        self.met.map(|number| &*self.stops[number])
    }

    /// Where the stop string begins that ends first, of those that end there the longest.
    fn find(&self) -> Option<(usize, usize)> {
        let found = self.stops.iter().enumerate().filter_map(|(number, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, number))
        });
        found.min().map(|(_, start, number)| (start, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The text before the stop, and which one it was, with pieces of these lengths in characters.
    fn shown(stops: &[&str], text: &str, cuts: &[usize]) -> (String, Option<String>) {
        let mut scanner = StopScanner::new(stops.iter().map(|&stop| stop.to_owned()));
        let (mut all, mut rest, mut cuts) = (String::new(), text, cuts.iter().cycle());
        while !rest.is_empty() {
            let length = *cuts.next().unwrap_or(&1);
            let cut = rest.char_indices().nth(length).map_or(rest.len(), |(at, _)| at);
            all.push_str(scanner.push(&rest[..cut]));
            rest = &rest[cut..];
        }
        all.push_str(scanner.finish());
        (all, scanner.met().map(str::to_owned))
    }

    #[test]
    fn nothing_before_a_stop_is_lost_and_nothing_of_it_shown() {
        for (stops, text, expected) in [
            (&["\n\n"][..], "a\nb\n\nc", ("a\nb", Some("\n\n"))),
            (&["END"], "ENEND", ("EN", Some("END"))),
            (&["END", "NDX"], "aEENDb", ("aE", Some("END"))),
            (&["END", "NDX"], "ENNDX", ("EN", Some("NDX"))),
            (&["END"], "EN", ("EN", None)),
            (&["abcd", "bc"], "xabcd", ("xa", Some("bc"))),
            (&["cd", "abcd"], "xabcd", ("x", Some("abcd"))),
            (&["öß"], "größer öß", ("gr", Some("öß"))),
            (&["", "x"], "ab", ("ab", None)),
            (&[], "ab", ("ab", None)),
            (&["aab"], "aaab", ("a", Some("aab"))),
        ] {
            let expected = (expected.0.to_owned(), expected.1.map(str::to_owned));
            for cut in 1..=text.len().max(1) {
                assert_eq!(shown(stops, text, &[cut]), expected, "{text:?} by {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            text in "[abä]{0,40}",
            stops in prop::collection::vec("[abä]{1,5}", 0..4),
            cuts in prop::collection::vec(1usize..6, 1..10),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let found = shown(&stops, &text, &cuts);
            prop_assert_eq!(&found, &shown(&stops, &text, &[1]));
            prop_assert!(stops.iter().all(|stop| !found.0.contains(stop)));
            prop_assert!(text.starts_with(&(found.0.clone() + found.1.as_deref().unwrap_or(""))));
            prop_assert!(found.1.is_some() || found.0 == text);
        }
    }
}

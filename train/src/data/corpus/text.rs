//! Plain text: lines that form a document up to a separator.

use super::lines::Lines;
use super::{Documents, Input, Kind, LONGEST_DOCUMENT, Separator};
use crate::{Error, Result};

pub(super) const KIND: Kind = Kind { endings: &["txt", "text"], may_be_compressed: true, open };

fn open(input: &Input) -> Result<Documents> {
    if let Some(field) = input.field {
        let name = input.path.display();
        return Err(Error::request(format!(
            "{name}: plain text has no field {field:?}; leave \":{field}\" out"
        )));
    }
    Ok(Box::new(Text { lines: Lines::open(input.path)?, separator: input.separator, is_over: false }))
}

struct Text {
    lines: Lines,
    separator: Separator,
    is_over: bool,
}

impl Text {
    /// The lines up to the next separator, empty at the end of the file.
    fn read(&mut self) -> Result<String> {
        let mut document = String::new();
        while let Some(line) = self.lines.next()? {
            let is_blank = line.trim().is_empty();
            if is_blank && self.separator != Separator::File {
                if document.is_empty() { continue } else { break }
            }
            document.push_str(line);
            if self.separator == Separator::Line {
                break;
            }
            document.push('\n');
            if document.len() > LONGEST_DOCUMENT {
                return Err(self.lines.too_long());
            }
        }
        Ok(document)
    }
}

impl Iterator for Text {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        match self.read() {
            Ok(document) if document.is_empty() => None,
            Ok(mut document) => {
                document.truncate(document.trim_end_matches('\n').len());
                Some(Ok(document))
            }
            Err(error) => {
                self.is_over = true;
                Some(Err(error))
            }
        }
    }
}

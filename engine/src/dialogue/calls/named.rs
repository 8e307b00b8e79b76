//! Calls that are a name and a JSON object behind it: `[TOOL_CALLS]name[ARGS]{…}` (Mistral), `<｜tool▁call▁begin｜>name
//! <｜tool▁sep｜>{…}` (DeepSeek, with a fence around the JSON in V3), `functions.name:0<|tool_call_argument_begin|>{…}`
//! (Kimi), `<function=name>{…}</function>` (Functionary).

use super::json::{Fed, Scanner};
use super::{Body, Kind, Offer, Recognized, Rules, Step, Tool, Written, is_of_a_name, say};
use crate::dialogue::Piece;
use std::mem::take;
use std::sync::Arc;

const LONGEST_NAME: usize = 128;
/// More between a name and its arguments is none of what is written there.
const LONGEST_GAP: usize = 256;

#[derive(Debug)]
struct Named {
    /// What stands between name and arguments, as the template wrote it.
    gap: String,
    /// The last of it, which is the same each time.
    essence: String,
}

pub(super) fn detect(written: &Written) -> Option<Recognized> {
    let (mut gap, mut places, mut from) = (None, vec![], 0);
    for (name, arguments) in written.calls() {
        let Some(at) = written.text[from..].find(name).map(|at| from + at) else { break };
        let behind = at + name.len();
        let Some((start, end, _)) =
            written.objects().find(|(start, _, value)| *start >= behind && **value == arguments)
        else {
            break;
        };
        gap.get_or_insert(written.text[behind..start].to_owned());
        places.push((at, end));
        from = end;
    }
    let gap = gap.filter(|gap| !gap.trim().is_empty() && gap.len() < LONGEST_GAP && !gap.contains('"'))?;
    let essence = super::marks::Mark::new(&gap).words().last()?.clone();
    Some((Arc::new(Named { gap, essence }), places))
}

impl Kind for Named {
    fn name(&self) -> &'static str {
        "named"
    }

    fn rule(&self, tool: &Tool, rules: &mut Rules<'_>) -> String {
        let arguments = rules.json(&tool.parameters);
        let name = rules.literal(&tool.name);
        // Where calls are counted, the number is free.
        let gap = match self.gap.strip_prefix(":0") {
            Some(rest) => format!("\":\" /[0-9]{{1,4}}/ {}", rules.literal(rest)),
            None => rules.literal(&self.gap),
        };
        rules.rule(&format!("{name} {gap} {arguments}"))
    }

    fn body(&self, _: &Arc<Offer>, _: bool) -> Box<dyn Body> {
        Box::new(Reading { essence: self.essence.clone(), place: Place::Name(String::new()) })
    }

    fn marks(&self) -> Vec<&str> {
        vec![&self.gap]
    }
}

struct Reading {
    essence: String,
    place: Place,
}

enum Place {
    Name(String),
    /// The name, and what has come between it and the arguments.
    Gap(String, String),
    Arguments(Scanner),
}

impl Body for Reading {
    fn push(&mut self, c: char, pieces: &mut Vec<Piece>) -> Step {
        match &mut self.place {
            Place::Name(name) if name.is_empty() && c.is_whitespace() => Step::More,
            Place::Name(name) if is_of_a_name(c) && name.len() < LONGEST_NAME => {
                name.push(c);
                Step::More
            }
            Place::Name(name) if !name.is_empty() => {
                self.place = Place::Gap(take(name), String::new());
                self.push(c, pieces)
            }
            Place::Gap(name, gap) if c == '{' && gap.trim_end().ends_with(&*self.essence) => {
                pieces.push(Piece::Call(take(name)));
                self.place = Place::Arguments(Scanner::new());
                self.push(c, pieces)
            }
            Place::Gap(_, gap) if gap.len() < LONGEST_GAP && c != '{' => {
                gap.push(c);
                Step::More
            }
            Place::Arguments(scanner) => {
                let mut text = String::new();
                let fed = scanner.feed(c, &mut text);
                say(pieces, Piece::Arguments(text));
                match fed {
                    Fed::More => Step::More,
                    Fed::Last => Step::Done,
                    Fed::Over | Fed::Wrong => Step::Failed,
                }
            }
            _ => Step::Failed,
        }
    }
}

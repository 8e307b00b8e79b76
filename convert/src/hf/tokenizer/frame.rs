//! What a tokenizer.json puts around a text: one token before it, one behind it.

use super::parts::flatten;
use super::tokens::{Frame, Tokens};
use moewe_engine::{Error, Result};
use serde_json::Value as Json;

/// Sets whether texts begin with a token and end with one, and which.
///
/// # Errors
/// More than one token on a side, or a kind of post-processor that is not known.
pub(super) fn set(post_processor: &Json, tokens: &mut Tokens) -> Result<()> {
    let Some((before, behind)) = around(post_processor)? else { return Ok(()) };
    let frame = Frame { before: single(&before)?, behind: single(&behind)? };
    (tokens.add_bos, tokens.add_eos) = (Some(frame.before.is_some()), Some(frame.behind.is_some()));
    tokens.frame = frame;
    Ok(())
}

fn single(ids: &[u32]) -> Result<Option<u32>> {
    match ids {
        [] => Ok(None),
        [id] => Ok(Some(*id)),
        _ => Err(Error::unsupported(
            format!("a post-processor that puts the tokens {ids:?} on one side of a text"),
            "GGUF has room for one",
        )),
    }
}

type Around = (Vec<u32>, Vec<u32>);

/// The tokens before and behind a text; `None` where nothing says so.
fn around(post_processor: &Json) -> Result<Option<Around>> {
    for part in flatten(post_processor) {
        let sides = match part["type"].as_str() {
            Some("TemplateProcessing") => template(part)?,
            Some("BertProcessing" | "RobertaProcessing") => {
                (vec![number(&part["cls"][1])?], vec![number(&part["sep"][1])?])
            }
            Some("ByteLevel") => continue, // offsets only
            _ => {
                let kind = part["type"].clone();
                return Err(Error::unsupported(
                    format!("the post-processor {kind}"),
                    "no one knows what it adds",
                ));
            }
        };
        return Ok(Some(sides));
    }
    Ok(None)
}

fn template(part: &Json) -> Result<Around> {
    let mut sides = (vec![], vec![]);
    let mut text_is_past = false;
    for piece in part["single"].as_array().into_iter().flatten() {
        match piece["SpecialToken"]["id"].as_str() {
            None => text_is_past = true,
            Some(name) => {
                let ids = part["special_tokens"][name]["ids"].as_array();
                let ids = ids.into_iter().flatten().map(number).collect::<Result<Vec<_>>>()?;
                if text_is_past { sides.1.extend(ids) } else { sides.0.extend(ids) }
            }
        }
    }
    Ok(sides)
}

fn number(id: &Json) -> Result<u32> {
    let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
    number.ok_or_else(|| Error::malformed("post_processor", "token ids", id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(post_processor: &Json) -> Result<Tokens> {
        let mut tokens = Tokens::default();
        set(post_processor, &mut tokens).map(|()| tokens)
    }

    fn template(single: &[&str]) -> Json {
        let piece = |name: &&str| match *name {
            "A" => json!({"Sequence": {"id": "A", "type_id": 0}}),
            name => json!({"SpecialToken": {"id": name, "type_id": 0}}),
        };
        json!({"type": "TemplateProcessing", "single": single.iter().map(piece).collect::<Vec<_>>(),
               "special_tokens": {"x": {"ids": [7]}, "y": {"ids": [8]}, "z": {"ids": [7, 8]}}})
    }

    #[test]
    fn one_token_on_each_side() {
        let roberta = json!({"type": "RobertaProcessing", "cls": ["<s>", 3], "sep": ["</s>", 4]});
        let behind_bytes =
            json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(&["x", "A"])]});
        for (post_processor, expected) in [
            (template(&["x", "A"]), (Some(true), Some(false), Some(7))),
            (template(&["A", "y"]), (Some(false), Some(true), None)),
            (template(&["A"]), (Some(false), Some(false), None)),
            (roberta, (Some(true), Some(true), Some(3))),
            (behind_bytes, (Some(true), Some(false), Some(7))),
            (json!({"type": "ByteLevel"}), (None, None, None)),
            (Json::Null, (None, None, None)),
        ] {
            let tokens = read(&post_processor).unwrap();
            assert_eq!((tokens.add_bos, tokens.add_eos, tokens.frame.before), expected, "{post_processor}");
        }
    }

    #[test]
    fn more_than_gguf_can_say_is_refused() {
        for (post_processor, expected) in [
            (template(&["x", "y", "A"]), "[7, 8]"),
            (template(&["z", "A"]), "[7, 8]"),
            (json!({"type": "Mystery"}), "Mystery"),
        ] {
            let message = read(&post_processor).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}

//! What an answer has to be, whatever dialect asks for it: OpenAI's `response_format`, llama-server's `json_schema` and
//! `grammar`. It is compiled before a request waits, and what does not compile is refused.

use super::ask::aside;
use super::model::Model;
use super::refusal::Refusal;
use moewe_engine::grammar::{Begins, Constraint, Grammar};
use serde_json::Value;
use std::sync::Arc;

/// A grammar, with the field that asks for it; or none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Format(Option<(&'static str, Grammar)>);

impl Format {
    /// What these fields ask for; one of them may.
    ///
    /// # Errors
    /// Names the field that makes no sense, or that there are two.
    pub(super) fn read(
        response_format: Option<&Value>,
        json_schema: Option<&Value>,
        grammar: Option<&Value>,
    ) -> Result<Self, Refusal> {
        let asked = [of_openai(response_format)?, of_schema("json_schema", json_schema), of_text(grammar)?];
        let mut asked = asked.into_iter().flatten();
        match (asked.next(), asked.next()) {
            (Some((first, _)), Some((second, _))) => {
                Err(Refusal::field(second, format!("{first} says already what the answer has to be")))
            }
            (asked, _) => Ok(Self(asked)),
        }
    }

    /// The grammar, ready to rule an answer.
    ///
    /// # Errors
    /// Names the field whose grammar is wrong, or too much.
    pub(super) async fn compile(
        self,
        model: &Arc<Model>,
        begins: Begins,
    ) -> Result<Option<Constraint>, Refusal> {
        let Some((field, grammar)) = self.0 else { return Ok(None) };
        let model = model.clone();
        let work = move || {
            let matcher = model.engine.vocabulary().and_then(|vocabulary| vocabulary.compile(&grammar));
            let matcher = matcher.map_err(|error| Refusal::field(field, error.to_string()))?;
            Ok(Some(Constraint { matcher, begins }))
        };
        aside(work).await
    }
}

type Asked = Option<(&'static str, Grammar)>;

/// `{"type": "text" | "json_object" | "json_schema", …}`; a schema may stand beside the type as well.
fn of_openai(value: Option<&Value>) -> Result<Asked, Refusal> {
    const SCHEMA: &str = "response_format.json_schema.schema";
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let beside = || of_schema("response_format.schema", value.get("schema"));
    match value.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(beside().or_else(|| Some(("response_format", Grammar::json_object())))),
        Some("json_schema") => {
            let named = of_schema(SCHEMA, value.pointer("/json_schema/schema"));
            named.or_else(beside).map(Some).ok_or_else(|| Refusal::field(SCHEMA, "it is missing"))
        }
        _ => Err(Refusal::field("response_format.type", "expected text, json_object or json_schema")),
    }
}

fn of_schema(field: &'static str, value: Option<&Value>) -> Asked {
    let value = value.filter(|value| !value.is_null())?;
    Some((field, Grammar::JsonSchema(value.clone())))
}

fn of_text(value: Option<&Value>) -> Result<Asked, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(("grammar", Grammar::of_text(text)))),
        Some(_) => Err(Refusal::field("grammar", "expected a text, in GBNF or after %llguidance in Lark")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dialects_ask_for_the_same() {
        let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
        let openai = |format: Value| Format::read(Some(&format), None, None).unwrap().0;
        let grammar = || Some(Grammar::JsonSchema(schema.clone()));
        for free in [json!(null), json!({ "type": "text" })] {
            assert_eq!(openai(free), None);
        }
        for asked in [
            json!({ "type": "json_schema", "json_schema": { "name": "x", "strict": true, "schema": schema } }),
            json!({ "type": "json_schema", "schema": schema }),
            json!({ "type": "json_object", "schema": schema }),
        ] {
            assert_eq!(openai(asked).map(|asked| asked.1), grammar());
        }
        let any = openai(json!({ "type": "json_object", "schema": null }));
        assert_eq!(any, Some(("response_format", Grammar::json_object())));
        assert_eq!(Format::read(None, Some(&schema), None).unwrap().0.map(|asked| asked.1), grammar());
        let text = |text: &str| Format::read(None, None, Some(&json!(text))).unwrap().0.map(|asked| asked.1);
        assert_eq!(text(""), None);
        assert_eq!(text("root ::= \"a\""), Some(Grammar::Gbnf("root ::= \"a\"".into())));
        assert!(matches!(text("%llguidance {}\nstart: \"a\""), Some(Grammar::Lark(_))));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let schema = json!({});
        for (format, json_schema, grammar, expected) in [
            (json!({ "type": "xml" }), None, None, "response_format.type: expected text"),
            (json!("json_object"), None, None, "response_format.type: expected text"),
            (
                json!({ "type": "json_schema" }),
                None,
                None,
                "response_format.json_schema.schema: it is missing",
            ),
            (json!(null), Some(&schema), Some(json!("root ::= \"a\"")), "grammar: json_schema says already"),
            (
                json!({ "type": "json_object" }),
                Some(&schema),
                None,
                "json_schema: response_format says already",
            ),
            (json!(null), None, Some(json!(3)), "grammar: expected a text"),
        ] {
            let error = Format::read(Some(&format), json_schema, grammar.as_ref()).unwrap_err();
            let message = error.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(message.contains(expected), "{message}");
        }
    }
}

//! What an answer has to be, whatever dialect asks for it: OpenAI's `response_format` and `text.format`, Ollama's `format`,
//! llama-server's `json_schema` and `grammar`. It is compiled before a request waits, and what does not compile is refused.

use super::ask::aside;
use super::model::Model;
use super::refusal::Refusal;
use moewe_engine::grammar::{Begins, Constraint, Grammar};
use serde_json::Value;
use std::sync::Arc;

/// A grammar, with the field that asks for it; or none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Format(Option<(String, Grammar)>);

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
        let asked = [
            of_openai("response_format", response_format)?,
            of_schema("json_schema", json_schema),
            of_text(grammar)?,
        ];
        let mut asked = asked.into_iter().flatten();
        match (asked.next(), asked.next()) {
            (Some((first, _)), Some((second, _))) => {
                Err(Refusal::field(second, format!("{first} says already what the answer has to be")))
            }
            (asked, _) => Ok(Self(asked)),
        }
    }

    /// What `text.format` of a response asks for: `response_format` with the schema beside the type.
    ///
    /// # Errors
    /// Names the field that makes no sense.
    pub(super) fn of_response(format: Option<&Value>) -> Result<Self, Refusal> {
        of_openai("text.format", format).map(Self)
    }

    /// What Ollama's `format` asks for: `json`, or a schema.
    ///
    /// # Errors
    /// It is neither.
    pub(super) fn of_ollama(format: Option<&Value>) -> Result<Self, Refusal> {
        const FIELD: &str = "format";
        match format {
            None | Some(Value::Null) => Ok(Self::default()),
            Some(Value::String(text)) if text.is_empty() => Ok(Self::default()),
            Some(Value::String(text)) if text == "json" => {
                Ok(Self(Some((FIELD.into(), Grammar::json_object()))))
            }
            Some(schema @ Value::Object(_)) => Ok(Self(of_schema(FIELD, Some(schema)))),
            Some(_) => Err(Refusal::field(FIELD, "expected json or a schema")),
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
        compile(model, field, grammar, begins).await.map(Some)
    }
}

/// A grammar, ready to rule an answer; compiled while others are heard.
///
/// # Errors
/// Names the field that it comes of, where it is wrong or too much.
pub(super) async fn compile(
    model: &Arc<Model>,
    field: String,
    grammar: Grammar,
    begins: Begins,
) -> Result<Constraint, Refusal> {
    let model = model.clone();
    let work = move || {
        let matcher = model.engine.vocabulary().and_then(|vocabulary| vocabulary.compile(&grammar));
        let matcher = matcher.map_err(|error| Refusal::field(field, error.to_string()))?;
        Ok(Constraint { matcher, begins })
    };
    aside(work).await
}

type Asked = Option<(String, Grammar)>;

/// `{"type": "text" | "json_object" | "json_schema", …}`; a schema may stand beside the type as well.
fn of_openai(field: &str, value: Option<&Value>) -> Result<Asked, Refusal> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let beside = || of_schema(&format!("{field}.schema"), value.get("schema"));
    match value.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(beside().or_else(|| Some((field.to_owned(), Grammar::json_object())))),
        Some("json_schema") => {
            let path = format!("{field}.json_schema.schema");
            let named = of_schema(&path, value.pointer("/json_schema/schema"));
            named.or_else(beside).map(Some).ok_or_else(|| Refusal::field(path, "it is missing"))
        }
        _ => Err(Refusal::field(format!("{field}.type"), "expected text, json_object or json_schema")),
    }
}

fn of_schema(field: &str, value: Option<&Value>) -> Asked {
    let value = value.filter(|value| !value.is_null())?;
    Some((field.to_owned(), Grammar::JsonSchema(value.clone())))
}

fn of_text(value: Option<&Value>) -> Result<Asked, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(("grammar".into(), Grammar::of_text(text)))),
        Some(_) => Err(Refusal::field("grammar", "expected a text, in GBNF or after %llguidance in Lark")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::interface::Interface;
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
        assert_eq!(any, Some(("response_format".into(), Grammar::json_object())));
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
            let message = error.json(Interface::OpenAi, "")["error"]["message"].as_str().unwrap().to_owned();
            assert!(message.contains(expected), "{message}");
        }
    }
}

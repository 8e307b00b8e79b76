//! Tools that a model may call, as a request lists them: OpenAI's shape, into which other dialects put theirs. What is
//! wrong with them is said by its path; what is right becomes an offer to the reader of the answer.

use super::refusal::Refusal;
use moewe_engine::dialogue::{Dialogue, Offer, Tool};
use moewe_engine::grammar::{Begins, Grammar};
use moewe_engine::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;

/// More are refused.
const MOST: usize = 128;
const LONGEST_NAME: usize = 64;
/// Bytes of a schema.
const LARGEST_SCHEMA: usize = 256 << 10;

/// Whether a tool is to be called.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Choice {
    /// By no means.
    None,
    /// As the model likes.
    #[default]
    Auto,
    /// One of them.
    Required,
    /// This one.
    Named(String),
}

/// What may be called.
#[derive(Clone, Debug, Default)]
pub(super) struct Tools {
    /// `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub(super) list: Vec<Value>,
    pub(super) choice: Choice,
    /// Whether one answer may call several.
    pub(super) several: bool,
}

/// Tools that are right, for the template and for the reader of the answer.
pub(super) struct Offered {
    list: Value,
    pub(super) offer: Arc<Offer>,
    /// Whether the template says which tools there are, and how to call them.
    is_told: bool,
    must_call: bool,
}

impl Tools {
    /// What a model with this dialogue is offered; `None` where it is to call nothing.
    ///
    /// # Errors
    /// What is no tool or chooses none, and models that know no tools.
    pub(super) fn offered(&self, dialogue: &Dialogue) -> Result<Option<Offered>, Refusal> {
        if self.list.is_empty() && matches!(self.choice, Choice::Required | Choice::Named(_)) {
            return Err(Refusal::field("tool_choice", "there are no tools to choose from"));
        }
        if self.list.is_empty() || self.choice == Choice::None {
            return Ok(None);
        }
        if self.list.len() > MOST {
            return Err(Refusal::field("tools", format!("{} are more than {MOST}", self.list.len())));
        }
        let mut tools: Vec<Tool> = Vec::with_capacity(self.list.len());
        for (at, value) in self.list.iter().enumerate() {
            let tool = tool(&format!("tools[{at}]"), value)?;
            if tools.iter().any(|other| other.name == tool.name) {
                let path = format!("tools[{at}].function.name");
                return Err(Refusal::field(path, format!("two tools are called {}", tool.name)));
            }
            tools.push(tool);
        }
        match &self.choice {
            Choice::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
                return Err(Refusal::field("tool_choice", format!("no tool is called {name}")));
            }
            _ => {}
        }
        let must_call = self.choice != Choice::Auto;
        let is_told = dialogue.calls().is_some() && dialogue.is_told_of_tools();
        if !must_call && !is_told {
            return Err(Refusal::field("tools", "this model's template does not speak of tools"));
        }
        let list = self.list.iter().zip(&tools).map(|(value, tool)| {
            let mut value = value.clone();
            value["function"]["parameters"] = tool.parameters.clone();
            value
        });
        let list = list.collect();
        let mut several = self.several;
        if let Choice::Named(name) = &self.choice {
            tools.retain(|tool| tool.name == *name);
            several = false;
        }
        Ok(Some(Offered { list, offer: Arc::new(Offer { tools, several }), is_told, must_call }))
    }
}

impl Offered {
    /// The list as a variable of the template, which may not know it.
    pub(super) fn variable(&self) -> Option<(String, Value)> {
        self.is_told.then(|| ("tools".to_owned(), self.list.clone()))
    }

    /// What a model has to be told whose template does not speak of tools.
    pub(super) fn instructions(&self) -> Option<String> {
        (!self.is_told).then(|| {
            let tools = self.list.as_array().into_iter().flatten();
            let functions: String = tools.map(|tool| format!("{}\n", tool["function"])).collect();
            format!(
                "Answer with a call of one of these functions, and nothing else: a JSON object with the function's \
                 \"name\" and \"arguments\".\n{}",
                functions.trim_end()
            )
        })
    }

    /// How answers are to be read, and a grammar with where it begins: calls that have to be are forced, others are valid.
    pub(super) fn reading(
        &self,
        dialogue: &Dialogue,
        tokenizer: &Tokenizer,
    ) -> (Dialogue, Option<(Grammar, Begins)>) {
        if !self.must_call {
            let grammar = dialogue.grammar_of_a_call(&self.offer, tokenizer);
            return (dialogue.clone(), grammar.map(|text| (Grammar::Lark(text), Begins::WithEachCall)));
        }
        let own = dialogue.grammar_of_calls(&self.offer, tokenizer).filter(|_| self.is_told);
        let dialogue = if own.is_some() { dialogue.clone() } else { dialogue.with_forced_calls() };
        let grammar = own.or_else(|| dialogue.grammar_of_calls(&self.offer, tokenizer));
        let begins = if dialogue.rules_thoughts() { Begins::AtOnce } else { Begins::AfterThought };
        (dialogue, grammar.map(|text| (Grammar::Lark(text), begins)))
    }

    /// Whether calls have to be valid, even if schemas then have to be refused.
    pub(super) fn is_strict(&self) -> bool {
        let mut tools = self.list.as_array().into_iter().flatten();
        self.must_call || tools.any(|tool| tool["function"]["strict"] == true)
    }
}

fn tool(path: &str, value: &Value) -> Result<Tool, Refusal> {
    let wrong = |key: &str, what: &str| Err(Refusal::field(format!("{path}{key}"), what));
    if !value.is_object() {
        return wrong("", "expected an object");
    }
    match &value["type"] {
        Value::String(kind) if kind == "function" => {}
        Value::String(kind) => return wrong(".type", &format!("only functions can be called, not {kind}")),
        _ => return wrong(".type", "expected function"),
    }
    let function = &value["function"];
    if !function.is_object() {
        return wrong(".function", "expected an object");
    }
    let Some(name) = function["name"].as_str() else { return wrong(".function.name", "expected a string") };
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !(1..=LONGEST_NAME).contains(&name.len()) || !name.chars().all(is_of_a_name) {
        return wrong(".function.name", "expected 1 to 64 letters, digits, _, . and -");
    }
    if !matches!(function["description"], Value::Null | Value::String(_)) {
        return wrong(".function.description", "expected a string");
    }
    if !matches!(function["strict"], Value::Null | Value::Bool(_)) {
        return wrong(".function.strict", "expected true or false");
    }
    let parameters = match &function["parameters"] {
        Value::Null => json!({ "type": "object", "properties": {} }),
        Value::Object(schema) if schema.get("type").is_none_or(|kind| kind == "object") => {
            let mut schema = schema.clone();
            schema.entry("type").or_insert_with(|| "object".into());
            // Templates ask for them without looking.
            schema.entry("properties").or_insert_with(|| json!({}));
            Value::Object(schema)
        }
        _ => return wrong(".function.parameters", "expected the JSON schema of an object"),
    };
    if !parameters["properties"].is_object() {
        return wrong(".function.parameters.properties", "expected an object");
    }
    let bytes = parameters.to_string().len();
    if bytes > LARGEST_SCHEMA {
        let what = format!("{bytes} bytes are more than {LARGEST_SCHEMA}");
        return wrong(".function.parameters", &what);
    }
    Ok(Tool { name: name.to_owned(), parameters })
}

#[cfg(test)]
mod tests {
    use super::*;
    use moewe_engine::tokenizer::ChatTemplate;

    const TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}\
        {% for c in m.tool_calls or [] %}<call>{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}</call>{% endfor %}{% endfor %}";

    fn dialogue(source: &str) -> Dialogue {
        Dialogue::of(&ChatTemplate::new(source, "", "").unwrap())
    }

    fn offered(list: Value, choice: Choice) -> Result<Option<Offered>, String> {
        let tools = Tools { list: list.as_array().unwrap().clone(), choice, several: true };
        tools.offered(&dialogue(TEMPLATE)).map_err(|refusal| format!("{refusal:?}"))
    }

    fn function(value: Value) -> Value {
        json!({ "type": "function", "function": value })
    }

    #[test]
    fn what_is_no_tool_is_named() {
        let many: Vec<_> = (0..129).map(|number| function(json!({ "name": format!("f{number}") }))).collect();
        let large = json!({ "name": "f", "parameters": { "type": "object", "description": "x".repeat(LARGEST_SCHEMA) } });
        for (list, part) in [
            (json!([1]), "tools[0]: expected an object"),
            (json!([{}]), "tools[0].type: expected function"),
            (
                json!([{ "type": "web_search" }]),
                "tools[0].type: only functions can be called, not web_search",
            ),
            (json!([{ "type": "function" }]), "tools[0].function: "),
            (
                json!([function(json!({ "name": "f" })), function(json!({}))]),
                "tools[1].function.name: expected a string",
            ),
            (json!([function(json!({ "name": "" }))]), "tools[0].function.name: expected 1 to 64"),
            (json!([function(json!({ "name": "a b" }))]), "tools[0].function.name: expected 1 to 64"),
            (
                json!([function(json!({ "name": "f".repeat(65) }))]),
                "tools[0].function.name: expected 1 to 64",
            ),
            (
                json!([function(json!({ "name": "f" })), function(json!({ "name": "f" }))]),
                "tools[1].function.name: two tools",
            ),
            (json!([function(json!({ "name": "f", "description": 1 }))]), "tools[0].function.description"),
            (json!([function(json!({ "name": "f", "strict": "yes" }))]), "tools[0].function.strict"),
            (json!([function(json!({ "name": "f", "parameters": [] }))]), "tools[0].function.parameters: "),
            (
                json!([function(json!({ "name": "f", "parameters": { "type": "string" } }))]),
                "tools[0].function.parameters: ",
            ),
            (
                json!([function(json!({ "name": "f", "parameters": { "properties": 1 } }))]),
                "parameters.properties",
            ),
            (json!([function(large)]), "tools[0].function.parameters: "),
            (json!(many), "tools: 129 are more than 128"),
        ] {
            let error = offered(list, Choice::Auto).err().unwrap();
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(offered(json!([]), Choice::Required).err().unwrap().contains("no tools to choose from"));
        let one = json!([function(json!({ "name": "f" }))]);
        assert!(offered(one, Choice::Named("g".into())).err().unwrap().contains("no tool is called g"));
    }

    #[test]
    fn templates_see_whole_tools() {
        let one = json!([function(json!({ "name": "a.b-c_1", "description": null, "strict": true }))]);
        let found = offered(one.clone(), Choice::Auto).unwrap().unwrap();
        assert!(found.instructions().is_none() && found.variable().is_some());
        assert_eq!(found.list[0]["function"]["parameters"], json!({ "type": "object", "properties": {} }));
        assert_eq!(found.offer.tools[0].name, "a.b-c_1");
        assert!(offered(one.clone(), Choice::None).unwrap().is_none());
        assert!(offered(json!([]), Choice::Auto).unwrap().is_none());
        let tools = Tools { list: one.as_array().unwrap().clone(), ..Tools::default() };
        for source in ["{{ messages[0].content }}", &TEMPLATE.replace("tools | tojson", "tools | length")] {
            let error = format!("{:?}", tools.offered(&dialogue(source)).err().unwrap());
            assert!(error.contains("does not speak of tools"), "{error}");
        }
    }
}

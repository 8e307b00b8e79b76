//! The tools that a request offers: what a reader of calls has to know of them.

use serde_json::Value;

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// What a call names.
    pub name: String,
    /// A JSON schema of an object.
    pub parameters: Value,
}

/// All of them, of which at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// In the request's order.
    pub tools: Vec<Tool>,
    /// Whether one answer may call several times; else it ends with its first call.
    pub several: bool,
}

impl Offer {
    /// The tool of this name.
    pub(in crate::dialogue) fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name == name)
    }
}

impl Tool {
    /// What the schema says of one of its parameters.
    pub(super) fn parameter(&self, key: &str) -> Option<&Value> {
        self.parameters.get("properties")?.get(key)
    }

    /// The value that a model wrote without quotes: what is no text by the schema is JSON, where it is any.
    pub(super) fn value(&self, key: &str, text: &str) -> Value {
        let parsed = serde_json::from_str::<Value>(text.trim());
        let types = self.parameter(key).map_or_else(Vec::new, |schema| types(schema, &self.parameters, 0));
        let fits = |value: &Value| {
            let is = |name: &str| match name {
                "integer" | "number" => value.is_number(),
                "boolean" => value.is_boolean(),
                "null" => value.is_null(),
                "object" => value.is_object(),
                "array" => value.is_array(),
                _ => false,
            };
            !types.contains(&"string") || types.iter().any(|name| is(name))
        };
        parsed.ok().filter(fits).unwrap_or_else(|| Value::from(text))
    }

    /// Whether a parameter is a text and nothing else.
    pub(super) fn is_text(&self, key: &str) -> bool {
        let schema = self.parameter(key);
        schema.is_some_and(|schema| types(schema, &self.parameters, 0) == ["string"])
    }
}

/// The types that a schema names, through references and alternatives; none where it says nothing.
fn types<'s>(schema: &'s Value, root: &'s Value, depth: usize) -> Vec<&'s str> {
    const DEPTH: usize = 8;
    if depth == DEPTH {
        return vec![];
    }
    let mut found: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    if let Some(target) = schema["$ref"].as_str().and_then(|path| root.pointer(path.strip_prefix('#')?)) {
        found.extend(types(target, root, depth + 1));
    }
    for list in ["anyOf", "oneOf", "allOf"] {
        let parts = schema[list].as_array().into_iter().flatten();
        found.extend(parts.flat_map(|part| types(part, root, depth + 1)));
    }
    if found.is_empty() {
        let values = schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"));
        found.extend(values.map(|value| match value {
            Value::String(_) => "string",
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        }));
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_what_the_schema_says() {
        let tool = Tool {
            name: "f".into(),
            parameters: json!({"type": "object", "$defs": {"id": {"type": "string"}}, "properties": {
                "text": {"type": "string"},
                "count": {"type": "integer"},
                "maybe": {"type": ["string", "null"]},
                "either": {"anyOf": [{"type": "string"}, {"type": "number"}]},
                "id": {"$ref": "#/$defs/id"},
                "unit": {"enum": ["5", "6"]},
                "loop": {"$ref": "#/properties/loop"},
            }}),
        };
        for (key, text, value) in [
            ("text", "5", json!("5")),
            ("text", "\"5\"", json!("\"5\"")),
            ("count", "5", json!(5)),
            ("count", " 5\n", json!(5)),
            ("count", "five", json!("five")),
            ("maybe", "null", json!(null)),
            ("maybe", "5", json!("5")),
            ("either", "5", json!(5)),
            ("either", "true", json!("true")),
            ("id", "7", json!("7")),
            ("unit", "5", json!("5")),
            ("unknown", "[1]", json!([1])),
            ("loop", "x y", json!("x y")),
        ] {
            assert_eq!(tool.value(key, text), value, "{key}: {text}");
        }
        let texts = ["text", "id", "unit"];
        let keys = ["text", "count", "maybe", "either", "id", "unit", "loop", "unknown"];
        assert_eq!(keys.into_iter().filter(|key| tool.is_text(key)).collect::<Vec<_>>(), texts);
    }
}

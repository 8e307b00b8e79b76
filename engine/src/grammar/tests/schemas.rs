//! JSON under schemas against the crate `jsonschema`, and what is said of those that are not supported.

use super::*;
use serde_json::from_slice;

/// Text at random that a grammar admits; `None` where it had not ended by then.
pub(super) fn text(matcher: &Matcher, random: &mut Random, steps: usize) -> Option<Vec<u8>> {
    let tokenizer = &VOCABULARY.0;
    let (mut matcher, mut text) = (matcher.clone(), vec![]);
    for _ in 0..steps {
        let Next::Tokens(mask) = matcher.allowed().unwrap() else { return Some(text) };
        let tokens: Vec<u32> = mask.tokens().collect();
        let token = tokens[random.below(tokens.len())];
        if tokenizer.is_end(token) {
            return Some(text);
        }
        matcher.advance(token).unwrap();
        text.extend_from_slice(tokenizer.piece_bytes(token));
    }
    None
}

#[test]
fn what_comes_out_is_valid() {
    let mut random = Random(4);
    for schema in [
        json!({ "type": "object", "properties": { "a": { "type": "integer" }, "ü🦙": { "enum": ["x", 1, null] } },
                "required": ["a", "ü🦙"], "additionalProperties": false }),
        json!({ "type": "array", "items": { "type": "boolean" }, "minItems": 1, "maxItems": 3 }),
        json!({ "type": "string", "maxLength": 5, "minLength": 2 }),
        json!({ "type": "string", "pattern": "^[a-c]{2,4}$" }),
        json!({ "type": "number", "minimum": -3, "exclusiveMaximum": 17.5 }),
        json!({ "anyOf": [{ "const": "ab" }, { "type": "null" }] }),
        json!({ "oneOf": [{ "const": "ab" }, { "const": 12 }] }),
        json!({ "$defs": { "node": { "type": "object", "properties": { "next": { "anyOf": [
                    { "$ref": "#/$defs/node" }, { "type": "null" }] } }, "required": ["next"],
                    "additionalProperties": false } }, "$ref": "#/$defs/node" }),
        json!({ "allOf": [{ "type": "object", "required": ["a"] }, { "properties": { "a": { "const": true } } }],
                "maxProperties": 1 }),
        json!({ "type": ["integer", "null"], "maximum": 30, "minimum": 0 }),
        json!({ "const": { "deep": [1, { "x": [] }] } }),
        json!({ "type": "string", "format": "date" }),
    ] {
        let valid = jsonschema::validator_for(&schema).unwrap();
        let matcher =
            compile(&Grammar::JsonSchema(schema.clone())).unwrap_or_else(|e| panic!("{schema}: {e}"));
        let mut ended = 0;
        for _ in 0..60 {
            let Some(text) = text(&matcher, &mut random, 150) else { continue };
            let value: Value = from_slice(&text).unwrap_or_else(|e| panic!("{schema}: {text:?}: {e}"));
            assert!(valid.is_valid(&value), "{schema}: {value}");
            ended += 1;
        }
        assert!(ended > 0, "{schema}");
    }
}

#[test]
fn any_object_and_anything() {
    let mut random = Random(5);
    let matcher = compile(&Grammar::json_object()).unwrap();
    let texts: Vec<_> = (0..200).filter_map(|_| text(&matcher, &mut random, 40)).collect();
    assert!(texts.len() > 5);
    for text in texts {
        assert!(from_slice::<Value>(&text).unwrap().is_object());
    }
    for schema in [json!(true), json!({}), json!({ "title": "T", "x-own": 3 })] {
        let mut matcher = compile(&Grammar::JsonSchema(schema)).unwrap();
        matcher.advance_bytes(b"[1, {\"a\":\n\t\"b\"}]").unwrap();
        assert!(matcher.may_end().unwrap());
    }
}

/// A model that likes white space comes to an end of it.
#[test]
fn white_space_is_bounded() {
    let mut matcher = compile(&Grammar::json_object()).unwrap();
    matcher.advance_bytes(b"{\"a\":\n\n        1,\r\n  \"b\": 2").unwrap();
    assert!(matcher.clone().advance_bytes(b"  ").is_err());
    assert!(matcher.clone().advance_bytes(b"\n\n\n").is_err());
    matcher.advance_bytes(b"\n}").unwrap();
    assert!(matcher.must_end());
}

#[test]
fn what_is_not_supported_is_named() {
    for (schema, expected) in [
        (json!({ "type": "object", "propertyNames": { "maxLength": 3 } }), "propertyNames"),
        (json!({ "type": "array", "uniqueItems": true }), "uniqueItems"),
        (json!({ "not": { "type": "null" } }), "not"),
        (json!({ "if": { "type": "null" }, "then": { "const": 1 } }), "if"),
        (json!({ "type": "string", "format": "colour" }), "colour"),
        (json!({ "oneOf": [{ "type": "integer" }, { "minimum": 3 }] }), "oneOf is supported where"),
        (json!({ "$ref": "#/nowhere" }), "nowhere"),
        (json!({ "$ref": "https://example.com/schema" }), "example.com"),
        (json!({ "type": "integer", "minimum": 3, "maximum": 2 }), "minimum"),
        (json!({ "type": "float" }), "float"),
        (json!({ "type": "string", "pattern": "(" }), "("),
        (json!({ "enum": 3 }), "enum"),
        (json!(3), "a schema is an object"),
        (json!(false), "a schema is an object"),
        (json!({ "type": "array", "uniqueItems": true, "x-guidance": { "lenient": true } }), "uniqueItems"),
    ] {
        let error = compile(&Grammar::JsonSchema(schema.clone())).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{schema}: {error}");
    }
}

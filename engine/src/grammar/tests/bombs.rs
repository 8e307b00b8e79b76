//! Grammars that are meant to break what compiles them: an error in time, or a matcher.

use super::*;
use std::time::{Duration, Instant};

/// Compiles it with a vocabulary of the test's own, where nobody else is late: no panic, and in time.
fn survive(own: &Arc<Vocabulary>, grammar: &Grammar) -> Result<Matcher> {
    let start = Instant::now();
    let made = own.compile(grammar);
    let took = start.elapsed();
    assert!(took < Duration::from_millis(1500), "{took:?}");
    // None goes on for ever.
    while own.late() > 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "{grammar:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    if let Err(error) = &made {
        let error = error.to_string();
        assert!(!error.contains('\n') && error.len() < 500 && !error.contains("panic"), "{error}");
    }
    made
}

/// Follows it where it leads.
fn follow(matcher: &Matcher, random: &mut Random) {
    let mut matcher = matcher.clone();
    let ends = matcher.vocabulary().ends().to_vec();
    for _ in 0..20 {
        let Ok(Next::Tokens(mask)) = matcher.allowed() else { return };
        let tokens: Vec<u32> = mask.tokens().filter(|token| !ends.contains(token)).collect();
        if tokens.is_empty() || matcher.advance(tokens[random.below(tokens.len())]).is_err() {
            return;
        }
    }
}

#[test]
fn nested_groups() {
    let (_, own) = vocabulary();
    for depth in [101, 30_000, 60_000] {
        let nested = |open: &str, close: &str| format!("{}a{}", open.repeat(depth), close.repeat(depth));
        for grammar in [
            Grammar::Gbnf(format!("root ::= {}", nested("(", ")"))),
            Grammar::Gbnf(format!("root ::= {}", "(".repeat(depth))),
            Grammar::Regex(nested("(", ")")),
            Grammar::Regex(nested("(?:", ")*")),
            Grammar::Lark(format!("start: {}", nested("(", ")").replace('a', "\"a\""))),
            Grammar::Lark(format!("start: {}", nested("[", "]").replace('a', "\"a\""))),
        ] {
            let error = survive(&own, &grammar).unwrap_err().to_string();
            assert!(error.contains("nested more than") || error.contains("at most 65536"), "{error}");
        }
        let wrap = |inner, _| Value::Object(Map::from_iter([("items".to_owned(), inner)]));
        let array = (0..depth.min(1000)).fold(json!({}), wrap);
        let error = survive(&own, &Grammar::JsonSchema(array)).unwrap_err().to_string();
        assert!(error.contains("nested more than"), "{error}");
    }
}

#[test]
fn repetitions_and_chains() {
    let (_, own) = vocabulary();
    let mut random = Random(6);
    let chain = |rule: &dyn Fn(usize) -> String| (0..3000).map(rule).collect::<String>();
    let doubling: String = (0..60).map(|n| format!("r{n} ::= r{} r{}\n", n + 1, n + 1)).collect();
    let silence: String = (0..60).map(|n| format!("r{n} ::= r{} r{}\n", n + 1, n + 1)).collect();
    for grammar in [
        Grammar::Regex("(a{1000}){1000}".into()),
        Grammar::Regex("((a{100}){100}){100}{100}".into()),
        Grammar::Regex("(a?){30000}a{30000}".into()),
        Grammar::Regex("a{4294967295}".into()),
        Grammar::Regex("(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)[^b]{900}".into()),
        Grammar::Regex("(?:(?:a|b)*a(?:a|b){50})&".into()),
        Grammar::Regex(r"[\w\W]{1,5000}(\p{L}\p{Lu}?){0,500}".into()),
        Grammar::Gbnf("root ::= \"a\"{2000000000}".into()),
        Grammar::Gbnf("root ::= (\"a\" root?){2000000000}".into()),
        Grammar::Gbnf("root ::= ((((\"a\"{1000}){1000}){1000}){1000}){1000}".into()),
        Grammar::Gbnf(format!("root ::= r0\n{doubling}r60 ::= \"a\"\n")),
        Grammar::Gbnf(format!("root ::= r0\n{silence}r60 ::= \"\"\n")),
        Grammar::Gbnf(format!("root ::= r0\n{silence}r60 ::=\n")),
        Grammar::Gbnf(format!(
            "root ::= r0\n{}r3000 ::= \"a\"",
            chain(&|n| format!("r{n} ::= r{}\n", n + 1))
        )),
        Grammar::Gbnf(format!("root ::= r0\n{}r3000 ::= r0", chain(&|n| format!("r{n} ::= r{}\n", n + 1)))),
        Grammar::Gbnf("root ::= root root | root".into()),
        Grammar::Gbnf("root ::= (root?)* \"a\"".into()),
        Grammar::Gbnf(format!("root ::= {}", "\"a\"* ".repeat(8000))),
        Grammar::Gbnf(format!("root ::= {}\"b\"", "\"a\" | ".repeat(8000))),
        Grammar::Lark(format!("start: T0\n{}T3000: \"a\"", chain(&|n| format!("T{n}: \"a\" T{}\n", n + 1)))),
        Grammar::Lark(format!(
            "start: T0\n{}T60: \"a\"",
            (0..60).map(|n| format!("T{n}: T{} T{}\n", n + 1, n + 1)).collect::<String>()
        )),
        Grammar::Lark("start: T\nT: T \"a\"".into()),
        Grammar::Lark("start: /(a{1000}){1000}/{1000}".into()),
        Grammar::Lark("%llguidance {\"no_forcing\": true, \"allow_invalid_utf8\": true}\nstart: /.*/".into()),
        Grammar::Lark("start: <[0]> <[999999999]> <nothing>".into()),
        Grammar::Lark(String::new()),
        Grammar::Lark("\0\u{ff}start".into()),
    ] {
        if let Ok(matcher) = survive(&own, &grammar) {
            follow(&matcher, &mut random);
        }
    }
}

#[test]
fn schemas_that_grow() {
    let (_, own) = vocabulary();
    let mut random = Random(7);
    let doubled = |n: usize| {
        let pair =
            json!([{ "$ref": format!("#/$defs/d{}", n + 1) }, { "$ref": format!("#/$defs/d{}", n + 1) }]);
        (format!("d{n}"), json!({ "allOf": pair }))
    };
    let mut definitions: Map<String, Value> = (0..40).map(doubled).collect();
    definitions.insert("d40".into(), json!({ "type": "object" }));
    let fields: Map<String, Value> =
        (0..3000).map(|n| (format!("field{n}"), json!({ "type": "string", "maxLength": n }))).collect();
    let either: Vec<Value> =
        (0..300).map(|n| json!({ "properties": { format!("k{n}"): { "const": n } } })).collect();
    for schema in [
        json!({ "$ref": "#" }),
        json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" }),
        json!({ "allOf": [{ "$ref": "#" }, { "$ref": "#" }] }),
        json!({ "anyOf": [{ "$ref": "#" }, { "$ref": "#" }] }),
        json!({ "items": { "$ref": "#" }, "type": "array" }),
        json!({ "$defs": definitions, "$ref": "#/$defs/d0" }),
        json!({ "type": "object", "properties": fields }),
        json!({ "type": "string", "minLength": 4_000_000_000u64 }),
        json!({ "type": "string", "maxLength": u64::MAX }),
        json!({ "type": "string", "pattern": "(a{1000}){1000}" }),
        json!({ "type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$" }),
        json!({ "type": "array", "minItems": 1_000_000_000 }),
        json!({ "type": "array", "items": { "type": "array", "minItems": 100_000 }, "minItems": 100_000 }),
        json!({ "type": "object", "minProperties": 100_000 }),
        json!({ "allOf": either.iter().map(|one| json!({ "anyOf": [one, { "type": "null" }] })).collect::<Vec<_>>() }),
        json!({ "anyOf": either }),
        json!({ "type": "integer", "minimum": -1e300, "maximum": 1e300, "multipleOf": 1e-300 }),
        json!({ "type": "number", "multipleOf": 0 }),
        json!({ "enum": (0..20_000).collect::<Vec<_>>() }),
        json!({ "const": "x".repeat(200_000) }),
        json!({ "const": "x".repeat(300_000) }),
        json!({ "patternProperties": { "(a{1000}){1000}": {}, "b*": {} } }),
        json!({ "x-guidance": 3, "type": "object" }),
    ] {
        if let Ok(matcher) = survive(&own, &Grammar::JsonSchema(schema)) {
            follow(&matcher, &mut random);
        }
    }
}

fn random_schemas(count: usize, seed: u64) {
    let (_, own) = vocabulary();
    let mut random = Random(seed);
    for _ in 0..count {
        let schema = schema(&mut random, 4);
        if let Ok(matcher) = survive(&own, &Grammar::JsonSchema(schema)) {
            follow(&matcher, &mut random);
        }
    }
}

#[test]
fn a_few_random_schemas() {
    random_schemas(300, 8);
}

#[test]
#[ignore = "takes minutes"]
fn ten_thousand_random_schemas() {
    random_schemas(10_000, 9);
}

/// Keywords of all kinds with values that fit them, mostly.
fn schema(random: &mut Random, depth: usize) -> Value {
    const NUMBERS: [f64; 10] = [0.0, 1.0, -1.0, 2.5, 7.0, 100.0, 1e18, -1e18, 1e300, 4_294_967_296.0];
    const WORDS: [&str; 9] = ["a", "ü", "", "(", "^a+$", "date", "uuid", "#/$defs/a", "#"];
    const TYPES: [&str; 7] = ["object", "array", "string", "number", "integer", "boolean", "null"];
    const KEYWORDS: [&str; 32] = [
        "type",
        "type",
        "type",
        "properties",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "multipleOf",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "not",
        "patternProperties",
        "minProperties",
        "uniqueItems",
        "title",
    ];
    let mut made = Map::new();
    for _ in 0..random.below(5) {
        let keyword = KEYWORDS[random.below(KEYWORDS.len())];
        let word = Value::from(WORDS[random.below(WORDS.len())]);
        let number = json!(NUMBERS[random.below(NUMBERS.len())]);
        let count = json!(random.below(40));
        let inner = |random: &mut Random| if depth == 0 { json!({}) } else { schema(random, depth - 1) };
        let value = match (random.below(20), keyword) {
            (0, _) => [word, number, json!(null), json!([]), json!({})][random.below(5)].clone(),
            (_, "type") => json!(TYPES[random.below(TYPES.len())]),
            (_, "properties" | "patternProperties" | "$defs") => {
                json!({ "a": inner(random), WORDS[random.below(WORDS.len())]: inner(random) })
            }
            (_, "required") => json!([word]),
            (_, "additionalProperties" | "items" | "not") => inner(random),
            (_, "anyOf" | "oneOf" | "allOf" | "prefixItems") => json!([inner(random), inner(random)]),
            (_, "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties") => count,
            (_, "enum") => json!([word, number, null]),
            (_, "uniqueItems") => json!(true),
            (_, "minimum" | "maximum" | "exclusiveMinimum" | "multipleOf") => number,
            _ => word,
        };
        made.insert(keyword.into(), value);
    }
    made.into()
}

//! What was read is not read again: conversations that grow, by turns with others, whatever slot a client names.

use crate::serving::{Serving, command};
use serde_json::{Value, json};

/// One more turn of a conversation; `prompt_tokens`, of these computed, and all tokens with the answer.
fn turn(serving: &Serving, messages: &mut Vec<Value>, fields: &Value) -> [u64; 3] {
    let mut request = json!({ "messages": messages, "max_tokens": 8, "temperature": 0 });
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let reply = serving.post("/v1/chat/completions", &request);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let reply = reply.json();
    let text = reply["choices"][0]["message"]["content"].clone();
    messages.push(json!({ "role": "assistant", "content": text }));
    let number = |pointer: &str| reply.pointer(pointer).and_then(Value::as_u64).unwrap();
    let (prompt, computed) = (number("/usage/prompt_tokens"), number("/timings/prompt_n"));
    assert_eq!(computed + number("/timings/cache_n"), prompt);
    assert_eq!(number("/usage/prompt_tokens_details/cached_tokens"), number("/timings/cache_n"));
    [prompt, computed, prompt + number("/usage/completion_tokens")]
}

#[test]
fn a_growing_conversation_is_computed_where_it_grew() {
    let serving = Serving::by(command(), &["--parallel", "2"]);
    // Slots are a hint at most: one that is empty, or another's, loses nothing.
    let fields = [json!({}), json!({ "id_slot": 1 }), json!({ "id_slot": 0 }), json!({ "id_slot": -1 })];
    let mut others = vec![];
    let (mut messages, mut held, mut sum) = (vec![], 0, 0);
    for (number, fields) in fields.iter().enumerate() {
        messages.push(json!({ "role": "user", "content": format!("Wo war das {number}. Boot?") }));
        let [prompt, computed, all] = turn(&serving, &mut messages, fields);
        if number > 0 {
            // What ends an answer, and what a text is cut into where it goes on, may be others'.
            assert!(prompt - computed + 4 >= held, "{prompt} of which {computed} computed, held {held}");
        }
        (held, sum) = (all, sum + computed);
        others.push(json!({ "role": "user", "content": format!("Und wer bist du, Nummer {number}?") }));
        turn(&serving, &mut others, &json!({}));
    }
    assert!(sum < held + 16, "{sum} computed for a conversation of {held}");
}

#[test]
fn who_wants_no_memory_takes_and_leaves_none() {
    let serving = Serving::by(command(), &["--parallel", "2"]);
    let question = || vec![json!({ "role": "user", "content": "Ein Satz, den sonst niemand sagt." })];
    let forgotten = json!({ "cache_prompt": false });
    for (fields, knows) in [(&forgotten, false), (&json!({}), false), (&forgotten, false), (&json!({}), true)]
    {
        let [prompt, computed, _] = turn(&serving, &mut question(), fields);
        assert_eq!(computed == 1, knows, "{fields}: {computed} of {prompt}");
    }
}

//! Every kind of line: what it becomes, and what is said where it breaks a rule.

use super::*;

/// The text of the only line, and what is trained of it.
fn read(line: &str) -> (String, Vec<String>) {
    let masked = Folder::new(Some(CHATML)).masked(512, &[line]).unwrap().remove(0);
    let trained = trained(&masked).into_iter().map(str::to_owned).collect();
    (masked.text, trained)
}

#[track_caller]
fn check(line: &str, text: &str, trained: &[&str]) {
    // The templates' own marks are long.
    let text: String = text
        .chars()
        .map(|c| match c {
            '<' => "<|im_start|>".to_owned(),
            '>' => "<|im_end|>\n".to_owned(),
            c => c.to_string(),
        })
        .collect();
    let trained: Vec<String> = trained.iter().map(|text| text.replace('>', "<|im_end|>")).collect();
    assert_eq!(read(line), (format!("<s>{text}"), trained), "{line}");
}

#[test]
fn chats() {
    check(
        r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]}"#,
        "<system\nS><user\nU><assistant\nA>",
        &["A>"],
    );
    // What is not to be trained is read all the same; a developer is this template's system.
    check(
        r#"{"id": 7, "messages": [{"role": "developer", "content": [{"type": "text", "text": "S"}, {"type": "text", "text": "T"}]},
            {"role": "assistant", "content": "A", "weight": 0}, {"role": "user", "content": "U", "name": null},
            {"role": "assistant", "content": "B", "train": false}, {"role": "assistant", "content": "C", "weight": 1.0, "train": true},
            {"role": "tool", "content": "D"}, {"role": "assistant", "content": "E"}, {"role": "user", "content": "F"}]}"#
            .replace('\n', "")
            .as_str(),
        "<system\nST><assistant\nA><user\nU><assistant\nB><assistant\nC><tool\nD><assistant\nE><user\nF>",
        &["C>", "E>"],
    );
}

#[test]
fn share_gpt() {
    check(
        r#"{"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "U"}, {"from": "gpt", "value": "A"},
            {"from": "user", "value": "V"}, {"from": "chatgpt", "value": "B"}, {"from": "tool", "value": "T"},
            {"from": "bot", "value": "C", "weight": 0}, {"from": "function_response", "value": "R"},
            {"from": "assistant", "value": "D"}, {"from": "observation", "value": "O"}]}"#
            .replace('\n', "")
            .as_str(),
        "<system\nS><user\nU><assistant\nA><user\nV><assistant\nB><tool\nT><assistant\nC><tool\nR><assistant\nD><tool\nO>",
        &["A>", "B>", "D>"],
    );
    check(
        r#"{"system": "S", "conversations": [{"from": "human", "value": "U"}, {"from": "gpt", "value": "A"}]}"#,
        "<system\nS><user\nU><assistant\nA>",
        &["A>"],
    );
}

#[test]
fn alpaca() {
    check(r#"{"instruction": "I", "input": "", "output": "O"}"#, "<user\nI><assistant\nO>", &["O>"]);
    check(
        r#"{"instruction": "I", "input": "J", "output": "O", "system": "S", "history": [["a", "b"], ["c", "d"]], "text": "t"}"#,
        "<system\nS><user\na><assistant\nb><user\nc><assistant\nd><user\nI\n\nJ><assistant\nO>",
        &["O>"],
    );
}

#[test]
fn prompts_and_completions() {
    check(
        r#"{"prompt": [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}, {"role": "user", "content": "V"}], "completion": [{"role": "assistant", "content": "B"}]}"#,
        "<user\nU><assistant\nA><user\nV><assistant\nB>",
        &["B>"],
    );
    for (line, text, trained) in [
        // The tokenizer begins texts with <s>; whoever writes it has it once. An end token is there once, too.
        (r#"{"prompt": "Wie geht", "completion": " es dir?"}"#, "Wie geht es dir?</s>", " es dir?</s>"),
        (r#"{"prompt": "<s>Wie", "completion": " es?</s>"}"#, "<s>Wie es?</s>", " es?</s>"),
        (
            r#"{"prompt": "<|im_start|>a", "completion": "b<|im_end|>"}"#,
            "<|im_start|>ab<|im_end|></s>",
            "b<|im_end|></s>",
        ),
        // 'nd' is a token: half of it is the completion's.
        (r#"{"prompt": "n", "completion": "d"}"#, "nd</s>", "nd</s>"),
        (r#"{"text": "Möwen 🐦"}"#, "Möwen 🐦</s>", "Möwen 🐦</s>"),
    ] {
        assert_eq!(read(line), (text.to_owned(), vec![trained.to_owned()]), "{line}");
    }
    let masked = Folder::new(None).masked(512, &[r#"{"text": "a</s>b"}"#, r#"{"text": "<s>a"}"#]).unwrap();
    assert_eq!(masked[0].encoded.tokens, [1, 69, 2, 70, 2]);
    assert_eq!(masked[1].encoded.tokens, [1, 69, 2]);
    assert_eq!(masked[0].trained, [false, true, true, true, true], "nothing predicts the first");
}

#[test]
fn the_first_line_says_the_kind() {
    let folder = Folder::new(Some(CHATML));
    let text = r#"{"text": "a", "source": "b"}"#;
    assert_eq!(
        folder.refused(&["", text, "  ", r#"{"prompt": "a", "completion": "b"}"#]),
        "data.jsonl: line 4: expected a line of kind text as line 2 with the keys text, source, found the keys prompt, completion"
    );
    assert_eq!(
        folder.refused(&[r#"{"prompt": "a", "completion": "b"}"#, r#"{"prompt": [], "completion": []}"#]),
        "data.jsonl: line 2: expected a line of kind completion as line 1 with the keys prompt, completion, found the keys prompt, completion"
    );
    assert_eq!(
        folder.refused(&[r#"{"question": "a", "answer": "b"}"#]),
        "data.jsonl: line 1: expected the keys messages, or conversations, or instruction and output, or prompt and completion, or text, found the keys question, answer"
    );
    assert!(
        folder
            .refused(&["[", "{}", "]"])
            .starts_with("data.jsonl: line 1: expected a JSON object on each line (`jq")
    );
    assert!(
        folder.refused(&[text, "{"]).starts_with("data.jsonl: line 2: expected a JSON object, found EOF")
    );
    assert!(
        folder.refused(&["1"]).starts_with("data.jsonl: line 1: expected a JSON object, found invalid type")
    );
    assert!(folder.refused(&["{}"]).ends_with("found no keys"));
    let steering = format!(r#"{{"a\u001b[2J\n": 1, "{}": 2}}"#, "ö".repeat(90));
    let expected = format!(r"found the keys a\u{{1b}}[2J\n, {}", "ö".repeat(40));
    assert!(folder.refused(&[&steering]).ends_with(&expected), "{}", folder.refused(&[&steering]));
    assert!(folder.refused(&[" ", ""]).starts_with("no example has a token to train on (0 examples)"));
    // The first bad line is named, whatever threads do.
    let bad: Vec<String> =
        (0..300).map(|at| if at < 200 { text.to_owned() } else { "{".repeat(at) }).collect();
    let bad: Vec<&str> = bad.iter().map(String::as_str).collect();
    assert!(folder.refused(&bad).starts_with("data.jsonl: line 201: "));
    // Files may differ.
    let data = [
        folder.write("a.jsonl", &[text]),
        folder.write("b.jsonl", &[r#"{"instruction": "a", "output": "b", "x": 1}"#]),
    ];
    let rows = folder.prepared(&settings(&data, 64)).unwrap();
    assert_eq!(rows.counts.kinds, [("text", 1), ("Alpaca", 1)]);
    assert_eq!(rows.counts.unread, ["source", "x"]);
}

#[test]
fn what_breaks_the_rules_is_named() {
    let folder = Folder::new(Some(CHATML));
    let messages = |messages: &str| format!(r#"{{"messages": {messages}}}"#);
    let cases = [
        (
            messages(r#"[{"role": "human", "content": "a"}]"#),
            r#"messages[0].role: expected one of system, developer, user, assistant, tool, found "human""#,
        ),
        (
            messages(r#"[{"content": "a"}]"#),
            "messages[0].role: expected one of system, developer, user, assistant, tool, found null",
        ),
        (
            messages(r#"[{"role": "user"}]"#),
            "messages[0].content: expected a text or a list of parts, found null",
        ),
        (
            messages(r#"[{"role": "user", "content": [{"type": "image", "text": "x"}]}]"#),
            r#"messages[0].content[0]: expected a part of type text, found {"type":"image","text":"x"}"#,
        ),
        (
            messages(r#"["a"]"#),
            r#"messages[0]: expected a message: an object with role and content, found "a""#,
        ),
        (messages(r#""a""#), r#"messages: expected a list, found "a""#),
        (
            messages(r#"[{"role": "assistant", "content": "a", "weight": 0.5}]"#),
            "messages[0].weight: expected 0 or 1, found 0.5",
        ),
        (
            messages(r#"[{"role": "assistant", "content": "a", "train": "no"}]"#),
            r#"messages[0].train: expected true or false, found "no""#,
        ),
        (
            messages(r#"[{"role": "assistant", "tool_calls": 1}]"#),
            "messages[0].tool_calls: expected a list, found 1",
        ),
        (
            messages(r#"[{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]"#),
            r#"messages[0].tool_calls[0].function.arguments: expected a JSON object, found "{""#,
        ),
        (r#"{"messages": [], "tools": 3}"#.to_owned(), "tools: expected a list of tools, found 3"),
        (
            r#"{"conversations": [{"from": "Human", "value": "a"}]}"#.to_owned(),
            r#"conversations[0].from: expected one of human, user, gpt, chatgpt, bot, assistant, system, tool, function_response, observation, found "Human""#,
        ),
        (
            r#"{"conversations": [{"from": "gpt", "value": 1}]}"#.to_owned(),
            "conversations[0].value: expected a text, found 1",
        ),
        (
            r#"{"conversations": [{"from": "system", "value": "a"}], "system": "b"}"#.to_owned(),
            "system: expected one system message, found one in conversations, too",
        ),
        (r#"{"instruction": 1, "output": "b"}"#.to_owned(), "instruction: expected a text, found 1"),
        (
            r#"{"instruction": "a", "output": "b", "history": [["a"]]}"#.to_owned(),
            r#"history[0]: expected a question and its answer, found ["a"]"#,
        ),
        (r#"{"prompt": "a", "completion": ["b"]}"#.to_owned(), r#"completion: expected a text, found ["b"]"#),
        (r#"{"text": null}"#.to_owned(), "text: expected a text, found null"),
        (
            format!(r#"{{"text": [{}]}}"#, "1, ".repeat(1000) + "1"),
            "text: expected a text, found [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1…",
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(folder.refused(&[&line]), format!("data.jsonl: line 1: {expected}"), "{line}");
    }
}

/// Tools and calls reach the template: lists, and objects for arguments, also where a file has their JSON.
#[test]
fn tools_reach_the_template() {
    let template = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls %}{{ c.function.arguments.x }}{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    let folder = Folder::new(Some(template));
    let call = r#""messages": [{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{\"x\": 5}"}}]}]"#;
    for (tools, expected) in [
        (r#"[{"name": "f"}]"#, r#"[{"name": "f"}]assistant:5</s>"#),
        (r#""[{\"name\": \"f\"}]""#, r#"[{"name": "f"}]assistant:5</s>"#),
        ("null", "assistant:5</s>"),
        ("[]", "assistant:5</s>"),
        (r#""""#, "assistant:5</s>"),
    ] {
        let masked = folder.masked(512, &[&format!(r#"{{{call}, "tools": {tools}}}"#)]).unwrap();
        assert_eq!(masked[0].text, expected);
        assert_eq!(trained(&masked[0]), ["5</s>"]);
    }
}

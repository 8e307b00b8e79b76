//! Templates in the style of the known families, Hugging Face's additions, refusals and bounds.

use super::super::bytes::CHARACTERS;
use super::super::{Matching, Origin, Special, VocabularySpec};
use super::*;

fn render(source: &str, turns: &[(&str, &str)], prompt: bool) -> Result<String> {
    let messages: Vec<_> = turns.iter().map(|&(role, content)| Message::new(role, content)).collect();
    Ok(ChatTemplate::new(source, "<s>", "</s>")?.render(&messages, prompt)?.text().to_owned())
}

const CHATML: &str = "{% for message in messages %}
{% if loop.first and message.role != 'system' %}
<|im_start|>system
Be kind.<|im_end|>
{% endif %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
    {%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' -}}
{% endif %}";

const LLAMA3: &str = "{{ bos_token }}{%- if tools is not none %}tools{% endif %}
{%- for m in messages %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

const MISTRAL: &str = "{%- if messages[0]['role'] == 'system' %}
    {%- set first = messages[0]['content'] %}{% set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}{{ bos_token }}
{%- for turn in turns %}
    {%- if (turn['role'] == 'user') != (ns.index % 2 == 0) %}
        {{- raise_exception('After the system message, roles must alternate user/assistant') }}
    {%- endif %}
    {%- if turn.role == 'user' %}
        {{- '[INST] ' + (first + '\n\n' if loop.last and first is defined else '') + turn.content + '[/INST]' }}
    {%- else %}
        {{- ' ' + turn.content | trim + eos_token }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}";

const GEMMA: &str = "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}{{ '<start_of_turn>' ~ role ~ '\n' ~ m.content.strip() ~ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}";

const QWEN3: &str = "{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' and not message.content.startswith('<tool') %}{% set ns.last = index %}{% break %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content and loop.index0 < ns.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}";

#[test]
fn the_known_families() {
    let chat: &[(&str, &str)] = &[("system", "S"), ("user", " U "), ("assistant", "A"), ("user", "V")];
    let thought: &[(&str, &str)] =
        &[("user", "U"), ("assistant", "<think>\nt\n</think>\n\nA"), ("user", "V")];
    type Turns<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(&str, Turns, bool, &str)] = &[
        (
            CHATML,
            &[("user", "U")],
            true,
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n",
        ),
        (CHATML, &chat[..1], false, "<|im_start|>system\nS<|im_end|>\n"),
        (
            LLAMA3,
            &chat[..2],
            true,
            "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (MISTRAL, chat, true, "<s>[INST]  U [/INST] A</s>[INST] S\n\nV[/INST]"),
        (MISTRAL, &chat[1..3], false, "<s>[INST]  U [/INST] A</s>"),
        (
            GEMMA,
            &chat[1..],
            true,
            "<s><start_of_turn>user\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n<start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            QWEN3,
            thought,
            true,
            "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
        ),
    ];
    for (source, turns, prompt, expected) in cases {
        assert_eq!(render(source, turns, *prompt).unwrap(), *expected, "{source}");
    }
    let quiet = ChatTemplate::new(QWEN3, "", "").unwrap();
    let off = Map::from_iter([("enable_thinking".to_owned(), Json::from(false))]);
    let text = quiet.render_with(&[Message::new("user", "U")], true, &off).unwrap();
    assert!(text.text().ends_with("assistant\n<think>\n\n</think>\n\n"), "{text:?}");
    assert!(quiet.reads("enable_thinking") && !quiet.reads("ns") && !quiet.reads("thinking"));
}

#[test]
fn generation_blocks_are_found_again() {
    let blocks = "{% for m in messages %}
    {%- if m.role == 'assistant' %}
<a>
        {%- generation %}

  {{ m.content }}<e>
        {% endgeneration -%}

!
    {%- else %}<u>{{ m.content }}{% endif %}
{%- endfor %}";
    let chat = |contents: &[&str]| {
        let role = |at: usize| if at.is_multiple_of(2) { "user" } else { "assistant" };
        let turns = contents.iter().enumerate().map(|(at, content)| Message::new(role(at), *content));
        turns.collect::<Vec<_>>()
    };
    let none = Map::new();
    for contents in
        [&["a<", "ö<b", "c", " d "][..], &["\u{f0001}\u{100000}", "\u{f0000}"], &["a"], &["a", "<e>"]]
    {
        let template = ChatTemplate::new(blocks, "<s>", "</s>").unwrap();
        let (rendered, answers) = template.render_for_training(&chat(contents), &none).unwrap();
        // Marks change neither the text nor what is whose.
        assert_eq!(rendered, template.render(&chat(contents), false).unwrap());
        let plain = blocks.replace("generation", "if").replace("{%- if %}", "{%- if true %}");
        let plain = ChatTemplate::new(&plain, "<s>", "</s>").unwrap();
        assert_eq!(rendered, plain.render(&chat(contents), false).unwrap(), "as any other block");
        let found: Vec<_> = answers.into_iter().map(|range| rendered.text()[range].to_owned()).collect();
        let expected: Vec<_> =
            contents.iter().skip(1).step_by(2).map(|answer| format!("\n  {answer}<e>\n")).collect();
        assert_eq!(found, expected);
    }
    for (source, has_blocks) in [(blocks, true), (CHATML, false)] {
        let template = ChatTemplate::new(source, "", "").unwrap();
        assert_eq!(template.has_generation_blocks(), has_blocks);
        let (_, answers) = template.render_for_training(&chat(&["a", "b"]), &none).unwrap();
        assert_eq!(answers.len(), usize::from(has_blocks));
    }
}

#[test]
fn no_message_writes_a_guarded_token() {
    let template = ChatTemplate::new("{{ messages[0].content }}EOT", "", "").unwrap();
    let template = template.guarding(["EOT", "<s>"].into_iter());
    let rendered = template.render(&[Message::new("user", "EOT<s>")], false).unwrap();
    let contents: Vec<_> = rendered.parts().filter(|(_, origin)| *origin == Origin::Content).collect();
    assert_eq!(contents, [("E", Origin::Content), ("<", Origin::Content)]);
}

#[test]
fn what_hugging_face_adds() {
    let cases = [
        ("{{ {'b': 1, 'a': [1.5, none, 'ü<&>\"']} | tojson }}", r#"{"b": 1, "a": [1.5, null, "ü<&>\""]}"#),
        ("{{ {'b': [1], 'a': {}} | tojson(indent=2) }}", "{\n  \"b\": [\n    1\n  ],\n  \"a\": {}\n}"),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, ensure_ascii=false) }}", r#"{"a": 2, "b": 1}"#),
        ("{% generation %}x{%- endgeneration -%} \n y", "xy"),
        (
            "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "02",
        ),
        ("{% if true %}\n  a\n{% endif %}\nb\n", "  a\nb"),
        ("{% if true %}\r\n  a\r\n{% endif %}\r\nb\r\n", "  a\nb"),
        (
            "{{ '<b>' }}{{ nothing }}{{ tools is none }}{{ tools is iterable }}{{ eos_token }}",
            "<b>TrueFalse</s>",
        ),
        ("{{ messages[-1]['content'].split('x')|join('-') }}{{ strftime_now('%%') }}", "a-b%"),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source, &[("user", "axb")], false).unwrap(), expected, "{source}");
    }
}

#[test]
fn refusals_and_mistakes_are_told() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
    let deep = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    let cases = [
        ("{{ raise_exception('No system role, please') }}", "chat template: No system role, please"),
        (MISTRAL, "chat template: After the system message, roles must alternate user/assistant"),
        ("{% if %}", "key `tokenizer.chat_template`: expected a Jinja template"),
        ("{% unknown %}", "unknown"),
        ("{{ 1 / messages[0].content.nothing.more }}", "chat template: "),
        ("{{ 'x' * 1000000000000 }}", "too large"),
        (endless, "it does not come to an end"),
        (deep, "chat template: "),
    ];
    for (source, expected) in cases {
        let message = render(source, &[("assistant", "A")], true).err().map(|error| error.to_string());
        let message = message.unwrap_or_default();
        assert!(message.contains(expected), "{source}: {message:?}");
    }
    assert!(ChatTemplate::new(&" ".repeat(LONGEST_TEMPLATE + 1), "", "").is_err());
}

/// Real templates: `X.jinja` in the folder with `X.expected`, which Jinja2 made of the same conversation.
#[test]
#[ignore = "needs a folder of templates in MOEWE_TEMPLATES"]
fn real_templates() {
    let folder = std::path::PathBuf::from(std::env::var_os("MOEWE_TEMPLATES").unwrap());
    let chat = [
        ("system", "Be brief."),
        ("user", "Hi, what's up?"),
        ("assistant", "Not much."),
        ("user", "Größe?\n"),
    ];
    let mut failures = Vec::new();
    for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        let Ok(expected) = std::fs::read_to_string(path.with_extension("expected")) else { continue };
        // Where Jinja2 refuses, being more lenient is no failure.
        if path.extension().is_none_or(|ending| ending != "jinja") || expected.starts_with("error: ") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        let found = render(&source, &chat, true).unwrap_or_else(|error| format!("error: {error}"));
        if found != expected {
            failures.push(format!("{}:\n{found:?}\nexpected\n{expected:?}", path.display()));
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// All bytes, two control tokens and one that a person may write.
fn tokenizer(matching: Matching, normalizer: Vec<&str>) -> Tokenizer {
    let bytes: Vec<String> = CHARACTERS.iter().map(char::to_string).collect();
    let tokens = bytes.iter().map(String::as_str).chain(["<end>", "<end><end>", "<tool>", "\n\n"]).collect();
    let types = [vec![1; 256], vec![3, 3, 4, 4]].concat();
    let spec = VocabularySpec {
        model: "gpt2",
        pre: "gpt-2",
        tokens,
        types,
        matching,
        normalizer,
        ..Default::default()
    };
    Tokenizer::new(&spec).unwrap()
}

fn encoded(source: &str, tokenizer: &Tokenizer, turns: &[Message]) -> Vec<u32> {
    let template = ChatTemplate::for_tokenizer(source, tokenizer).unwrap();
    tokenizer.encode_parts(template.render(turns, true).unwrap().parts()).unwrap()
}

#[test]
fn a_message_cannot_end_its_turn() {
    let tokenizer = tokenizer(Matching::default(), vec![]);
    let source = "{% for m in messages %}{{ m.content | trim }}<end>{% endfor %}";
    let contents =
        ["hi", "<end>", "a<end>b<end><end>", " <end<end>> ", "\u{f0000}256\u{f8d0}<end>", "<en", "[x]<"];
    for content in contents {
        let tokens = encoded(source, &tokenizer, &[Message::new("user", content)]);
        let (end, rest) = tokens.split_last().unwrap();
        assert_eq!(*end, 256, "{content:?}");
        assert!(rest.iter().all(|&token| token < 256), "{content:?}: {rest:?}");
        assert_eq!(tokenizer.decode(rest), content.trim(), "{content:?}");
    }
    // Neither in two pieces, nor in what is not the content, nor by what the template cuts out.
    let source = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{{ m.role }}\
                  {{ m.x.y[0] | replace('--', '') }}{{ m.x.y | tojson }}{% endfor %}";
    let parts =
        r#"{"content":[{"text":"<en"},{"text":"d>"}],"role":"<end>","x":{"y":["<e--nd>",{"<end>":1}]}}"#;
    let turn: Message = serde_json::from_str(parts).unwrap();
    let template = ChatTemplate::for_tokenizer(source, &tokenizer);
    let template = template.or_else(|_| ChatTemplate::new(source, "", "")).unwrap();
    let rendered = template.render(&[turn], true).unwrap();
    assert_eq!(rendered.text(), r#"<end><end><end>["<e--nd>", {"<end>": 1}]"#);
    assert!(tokenizer.encode_parts(rendered.parts()).unwrap().iter().all(|&token| token < 256));
}

/// Where nothing could be mistaken, and around what could, the text is read as one.
#[test]
fn parts_are_read_as_one_text() {
    let tokenizer = tokenizer(Matching::default(), vec![]);
    let source = "{% for m in messages %}<end>{{ m.role }}\n{{ m.content }}\n{% endfor %}";
    for content in ["\nhi\n", "a\n\n<b", "<tool>\n", "<tool"] {
        let tokens = encoded(source, &tokenizer, &[Message::new("user", content)]);
        let whole = tokenizer.encode(&format!("<end>user\n{content}\n"), Special::Parse).unwrap();
        assert_eq!(tokens, whole, "{content:?}");
    }
    let normalized = Matching { normalized: vec![256, 257, 258], ..Matching::default() };
    let lower = self::tokenizer(normalized, vec!["nfkc", "lowercase"]);
    let tokens =
        encoded("<END>{{ messages[0].content }}<end>", &lower, &[Message::new("user", "A<END>＜end>")]);
    assert_eq!(
        (tokens[0], tokens.last(), tokens.iter().filter(|&&token| token > 255).count()),
        (256, Some(&256), 2)
    );
    assert_eq!(lower.decode(&tokens[1..3]), "a<");
}

/// What a template does with a text it may do with one that has stand-ins in it, and with its own tags.
#[test]
fn templates_may_look_into_contents() {
    let tokenizer = tokenizer(Matching::default(), vec![]);
    let thought = Message::new("assistant", "<think>\nt <end>\n</think>\n\nA<end>");
    let source = "{% for m in messages %}{% set c = m.content %}{% if '</think>' in c %}\
                  {% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}{{ c | length }}{{ c }}{% endfor %}";
    let turns = [Message::new("user", "a</think>b"), thought];
    let template = ChatTemplate::for_tokenizer(source, &tokenizer).unwrap();
    let rendered = template.render(&turns, true).unwrap();
    assert_eq!(rendered.text(), "10a</think>b6A<end>");
    assert!(tokenizer.encode_parts(rendered.parts()).unwrap().iter().all(|&token| token < 256));
}

#[test]
fn what_was_thought_reaches_the_template_by_its_name() {
    let turn = Message::new("assistant", "A").with_reasoning("R");
    for (source, expected) in [
        ("{{ messages[0].reasoning_content }}", "R"),
        ("{{ messages[0].thinking }}", "R"),
        ("{% if 'reasoning' in messages[0] %}{{ messages[0]['reasoning'] }}{% endif %}", "R"),
        ("{{ messages[0] | length }}", "3"),
    ] {
        let template = ChatTemplate::new(source, "", "").unwrap();
        assert_eq!(template.render(std::slice::from_ref(&turn), true).unwrap().text(), expected, "{source}");
    }
    let call = turn.with("tool_calls", Json::Array(vec![]));
    let template = ChatTemplate::new("{{ messages[0].thinking is defined }}", "", "").unwrap();
    assert_eq!(template.render(&[call], true).unwrap().text(), "False");
    let tools = Map::from_iter([("tools".to_owned(), serde_json::json!([{"name": "f"}]))]);
    let template = ChatTemplate::new("{{ tools[0].name }}{{ messages | length }}", "", "").unwrap();
    assert_eq!(template.render_with(&[], true, &tools).unwrap().text(), "f0");
}

#[test]
fn templates_that_do_not_do_say_what_does() {
    let tokenizer = tokenizer(Matching::default(), vec![]);
    let of = |source: &str| {
        let mut metadata = Metadata::new();
        metadata.set(KEY, source);
        ChatTemplate::from_metadata(&metadata, &tokenizer)
    };
    for source in [
        "{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}",
        "{{- range .Messages }}{{ .Content }}{{ end }}",
        "hello",
    ] {
        let message = of(source).unwrap_err().to_string();
        assert!(message.contains("--chat-template") && message.contains("--raw"), "{source}: {message}");
    }
    assert!(of(" ").unwrap().is_none());
    assert_eq!(of("chatml\n").unwrap().unwrap().source(), built_in("chatml").unwrap());
    assert!(of("{{ raise_exception('no') }}").is_ok());
}

//! Templates in the style of the known families, Hugging Face's additions, refusals and bounds.

use super::*;

fn render(source: &str, turns: &[(&str, &str)], prompt: bool) -> Result<String> {
    let messages: Vec<_> = turns.iter().map(|&(role, content)| Message::new(role, content)).collect();
    ChatTemplate::new(source, "<s>", "</s>")?.render(&messages, prompt)
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
    let text = quiet.render_with(&[Message::new("user", "U")], true, &[("enable_thinking", false)]).unwrap();
    assert!(text.ends_with("assistant\n<think>\n\n</think>\n\n"), "{text:?}");
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

#[test]
fn dates() {
    let cases = [
        (0, "%Y-%m-%d %H:%M:%S %a %A", "1970-01-01 00:00:00 Thu Thursday"),
        (951_782_400, "%d %b %Y", "29 Feb 2000"),
        (1_795_219_199, "%B %d, %Y|%y|%q|%", "November 20, 2026|26|%q|%"),
        (4_107_542_399, "%d.%m.%Y %M%%", "28.02.2100 59%"),
    ];
    for (seconds, format, expected) in cases {
        assert_eq!(date(format, seconds), expected);
    }
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

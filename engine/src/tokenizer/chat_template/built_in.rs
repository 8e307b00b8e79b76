//! Templates for files that have none, or one that is not Jinja: the documented formats of the best-known families.
//!
//! A template is one `.jinja` file and one line in the table.

/// All built-in templates: name and source.
pub static BUILT_IN: &[(&str, &str)] = &[
    ("chatml", include_str!("built_in/chatml.jinja")),
    ("llama3", include_str!("built_in/llama3.jinja")),
    ("mistral", include_str!("built_in/mistral.jinja")),
    ("gemma", include_str!("built_in/gemma.jinja")),
    ("deepseek", include_str!("built_in/deepseek.jinja")),
    ("harmony", include_str!("built_in/harmony.jinja")),
    ("alpaca", include_str!("built_in/alpaca.jinja")),
];

/// The source of a built-in template.
pub fn built_in(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, source)| *source)
}

#[cfg(test)]
mod tests {
    use super::super::{ChatTemplate, Message};
    use super::*;
    use serde_json::json;

    #[test]
    fn the_documented_formats() {
        let parts: Message =
            serde_json::from_value(json!({"role": "user", "content": [{"type": "text", "text": "V"}]}))
                .unwrap();
        let answer = Message::new("assistant", "A").with_reasoning("R");
        let chat = [Message::new("system", "S"), Message::new("user", "U"), answer, parts];
        let cases = [
            (
                "chatml",
                "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n\
                 <|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
            ),
            (
                "llama3",
                "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>\
                 <|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>\
                 <|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
            ("mistral", "<s>[INST] S\n\nU [/INST] A</s>[INST] V [/INST]"),
            (
                "gemma",
                "<s><start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n\
                 <start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n",
            ),
            ("deepseek", "<s>S<｜User｜>U<｜Assistant｜>A</s><｜User｜>V<｜Assistant｜>"),
            (
                "harmony",
                "<|start|>developer<|message|># Instructions\n\nS<|end|><|start|>user<|message|>U<|end|>\
                 <|start|>assistant<|channel|>final<|message|>A<|end|><|start|>user<|message|>V<|end|>\
                 <|start|>assistant",
            ),
            (
                "alpaca",
                "<s>S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n### Response:\n",
            ),
        ];
        assert!(cases.iter().map(|(name, _)| name).eq(BUILT_IN.iter().map(|(name, _)| name)));
        for (name, expected) in cases {
            let template = ChatTemplate::new(built_in(name).unwrap(), "<s>", "</s>").unwrap();
            let rendered = template.render(&chat, true).unwrap();
            let text = rendered.text();
            if name == "harmony" {
                assert!(text.starts_with("<|start|>system<|message|>You are ChatGPT"), "{text}");
                assert!(
                    text.contains("\n\nReasoning: medium\n\n# Valid channels: analysis, commentary, final.")
                );
                assert!(text.ends_with(expected), "{text}");
            } else {
                assert_eq!(text, expected, "{name}");
            }
        }
    }
}

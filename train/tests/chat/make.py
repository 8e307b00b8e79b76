#!/usr/bin/env python3
"""Conversations with the tokens and the masks that transformers gives them, the reference of the tests.

usage: make.py      in this folder; needs transformers from PyPI (made with 5.24)

Templates have `generation` blocks; `without` is the same template without the tags. Messages with a token of their own
(`<|im_end|>`) are not in here: transformers reads it as the end of the message, the trainer reads it as text.
"""
import json, re
import transformers

CHATS = [
    [("system", "Be brief."), ("user", "Wie geht es dir?"), ("assistant", "Gut, und dir?"), ("user", "12 + 30"), ("assistant", "42")],
    [("user", "def add(a, b):"), ("assistant", "    return a + b")],
    [("user", "Der Wind kam von der See"), ("assistant", "und die Möwen schrien 🐦.")],
    # Characters of several tokens, characters of several code points, nothing, white space, and no answer at the end.
    [("user", "🐦"), ("assistant", "🐦🏽 ist e\u0301in\u200d e👩‍👩‍👧"), ("user", " "), ("assistant", ""), ("user", "\n"), ("assistant", " \n ä"), ("user", "ö")],
    [("assistant", "Ich beginne."), ("user", "Warum?"), ("assistant", "Darum.\n\nUnd:\n\n\n")],
]
BEGIN, END = "{% generation %}", "{% endgeneration %}"
TEMPLATES = {
    # As chat_template.jinja.
    "chatml": open("chat_template.jinja").read(),
    # White space goes with the tags; the block begins within what would be one token.
    "trimmed": """{% for m in messages %}
    {%- if m.role == 'assistant' %}
<|im_start|>assistant:
        {%- generation -%}
            {{ ' ' + m.content }}<|im_end|>
        {%- endgeneration %}

    {%- else %}
<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant:{% endif %}""",
    # The block begins within a token, which is trained then.
    "joined": "{% for m in messages %}<|im_start|>{% if m.role == 'assistant' %}A un{% generation %}d {{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>A un{% endif %}",
    # No marker, the end token of the tokenizer, and only what was said stripped of white space.
    "words": """{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}### Antwort:
{% generation %}{{ m.content | trim }}{{ eos_token }}{% endgeneration %}

{% else %}### {{ m.role }}: {{ m.content | trim }}

{% endif %}{% endfor %}{% if add_generation_prompt %}### Antwort:
{% endif %}""",
}


def without(template):
    return re.sub(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}", lambda m: "{%" + m[1] + (" endif " if m[2] else " if true ") + m[3] + "%}", template)


tokenizer = transformers.AutoTokenizer.from_pretrained(".")
cases = []
for name, template in TEMPLATES.items():
    for chat in CHATS:
        messages = [{"role": r, "content": c} for r, c in chat]
        tokenizer.chat_template = template
        r = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        tokenizer.chat_template = without(template)
        assert text == tokenizer.apply_chat_template(messages, tokenize=False)
        cases.append({"template": name, "messages": messages, "text": text, "tokens": list(r["input_ids"]), "mask": list(r["assistant_masks"])})
templates = {n: {"with": t, "without": without(t)} for n, t in TEMPLATES.items()}
with open("expected.json", "w") as f:
    f.write('{"templates": ' + json.dumps(templates, ensure_ascii=False) + ',\n"cases": [\n')
    f.write(",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]}\n")

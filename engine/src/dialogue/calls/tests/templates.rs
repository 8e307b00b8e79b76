//! Chat templates that write calls as those that come with the models do, and little else.

/// Name, kind of syntax, template.
pub(crate) const TEMPLATES: [(&str, &str, &str); 20] = [
    ("qwen2.5", "object", QWEN2),
    ("qwen3", "object", QWEN3),
    ("apriel", "object", APRIEL),
    ("nemo", "object", NEMO),
    ("llama3.1", "object", LLAMA3),
    ("command-r7b", "object", COHERE),
    ("minimax-m1", "object", MINIMAX1),
    ("ministral", "named", MINISTRAL),
    ("mistral-small", "named", MISTRAL_SMALL),
    ("deepseek-v3", "named", DEEPSEEK3),
    ("deepseek-v3.1", "named", DEEPSEEK31),
    ("kimi-k2", "named", KIMI),
    ("functionary", "named", FUNCTIONARY),
    ("qwen3-coder", "parameters", QWEN_CODER),
    ("glm-4.6", "parameters", GLM),
    ("minimax-m2", "parameters", MINIMAX2),
    ("deepseek-v3.2", "parameters", DEEPSEEK32),
    ("gpt-oss", "harmony", GPT_OSS),
    ("gemma4", "keyed", GEMMA4),
    ("lfm2.5", "keyed", LFM2),
];

const QWEN2: &str = "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}\
{% for m in messages %}<|im_start|>{{ m.role }}{% if m.content %}{{ '\n' }}{{ m.content }}{% endif %}\
{% for c in m.tool_calls or [] %}{{ '\n' }}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}\
<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

const QWEN3: &str = "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}\
{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}\
{% for c in m.tool_calls or [] %}{% if not loop.first or m.content %}{{ '\n' }}{% endif %}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": \
{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}{{ c.function.arguments | tojson }}{% endif %}}\n</tool_call>{% endfor %}\
<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

const APRIEL: &str = "{% if tools %}<available_tools>{{ tools | tojson }}</available_tools>{% endif %}\
{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% if m.tool_calls %}{{ '\n' }}<tool_calls>[\
{% for c in m.tool_calls %}{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}{% if not loop.last %}, {% endif %}{% endfor %}]</tool_calls>{% endif %}\
<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}";

const NEMO: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{% if tools and loop.last %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST]{{ m.content }}[/INST]\
{% elif m.tool_calls %}{% if not m.tool_calls[0].id or m.tool_calls[0].id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}[TOOL_CALLS][\
{% for c in m.tool_calls %}{% set out = c.function | tojson %}{{ out[:-1] }}, \"id\": \"{{ c.id }}\"}{% if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}\
{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";

const LLAMA3: &str = "{{ bos_token }}{% for m in messages %}{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('one at a time') }}{% endif %}\
{% set c = m.tool_calls[0].function %}<|start_header_id|>assistant<|end_header_id|>\n\n{\"name\": \"{{ c.name }}\", \"parameters\": {{ c.arguments | tojson }}}<|eot_id|>\
{% else %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{% if m.role == 'user' and tools %}{% for t in tools %}{{ t | tojson(indent=4) }}\n\n{% endfor %}{% endif %}{{ m.content }}<|eot_id|>{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{# <|python_tag|> #}{% endif %}";

const COHERE: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|START_OF_TURN_TOKEN|>{% if m.role == 'user' %}<|USER_TOKEN|>{{ m.content }}\
{% else %}<|CHATBOT_TOKEN|>{% if m.reasoning %}<|START_THINKING|>{{ m.reasoning }}<|END_THINKING|>{% endif %}{% if m.tool_calls %}<|START_ACTION|>[\n\
{% for c in m.tool_calls %}    {\"tool_call_id\": \"{{ loop.index0 }}\", \"tool_name\": \"{{ c.function.name }}\", \"parameters\": {{ c.function.arguments | tojson }}}{% if not loop.last %},{% endif %}{{ '\n' }}{% endfor %}]<|END_ACTION|>\
{% else %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% endif %}{% endif %}<|END_OF_TURN_TOKEN|>{% endfor %}\
{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}";

const MINIMAX1: &str = "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}{% for m in messages %}<beginning_of_sentence>{{ m.role }}\n{{ m.content }}\
{% if m.tool_calls %}{{ '\n' }}<tool_calls>\n{% for c in m.tool_calls %}{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n{% endfor %}</tool_calls>{% endif %}<end_of_sentence>\n{% endfor %}\
{% if add_generation_prompt %}<beginning_of_sentence>assistant\n{% endif %}";

const MINISTRAL: &str = "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]\
{% else %}{{ m.content }}{% for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}";

const MISTRAL_SMALL: &str = "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]\
{% elif m.tool_calls %}{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[CALL_ID]{{ c.id }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}{{ eos_token }}\
{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}";

const DEEPSEEK3: &str = "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}\
{% else %}<｜Assistant｜>{% if m.content is none %}<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}{% if not loop.first %}{{ '\n' }}{% endif %}<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ c.function.name + '\n```json\n' + c.function.arguments + '\n```<｜tool▁call▁end｜>' }}{% endfor %}<｜tool▁calls▁end｜>\
{% else %}{{ m.content }}{% endif %}<｜end▁of▁sentence｜>{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}";

const DEEPSEEK31: &str = "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}\
{% else %}<｜Assistant｜></think>{{ m.content or '' }}{% if m.tool_calls %}<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}<｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>{% endif %}<｜end▁of▁sentence｜>{% endif %}{% endfor %}\
{% if add_generation_prompt %}<｜Assistant｜>{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}";

const KIMI: &str = "{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>{% endif %}{% for m in messages %}<|im_{{ m.role }}|>{{ m.role }}<|im_middle|>{{ m.content or '' }}\
{% if m.tool_calls %}<|tool_calls_section_begin|>{% for c in m.tool_calls %}<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>{% endif %}<|im_end|>{% endfor %}\
{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}";

const FUNCTIONARY: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content or '' }}\
{% for c in m.tool_calls or [] %}<function={{ c.function.name }}>{{ c.function.arguments | tojson }}</function>{% endfor %}{{ '<|eom_id|>' if m.tool_calls else '<|eot_id|>' }}{% endfor %}\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}";

const QWEN_CODER: &str = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\
{% for c in m.tool_calls or [] %}{% if not loop.first or m.content %}{{ '\n' }}{% endif %}<tool_call>\n<function={{ c.function.name }}>\n\
{% for k, v in c.function.arguments | items %}<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

const GLM: &str = "[gMASK]<sop>{% if tools %}<|system|>\n{{ tools | tojson }}{% endif %}{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ m.content }}\
{% else %}<|assistant|>\n<think>{{ m.reasoning_content or '' }}</think>{% if m.content %}{{ '\n' }}{{ m.content }}{% endif %}\
{% for c in m.tool_calls or [] %}{{ '\n' }}<tool_call>{{ c.function.name }}\n{% for k, v in c.function.arguments.items() %}<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v if v is string else v | tojson }}</arg_value>\n{% endfor %}</tool_call>{% endfor %}{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|assistant|>{% endif %}";

const MINIMAX2: &str = "{% if tools %}]~!b[]~b]system\n{{ tools | tojson }}[e~[\n{% endif %}{% for m in messages %}{% if m.role == 'user' %}]~b]user\n{{ m.content }}[e~[\n\
{% else %}]~b]ai\n{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}{% if m.tool_calls %}{{ '\n' }}<minimax:tool_call>\n\
{% for c in m.tool_calls %}<invoke name=\"{{ c.function.name }}\">\n{% for k, v in c.function.arguments.items() %}<parameter name=\"{{ k }}\">{{ v if v is string else v | tojson }}</parameter>\n{% endfor %}</invoke>\n{% endfor %}</minimax:tool_call>{% endif %}[e~[\n{% endif %}{% endfor %}\
{% if add_generation_prompt %}]~b]ai\n<think>\n{% endif %}";

const DEEPSEEK32: &str = "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}\
{% else %}<｜Assistant｜></think>{{ m.content or '' }}{% if m.tool_calls %}{{ '\n' }}\n<｜DSML｜function_calls>\n{% for c in m.tool_calls %}<｜DSML｜invoke name=\"{{ c.function.name }}\">\n\
{% for k, v in c.function.arguments.items() %}<｜DSML｜parameter name=\"{{ k }}\" string=\"{{ 'true' if v is string else 'false' }}\">{{ v if v is string else v | tojson }}</｜DSML｜parameter>\n{% endfor %}</｜DSML｜invoke>\n{% endfor %}</｜DSML｜function_calls>{% endif %}<｜end▁of▁sentence｜>{% endif %}{% endfor %}\
{% if add_generation_prompt %}<｜Assistant｜>{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}";

const GPT_OSS: &str = "{% if tools %}<|start|>developer<|message|>{% for t in tools %}type {{ t.function.name }} = any;\n{% endfor %}<|end|>{% endif %}\
{% for m in messages %}{% if m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>\
{% elif m.tool_calls %}{% if m.content %}<|start|>assistant<|channel|>analysis<|message|>{{ m.content }}<|end|>{% endif %}<|start|>assistant to=functions.{{ m.tool_calls[0].function.name }}<|channel|>commentary json<|message|>{{ m.tool_calls[0].function.arguments | tojson }}<|call|>\
{% else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|start|>assistant{% endif %}";

const GEMMA4: &str = "{% macro write(value) %}{% if value is string %}<|\"|>{{ value }}<|\"|>{% elif value is boolean %}{{ 'true' if value else 'false' }}\
{% elif value is mapping %}{{ '{' }}{% for k, v in value | dictsort %}{% if not loop.first %},{% endif %}{{ k }}:{{ write(v) }}{% endfor %}}\
{% elif value is sequence %}[{% for v in value %}{{ write(v) }}{% if not loop.last %},{% endif %}{% endfor %}]{% else %}{{ value }}{% endif %}{% endmacro %}\
{{ bos_token }}{% if tools %}<|turn>system\n{% for t in tools %}<|tool>declaration:{{ t.function.name }}<tool|>{% endfor %}<turn|>\n{% endif %}\
{% for m in messages %}<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n\
{% for c in m.tool_calls or [] %}<|tool_call>call:{{ c.function.name }}{{ write(c.function.arguments) }}<tool_call|>{% endfor %}\
{% for r in m.tool_responses or [] %}<|tool_response>response:{{ r.name }}{value:{{ write(r.response) }}}<tool_response|>{% endfor %}{{ m.content }}<turn|>\n{% endfor %}\
{% if add_generation_prompt %}<|turn>model\n{% endif %}";

const LFM2: &str = "{% macro write(value) %}{% if value is string %}'{{ value }}'{% elif value is mapping %}{{ value | tojson }}{% else %}{{ value | string }}{% endif %}{% endmacro %}\
{{ bos_token }}{% if tools %}<|im_start|>system\nList of tools: {{ tools | tojson }}<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\
{% if m.tool_calls %}<|tool_call_start|>[{% for c in m.tool_calls %}{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{ write(v) }}{% if not loop.last %}, {% endif %}{% endfor %})\
{% if not loop.last %}, {% endif %}{% endfor %}]<|tool_call_end|>{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

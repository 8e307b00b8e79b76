//! What models write, or might.

/// A template's name, a text, the words that are to come of it, then the calls with their arguments.
type Script = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

/// What models say, and what is to come of it: words, then calls.
pub(super) const SCRIPTS: &[Script] = &[
    ("qwen2.5", "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>", "", &[("now", "{}")]),
    (
        "qwen2.5",
        "I look.\n\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"K\\u00f6ln {}\\\"</tool_call>\"}}\n</tool_call>\n\
         <tool_call>{\"arguments\": {\"a\": {\"b\": [{}]}}, \"name\": \"now\"}</tool_call> Done.",
        "I look.Done.",
        &[
            ("get_weather", "{\"city\": \"K\\u00f6ln {}\\\"</tool_call>\"}"),
            ("now", "{\"a\": {\"b\": [{}]}}"),
        ],
    ),
    // Some leave out arguments, some write them as a text, some add an id.
    ("qwen2.5", "<tool_call>{\"id\": [1], \"name\": \"now\"}</tool_call>", "", &[("now", "{}")]),
    (
        "qwen2.5",
        "<tool_call>{\"name\": \"now\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
        "",
        &[("now", "{\"a\": 1}")],
    ),
    ("qwen2.5", "<tool_call>{\"name\": \"other\", \"arguments\": null}", "", &[("other", "{}")]),
    // A raw line break in a text becomes JSON.
    (
        "qwen2.5",
        "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": \"b\nc\"}}",
        "",
        &[("now", "{\"a\": \"b\\nc\"}")],
    ),
    (
        "qwen2.5",
        "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": 1}, \"arguments\": {\"b\": 2}, \"arguments\": \"{}\"}</tool_call>",
        "",
        &[("now", "{\"a\": 1}")],
    ),
    // None.
    ("qwen2.5", "A <tool_call> is a tag.\n", "A <tool_call> is a tag.\n", &[]),
    ("qwen2.5", "<tool_call>\n{\"nam", "<tool_call>\n{\"nam", &[]),
    ("qwen2.5", " <tool_cal", " <tool_cal", &[]),
    ("qwen2.5", "<tool_call>{'name': 'now'}</tool_call>", "<tool_call>{'name': 'now'}</tool_call>", &[]),
    ("qwen2.5", "<tool_call>{\"name\": 1}", "<tool_call>{\"name\": 1}", &[]),
    (
        "qwen2.5",
        "<tool_call>{\"name\": \"now\", \"arguments\": [1]}",
        "<tool_call>{\"name\": \"now\", \"arguments\": [1]}",
        &[],
    ),
    ("qwen2.5", "<tool_call><tool_call>{\"name\": \"now\"}", "<tool_call>", &[("now", "{}")]),
    ("qwen2.5", "a \n <b> {\"name\": \"now\"}\n\n", "a \n <b> {\"name\": \"now\"}\n\n", &[]),
    // Cut by the limit, and broken.
    ("qwen2.5", "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": [1, ", "", &[("now", "{\"a\": [1, ")]),
    (
        "qwen2.5",
        "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": b}} c",
        "b}} c",
        &[("now", "{\"a\": ")],
    ),
    (
        "qwen3",
        "<think>\n<tool_call>?\n</think>\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
        "",
        &[("now", "{}")],
    ),
    (
        "apriel",
        "Hm\n<tool_calls>[{\"name\": \"now\", \"arguments\": {}}, {\"name\": \"now\", \"arguments\": {\"x\": 1}}]</tool_calls>",
        "Hm",
        &[("now", "{}"), ("now", "{\"x\": 1}")],
    ),
    ("apriel", "<tool_calls>[]</tool_calls>", "<tool_calls>[]</tool_calls>", &[]),
    (
        "nemo",
        "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}, \"id\": \"abcdefghi\"}, {\"name\": \"get_weather\", \"arguments\": {\"city\": \"[TOOL_CALLS]\"}}]",
        "",
        &[("now", "{}"), ("get_weather", "{\"city\": \"[TOOL_CALLS]\"}")],
    ),
    ("nemo", "[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}}", "", &[("now", "{}")]),
    ("llama3.1", "{\"name\": \"now\", \"parameters\": {\"a\": \"ü\"}}", "", &[("now", "{\"a\": \"ü\"}")]),
    (
        "llama3.1",
        "\n{\"type\": \"function\", \"name\": \"now\", \"parameters\": {}}; {\"name\": \"get_weather\", \"parameters\": {}}",
        "",
        &[("now", "{}"), ("get_weather", "{}")],
    ),
    ("llama3.1", "<|python_tag|>{\"name\": \"now\", \"parameters\": {}}", "", &[("now", "{}")]),
    // JSON that calls no tool is an answer.
    ("llama3.1", "{\"name\": \"Anna\", \"parameters\": {}}", "{\"name\": \"Anna\", \"parameters\": {}}", &[]),
    ("llama3.1", "{\"a\": {\"name\": \"now\"}}", "{\"a\": {\"name\": \"now\"}}", &[]),
    (
        "llama3.1",
        "So: {\"name\": \"now\", \"parameters\": {}}",
        "So: {\"name\": \"now\", \"parameters\": {}}",
        &[],
    ),
    ("llama3.1", "<|python_tag|>print(1)", "<|python_tag|>print(1)", &[]),
    (
        "command-r7b",
        "<|START_THINKING|>T<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"now\", \"parameters\": {}}\n]<|END_ACTION|>",
        "",
        &[("now", "{}")],
    ),
    (
        "minimax-m1",
        "<tool_calls>\n{\"name\": \"now\", \"arguments\": {}}\n{\"name\": \"now\", \"arguments\": {}}\n</tool_calls>",
        "",
        &[("now", "{}"), ("now", "{}")],
    ),
    (
        "ministral",
        "I see.[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Kiel\"}[TOOL_CALLS]now[ARGS]{}",
        "I see.",
        &[("get_weather", "{\"city\": \"Kiel\"}"), ("now", "{}")],
    ),
    ("ministral", "[TOOL_CALLS]now[ARG]{}", "[TOOL_CALLS]now[ARG]{}", &[]),
    (
        "mistral-small",
        "[TOOL_CALLS]now[CALL_ID]abc123XYZ[ARGS]{\"a\": \"}\"}",
        "",
        &[("now", "{\"a\": \"}\"}")],
    ),
    (
        "deepseek-v3",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{\"a\": \"```\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
        &[("now", "{\"a\": \"```\"}"), ("now", "{}")],
    ),
    (
        "deepseek-v3.1",
        "Ja.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "Ja.",
        &[("now", "{}")],
    ),
    (
        "kimi-k2",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{\"days\": 3}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        "",
        &[("get_weather", "{\"days\": 3}"), ("now", "{}")],
    ),
    (
        "functionary",
        "<function=now>{\"a\": 1}</function><function=now>{}</function>",
        "",
        &[("now", "{\"a\": 1}"), ("now", "{}")],
    ),
    ("functionary", "<function=now>1</function>", "<function=now>1</function>", &[]),
    (
        "qwen3-coder",
        "Gut.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nBad \"Ems\"\n</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=options>\n{\"a\": [true]}\n</parameter>\n</function>\n</tool_call>",
        "Gut.",
        &[("get_weather", "{\"city\":\"Bad \\\"Ems\\\"\",\"days\":3,\"options\":{\"a\":[true]}}")],
    ),
    // Values with tags in them, over lines, of nothing, and the first tag forgotten.
    (
        "qwen3-coder",
        "<function=get_weather>\n<parameter=city>\n<b></parameter> x\n\n y\n\n</parameter>\n</function>\n</tool_call>",
        "",
        &[("get_weather", "{\"city\":\"<b></parameter> x\\n\\n y\\n\"}")],
    ),
    (
        "qwen3-coder",
        "<tool_call><function=now></function></tool_call><tool_call>\n<function=get_weather>\n<parameter=city>\n</parameter>\n</function>\n</tool_call>",
        "",
        &[("now", "{}"), ("get_weather", "{\"city\":\"\"}")],
    ),
    (
        "qwen3-coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nKi",
        "",
        &[("get_weather", "{\"city\":\"Ki")],
    ),
    ("qwen3-coder", "<tool_call>\n<function=now", "<tool_call>\n<function=now", &[]),
    ("qwen3-coder", "<tool_call>\nnow</tool_call>", "<tool_call>\nnow</tool_call>", &[]),
    (
        "glm-4.6",
        "<think>T</think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>7</arg_value>\n<arg_key>days</arg_key>\n<arg_value>7</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
        "",
        &[("get_weather", "{\"city\":\"7\",\"days\":7}"), ("now", "{}")],
    ),
    (
        "minimax-m2",
        "T\n</think>\n\nA\n<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"city\">Ü</parameter>\n<parameter name=\"days\">many</parameter>\n</invoke>\n<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>",
        "A",
        &[("get_weather", "{\"city\":\"Ü\",\"days\":\"many\"}"), ("now", "{}")],
    ),
    (
        "deepseek-v3.2",
        "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">5</｜DSML｜parameter>\n<｜DSML｜parameter name=\"b\" string=\"false\">5</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        "",
        &[("f", "{\"a\":\"5\",\"b\":5}")],
    ),
    (
        "gpt-oss",
        "<|channel|>analysis<|message|>T<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\":\"<|\"}",
        "",
        &[("get_weather", "{\"city\":\"<|\"}")],
    ),
    (
        "gpt-oss",
        " to=functions.now<|channel|>commentary json<|message|> {\"a\": {}} <|call|>",
        "",
        &[("now", "{\"a\": {}}")],
    ),
    (
        "gpt-oss",
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=now<|channel|>commentary<|message|>{}",
        "I look.",
        &[("now", "{}")],
    ),
    ("gpt-oss", "<|channel|>commentary to=functions.now<|message|>five", "five", &[]),
    (
        "gemma4",
        "Gut.<|tool_call>call:get_weather{city:<|\"|>Bad \"Ems\"<|\"|>,days:3,options:{a:[true,<|\"|>}<|\"|>]}}<tool_call|><|tool_call>call:now{}<tool_call|>",
        "Gut.",
        &[
            ("get_weather", "{\"city\":\"Bad \\\"Ems\\\"\",\"days\":3,\"options\":{\"a\":[true,\"}\"]}}"),
            ("now", "{}"),
        ],
    ),
    ("gemma4", "<|tool_call>call:now{a:<|\"|>b", "", &[("now", "{\"a\":\"b")]),
    ("gemma4", "<|tool_call>call: me{", "", &[("me", "{")]),
    ("gemma4", "<|tool_call>now{}<tool_call|>", "<|tool_call>now{}<tool_call|>", &[]),
    ("gemma4", "A <|tool_call>call:x y", "A <|tool_call>call:x y", &[]),
    (
        "lfm2.5",
        "Hm.<|tool_call_start|>[get_weather(city='Köln', days=3, options={\"a\": [null]}), now()]<|tool_call_end|>",
        "Hm.",
        &[("get_weather", "{\"city\":\"Köln\",\"days\":3,\"options\":{\"a\":[null]}}"), ("now", "{}")],
    ),
    (
        "lfm2.5",
        "<|tool_call_start|>[now(a=True, b=[None, \"c\"])]<|tool_call_end|>\nIt rains.",
        "It rains.",
        &[("now", "{\"a\":true,\"b\":[null,\"c\"]}")],
    ),
    ("lfm2.5", "<|tool_call_start|>[print 1]", "<|tool_call_start|>[print 1]", &[]),
    ("lfm2.5", "[now()]", "[now()]", &[]),
    ("gpt-oss", "<|channel|>commentary to=functions.now<|message|>{\"a\": x", "x", &[("now", "{\"a\": ")]),
];

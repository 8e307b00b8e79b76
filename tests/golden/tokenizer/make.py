"""Trains three tiny vocabularies and records what independent tokenizers make of some texts. See README.md."""

import base64
import io
import json
import tempfile

import sentencepiece
import tiktoken
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = """Die Möwe fliegt über das Meer, und das Meer fließt unter der Möwe. Größe, Äpfel, Öl und Übermut!
The gull flies over the sea; the sea flows under the gull. It's what they've said, and we'll see: I'm sure.
Am 21. November 2026 waren es 128.256 Zeichen, davon 3.141 Zahlen und 1000000 Leerzeichen.
def fly(height: float = 0.5) -> str:
    if height > 10:
        return "hoch"
    for i in range(3):
\t\tprint(f"{i}: {height}")
    return 'tief'

fn main() {
    let möwe = Vogel { name: "Möwe", höhe: 12 };
    println!("{:?}", möwe); // eine Möwe
}
Der Wind weht, die Wellen rauschen, der Leuchtturm leuchtet, und wieder fliegt die Möwe über das weite Meer.
Wer das Meer sieht, der sieht die Möwe; wer die Möwe hört, der hört das Meer. Straße, Fuß, Gruß, süß.
"""

CASES = [
    "", " ", "  ", "   ", "\n", "\n\n", " \n ", "\t", "\t\t x", "a", " a", "  a", "a ", "a  ", "a\n", "a \n b", "a\r\n\r\nb",
    "Möwe", " Möwe", "Die Möwe fliegt über das Meer.", "the gull's egg, they'VE, I'M, we'll 'tis", "größer als Äpfel?!",
    "1", "12", "123", "1234", "12345 678.9", "x=1;y=22;z=333", "    if height > 10:\n\t\treturn 'tief'\n\n\n",
    "println!(\"{:?}\", möwe); // eine Möwe\n}", "🐦", "a🐦‍⬛b 👩‍👩‍👧‍👦", "日本語のテキスト", "нещо на Български", "กขฃ", "e\u0301a\u0308",
    "\u00a0x\u2003y\u3000", "x\u0000y\u007f", "<s> and </s> are text", "▁x ▁", "...!!!???", "  \n  \n  x  ", "ſ'S ǅ'll",
    "Meer" * 40, "ab" * 100, " " * 100, "\n" * 50 + "x", "a" * 300,
]


def byte_level():
    """Byte-level BPE with the digits and words of SmolLM: HF `tokenizers` trains and encodes."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    saved = json.loads(tokenizer.to_str())["model"]
    tokens = [text for text, _ in sorted(saved["vocab"].items(), key=lambda item: item[1])]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in saved["merges"]]
    cases = []
    for text in CASES:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text
        cases.append([text, ids])
    types = [3, 3, 3] + [1] * (len(tokens) - 3)
    save_byte_level(tokenizer, tokens, merges)
    return {"model": "gpt2", "pre": "smollm", "tokens": tokens, "types": types, "merges": merges, "cases": cases}


def save_byte_level(tokenizer, tokens, merges):
    """The same vocabulary as files that converters read: merges as pairs and as strings, and tiktoken ranks."""
    saved = json.loads(tokenizer.to_str())
    saved["model"]["merges"] = [merge.split(" ") for merge in merges]
    write("byte_level.tokenizer.json", saved)
    saved["model"]["merges"] = merges
    write("byte_level_strings.tokenizer.json", saved)
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in printable]
    to_byte = {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(moved)}
    with open("byte_level.tiktoken", "w", encoding="ascii") as file:
        for rank, text in enumerate(tokens[3:]):
            token = base64.b64encode(bytes(to_byte[character] for character in text)).decode()
            file.write(f"{token} {rank}\n")


def save_sentence_piece(processor, cases):
    """The same vocabulary as Hugging Face writes Llama's: BPE with byte fallback, merges recovered from scores."""
    ids = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}
    merges = []
    for piece, i in ids.items():
        if processor.is_unknown(i) or processor.is_control(i) or processor.is_byte(i):
            continue
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        pairs = [pair for pair in pairs if pair[0] in ids and pair[1] in ids]
        merges += [(-processor.get_score(i), ids[left], ids[right], left, right) for left, right in pairs]
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    tokenizer = Tokenizer(models.BPE(ids, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    for text, expected in cases:
        if "<s>" not in text:
            assert tokenizer.encode(text, add_special_tokens=False).ids == expected, text
    write("sentence_piece.tokenizer.json", json.loads(tokenizer.to_str()))


def write(name, content):
    with open(name, "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


def sentence_piece():
    """SentencePiece BPE with byte fallback: the `sentencepiece` library trains and encodes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=model, model_type="bpe", vocab_size=640,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=True, split_digits=True, allow_whitespace_only_pieces=True, character_coverage=0.99,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kinds = [(processor.is_unknown, 2), (processor.is_control, 3), (processor.is_unused, 5), (processor.is_byte, 6)]
    ids = range(processor.get_piece_size())
    types = [next((kind for holds, kind in kinds if holds(i)), 1) for i in ids]
    cases = [[text, processor.encode(text)] for text in CASES]
    save_sentence_piece(processor, cases)
    with open("sentence_piece.model", "wb") as file:
        file.write(model.getvalue())
    return {
        "model": "llama", "pre": "", "tokens": [processor.id_to_piece(i) for i in ids],
        "scores": [processor.get_score(i) for i in ids], "types": types, "merges": [], "cases": cases,
    }


def ranks():
    """byte_level.tiktoken as the `tiktoken` library reads it, with GPT-2's words."""
    with open("byte_level.tiktoken", encoding="ascii") as file:
        pairs = [line.split() for line in file]
    mergeable = {base64.b64decode(token): int(rank) for token, rank in pairs}
    words = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    encoding = tiktoken.Encoding("byte_level", pat_str=words, mergeable_ranks=mergeable, special_tokens={})
    return {"cases": [[text, encoding.encode(text)] for text in CASES]}


# What nmt_nfkc does, in a few rules: replace, put together, leave out, and turn other white space into spaces.
RULES = {"ﬁ": "fi", "½": "1/2", "Ａ": "A", "e\u0301": "é", "\u200b": "", "\t": " ", "\u00a0": " ", "\u3000": " ", "…": "..."}

PREPARED_CASES = [
    "", " ", "   ", "a", "  a  b ", "ﬁnden", "½ Ａ…", "cafe\u0301 café", "x\u200by", "tab\tund\u00a0mehr\u3000Raum ",
    "Die Möwe<sep>fliegt", "<sep>", " <sep> x", "<sep><sep> a", "Meer  <sep>  Meer", "das▁Meer", "日本 a 日", "🐦🐦", "<s>x</s>",
    "Zeile\nZeile", "ab" * 30,
]


def prepared():
    """SentencePiece that changes text first and has no bytes to fall back to: rules, extra spaces, a symbol of one's own."""
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as rules:
        for source, target in RULES.items():
            rules.write("\t".join(" ".join(f"{ord(c):04X}" for c in text) for text in (source, target)) + "\n")
        rules.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT.splitlines()), model_writer=model, model_type="bpe", vocab_size=300,
            byte_fallback=False, normalization_rule_tsv=rules.name, remove_extra_whitespaces=True,
            user_defined_symbols=["<sep>"], character_coverage=1.0,
        )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    with open("prepared.model", "wb") as file:
        file.write(model.getvalue())
    return {"cases": [[text, processor.encode(text)] for text in PREPARED_CASES]}


write("byte_level.json", byte_level())
write("sentence_piece.json", sentence_piece())
write("ranks.json", ranks())
write("prepared.json", prepared())

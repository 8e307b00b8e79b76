"""Trains two tiny vocabularies and records what independent tokenizers make of some texts. See README.md."""

import base64
import io
import json

import sentencepiece
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


write("byte_level.json", byte_level())
write("sentence_piece.json", sentence_piece())

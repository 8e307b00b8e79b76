#!/usr/bin/env python3
"""Short German dialogues out of plays: questions, and what the next speaker says.

usage: dialogues.py de-plays.txt.gz OUT      writes OUT/train.jsonl, OUT/valid.jsonl and OUT/questions.txt
The plays are those of the German Drama Corpus (dracor-org/gerdracor, CC0), a blank line between two of them. A play is
in one of the three only, so no question of the last two was seen.
"""
import gzip, json, os, random, re, sys

TRAIN, VALID, QUESTIONS, PER_PLAY = 800, 120, 20, 12
SPEAKER = re.compile(r"^[A-ZÄÖÜ][\wÄÖÜäöüß]+( [\wÄÖÜäöüß]+)?\.$")
# What stage directions are made of, what belongs to the print, and words of their time that should stay there.
ODD = re.compile(r"[\[\]()»«„“_*/;]|\d| (ab|geht|tritt|kommt|setzt|steht|zieht|nimmt|küßt|lacht|weint) ?[.!]|^(Ab|Er|Sie|Geht|Tritt)\b.*\.$|Vorige|auftretend|Neger|Mohr|Jude|Jüd|Zigeuner|Hure|Weib")


def speeches(play):
    """(speaker, text) of speeches of one line; None in the place of longer ones."""
    lines, found = play.split("\n"), []
    marks = [i for i, line in enumerate(lines) if len(line) < 26 and SPEAKER.match(line)]
    for start, end in zip(marks, marks[1:] + [len(lines)]):
        body = lines[start + 1:end]
        found.append((lines[start], body[0].strip()) if len(body) == 1 else None)
    return found


def is_plain(text, least, most, ends):
    words = text.split()
    return least <= len(words) <= most and text[-1] in ends and text[0].isupper() and not ODD.search(text)


def dialogues(play):
    """One or two questions with their answers, each pair between the same two speakers."""
    found, all_ = [], speeches(play)
    i = 0
    while i + 1 < len(all_):
        turns = []
        while i + 1 < len(all_) and len(turns) < 4:
            a, b = all_[i], all_[i + 1]
            if not a or not b or a[0] == b[0]: break
            if turns and {a[0], b[0]} != speakers: break
            if not is_plain(a[1], 2, 14, "?") or not is_plain(b[1], 2, 16, ".!"): break
            speakers = {a[0], b[0]}
            turns += [{"role": "user", "content": a[1]}, {"role": "assistant", "content": b[1]}]
            i += 2
        if turns: found.append(turns)
        else: i += 1
    return found


def main():
    plays = gzip.open(sys.argv[1], "rt", encoding="utf-8").read().split("\n\n")
    chance = random.Random(7)
    chance.shuffle(plays)
    train, valid, questions, seen = [], [], [], set()
    for play in plays:
        own = [d for d in dialogues(play) if d[0]["content"] not in seen]
        chance.shuffle(own)
        own = own[:PER_PLAY]
        seen.update(d[0]["content"] for d in own)
        if len(valid) < VALID: valid += own
        elif len(questions) < QUESTIONS: questions += [d[0]["content"] for d in own]
        elif len(train) < TRAIN: train += own
    os.makedirs(sys.argv[2], exist_ok=True)
    for name, part in (("train", train[:TRAIN]), ("valid", valid[:VALID])):
        with open(f"{sys.argv[2]}/{name}.jsonl", "w", encoding="utf-8") as out:
            for turns in part: out.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
    with open(f"{sys.argv[2]}/questions.txt", "w", encoding="utf-8") as out: out.write("\n".join(questions[:QUESTIONS]) + "\n")
    print(f"{len(train[:TRAIN])} to train on, {len(valid[:VALID])} held out, {len(questions[:QUESTIONS])} questions; {len(plays)} plays")


main()

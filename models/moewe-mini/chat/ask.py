#!/usr/bin/env python3
"""Asks each question once and looks at how the answer ends.

usage: ask.py MOEWE QUESTIONS [FLAG…]      prints a table: question, answer, whether it ended by itself, whether six words
in a row stand in it three times. FLAGs go to `moewe chat`.
"""
import json, subprocess, sys


def repeats(text, run=6, times=3):
    words = text.split()
    runs = [tuple(words[i:i + run]) for i in range(len(words) - run + 1)]
    return any(runs.count(r) >= times for r in set(runs))


def main():
    moewe, questions, flags = sys.argv[1], open(sys.argv[2], encoding="utf-8").read().split("\n"), sys.argv[3:]
    ended = repeated = 0
    questions = [q for q in questions if q]
    print("| question | answer | ended | repeats |\n|---|---|---|---|")
    for question in questions:
        said = subprocess.run([moewe, "chat", "--json", "-q", "--seed", "1", "-n", "120", *flags], input=question + "\n",
                              capture_output=True, text=True, check=True).stdout
        answer = json.loads(said.splitlines()[0])
        text, is_end = answer["text"], answer["ending"] not in ("limit", "context full", "stopped")
        ended += is_end; repeated += repeats(text)
        print(f"| {question} | {' '.join(text.split())} | {'yes' if is_end else 'no'} | {'yes' if repeats(text) else 'no'} |")
    print(f"\n{ended} of {len(questions)} answers end by themselves, {repeated} repeat themselves.")


main()

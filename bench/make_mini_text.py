#!/usr/bin/env python3
"""Writes mini.txt and mini_questions.jsonl: made-up documents of about 850 tokens in the forms that
models/mini was trained with, and the same as questions with their answers (bench/passages.h). JSON
look-ups, strings by their ends, and pass keys among stories, of each as many as --each says. Without
arguments it writes the files beside it; with more of each, these come first, and another --seed
makes others."""

import argparse
import json
import pathlib
import random
import string

NAMES = "Amy Ben Dora Ella Gina Hugo Ivan Jane Kate Leo Lily Lucy Mia Nora Owen Paul Ruby Tom".split()
PETS = ["dog", "cat", "horse", "goat", "rabbit", "duck"]
PET_NAMES = ["Spot", "Luna", "Coco", "Milo", "Biscuit", "Oscar"]
PLACES = ["lake", "school", "bakery", "meadow", "station", "library", "farm", "museum"]
THINGS = ["kite", "ring", "spoon", "map", "shell", "cup", "drum", "mirror", "bell", "hat"]
COLOURS = ["red", "blue", "green", "pink", "purple", "silver", "white", "yellow"]
FEELINGS = ["happy", "calm", "proud", "curious", "tired"]
WEATHER = ["sunny", "windy", "foggy", "rainy", "cold"]


def letters(rng, n):
    return "".join(rng.choice(string.ascii_uppercase) for _ in range(n))


def look_up(rng):
    pairs = {letters(rng, 4): letters(rng, 5) for _ in range(56)}
    asked = rng.sample(sorted(pairs), 5)
    return json.dumps(pairs), [(f'"{key}":', f'"{pairs[key]}"') for key in asked]


def by_ends(rng):
    strings = [letters(rng, 10) for _ in range(64)]
    question = 'The string that starts with "{}" and ends with "{}":'
    return json.dumps(strings), [(question.format(s[:3], s[-3:]), s) for s in rng.sample(strings, 5)]


def story(rng, name):
    friend = rng.choice([other for other in NAMES if other != name])
    pet, pet_name = rng.choice(PETS), rng.choice(PET_NAMES)
    first, second = rng.sample(PLACES, 2)
    thing, other = rng.sample(THINGS, 2)
    colour, another = rng.sample(COLOURS, 2)
    return (f"{name} lived near the {first} with a {pet} called {pet_name}. One day {name} and "
            f"{pet_name} went to the {second}. It was {rng.choice(WEATHER)}. There {name} found a "
            f"{colour} {thing} behind the tree. {name} felt very {rng.choice(FEELINGS)}. Later, "
            f"{friend} came from the {first} to say hello. {friend} had a {another} {other}. "
            f"{name} kept the {thing}, and {friend} kept the {other}. When it got dark, {name} and "
            f"{pet_name} went home.")


def pass_keys(rng):
    names = rng.sample(NAMES, 14)
    keys = {name: f"{rng.randrange(100000):05}" for name in names[:7]}
    parts = [f"The pass key of {name} is {key}." for name, key in keys.items()]
    parts += [story(rng, name) for name in names[7:12]]
    rng.shuffle(parts)
    questions = [(f"What is the pass key of {name}?", keys[name]) for name in rng.sample(names[:7], 5)]
    return "\n\n".join(parts), questions


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=5)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    rows = [kind(rng) for _ in range(options.each) for kind in (look_up, by_ends, pass_keys)]
    documents, lines = [], []
    for context, questions in rows:
        strings, before = [], context + "\n"
        for question, answer in questions:
            strings += [before + question, f" {answer}\n"]
            before = ""
        documents.append("".join(strings))
        lines.append(json.dumps(strings) + "\n")
    (options.out / "mini.txt").write_text("\f".join(documents))
    (options.out / "mini_questions.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()

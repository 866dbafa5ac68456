#!/usr/bin/env python3
"""Ids of many texts against Hugging Face's tokenizers, for every tokenizer in tests/text/golden and for models/mini:
what the fuzz target text_encode has kept in build/fuzz/corpus, its seeds, and random pieces of the corpus put together.
Ends with an error at the first text that differs. Needs `pip install tokenizers` and the built target encode_texts:

    tests/fuzz/compare_encode.py [--program build/release/bin/encode_texts] [--random 2000] [--seed 1]

Code points that are letters or numbers only since Unicode 15 are left out: PCRE2 10.42 knows Unicode 14.
"""
import argparse
import json
import pathlib
import random
import re
import subprocess
import sys
import unicodedata

from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "text" / "golden"


def texts(options):
    for folder in (ROOT / "tests/fuzz/corpus/text_encode", ROOT / "build/fuzz/corpus/text_encode"):
        for file in sorted(folder.glob("*")):
            yield file.read_bytes().decode("utf-8", errors="replace")
    corpus = json.loads((GOLDEN / "corpus.json").read_text())
    pieces = [text for text in corpus["texts"] if isinstance(text, str)] + corpus["alphabets"]
    source = random.Random(options.seed)
    for _ in range(options.random):
        text = ""
        for _ in range(source.randrange(1, 8)):
            piece = source.choice(pieces)
            begin = source.randrange(len(piece) + 1)
            text += piece[begin:begin + source.randrange(1, 30)]
            if source.random() < 0.2:
                text += chr(source.choice((source.randrange(0x20, 0x3000), source.randrange(0x3000, 0xd800),
                                           source.randrange(0xe000, 0x20000))))
        yield text


def known(text):
    """Assigned in Unicode 14, which Python 3.11 has, or not a letter in any version we know of."""
    return unicodedata.unidata_version > "14" or not any(unicodedata.category(c) == "Cn" for c in text)


def compare(name, folder, options, all_texts):
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stream = b"".join(b"%d\n%s" % (len(data), data) for data in (text.encode() for text in all_texts))
    lines = subprocess.run([options.program, str(folder)], input=stream, stdout=subprocess.PIPE,
                           check=True).stdout.decode().split("\n")
    for i, text in enumerate(all_texts):
        for line, literal in ((lines[2 * i], False), (lines[2 * i + 1], True)):
            theirs.encode_special_tokens = literal
            ids = theirs.encode(text, add_special_tokens=False).ids
            if ids != [int(one) for one in line.split()]:
                sys.exit(f"{name}, special tokens as {'text' if literal else 'tokens'}: {text!r}\n"
                         f"tokenizers {ids}\nkvferry    [{re.sub(' ', ', ', line.strip())}]")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default="build/release/bin/encode_texts")
    parser.add_argument("--random", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    all_texts = [text for text in texts(options) if known(text)]
    folders = {file.parent.name: file.parent for file in sorted(GOLDEN.glob("*/tokenizer.json"))}
    folders["mini"] = ROOT / "models" / "mini"
    for name, folder in folders.items():
        compare(name, folder, options, all_texts)
    print(f"{len(all_texts)} texts, {len(folders)} tokenizers: all ids are equal")


main()

#!/usr/bin/env python3
"""Ids of many texts against Hugging Face's tokenizers, for every tokenizer in tests/text/golden and
for models/mini: the seeds of the fuzz target text_encode, files of --also, and random pieces of the
corpus put together. Ends with an error at the first text that differs. Needs the Python package
tokenizers and the target encode_texts; CTest runs it as compare_encode_test, and for long

    tests/fuzz/run SECONDS compare_encode

Texts with code points that this machine's PCRE2 has not assigned (10.42: all since Unicode 15) are
left out: which of them are letters is what the two know differently.
"""
import argparse
import itertools
import json
import pathlib
import random
import subprocess
import sys
import time

from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "text" / "golden"
BATCH = 2000  # texts


def kept_texts(folders):
    for folder in folders:
        for file in sorted(folder.glob("*")):
            yield file.read_bytes().decode("utf-8", errors="replace")


def random_texts(seed):
    corpus = json.loads((GOLDEN / "corpus.json").read_text())
    pieces = [text for text in corpus["texts"] if isinstance(text, str)] + corpus["alphabets"]
    source = random.Random(seed)
    while True:
        text = ""
        for _ in range(source.randrange(1, 8)):
            piece = source.choice(pieces)
            begin = source.randrange(len(piece) + 1)
            text += piece[begin:begin + source.randrange(1, 30)]
            if source.random() < 0.2:
                text += chr(source.choice((source.randrange(0x20, 0x3000),
                                           source.randrange(0x3000, 0xd800),
                                           source.randrange(0xe000, 0x20000))))
        yield text


def compare(folder, theirs, program, texts):
    """How many of the texts could be compared."""
    stream = b"".join(b"%d\n%s" % (len(data), data) for data in map(str.encode, texts))
    lines = subprocess.run([program, str(folder)], input=stream, stdout=subprocess.PIPE,
                           check=True).stdout.decode().splitlines()
    assert len(lines) == 2 * len(texts), lines[-1:]
    compared = 0
    for i, text in enumerate(texts):
        if lines[2 * i] == "unassigned":
            continue
        compared += 1
        for line, literal in ((lines[2 * i], False), (lines[2 * i + 1], True)):
            theirs.encode_special_tokens = literal
            ids = theirs.encode(text, add_special_tokens=False).ids
            ours = [int(one) for one in line.split()]
            if ids != ours:
                sys.exit(f"{folder.name}, special tokens as {'text' if literal else 'tokens'}: "
                         f"{text!a}\ntokenizers {ids}\nkvferry    {ours}")
    return compared


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=str(ROOT / "build/release/bin/encode_texts"))
    parser.add_argument("--also", type=pathlib.Path, action="append", default=[],
                        help="a folder of files, each a text")
    parser.add_argument("--seconds", type=float, default=0,
                        help=f"goes on with {BATCH} random texts more until these are over")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folders = [file.parent for file in sorted(GOLDEN.glob("*/tokenizer.json"))]
    folders.append(ROOT / "models" / "mini")
    theirs = {folder: Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in folders}

    kept = kept_texts([ROOT / "tests/fuzz/corpus/text_encode", *options.also])
    texts = itertools.chain(kept, random_texts(options.seed))
    end = time.monotonic() + options.seconds
    asked = compared = 0
    while not asked or time.monotonic() < end:
        batch = list(itertools.islice(texts, BATCH))
        for folder in folders:
            in_folder = compare(folder, theirs[folder], options.program, batch)
        asked += len(batch)
        compared += in_folder
    print(f"{compared} texts, {len(folders)} tokenizers: all ids are equal; "
          f"{asked - compared} texts left out")


main()

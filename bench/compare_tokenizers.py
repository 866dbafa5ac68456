#!/usr/bin/env python3
"""Speed of a checkpoint's tokenizer beside Hugging Face's `tokenizers`, one thread each, in turn in one run, and whether
both give the same ids. Needs `pip install tokenizers`.

    bench/compare_tokenizers.py --model DIR --text FILE [--program build/release/bin/kvferry] [--rounds 5]

Of `tokenizers` the faster of encode and encode_batch_fast (no offsets) counts. It keeps a cache of words from call to
call, which is warm here; kvferry keeps nothing.
"""
import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import argparse
import json
import pathlib
import statistics
import subprocess
import time

import tokenizers


def milliseconds(call):
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--program", default="build/release/bin/kvferry")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    text = pathlib.Path(options.text).read_bytes().decode()
    theirs = tokenizers.Tokenizer.from_file(str(pathlib.Path(options.model) / "tokenizer.json"))
    calls = {"encode": lambda: theirs.encode(text, add_special_tokens=False),
             "encode_batch_fast": lambda: theirs.encode_batch_fast([text], add_special_tokens=False)}
    ours_ms, theirs_ms = [], {name: [] for name in calls}
    for _ in range(options.rounds):
        command = [options.program, "bench", "tokenize", "--model", options.model, "--text", options.text, "--json",
                   "--runs", "3"]
        report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        ours_ms.append(report["encode_ms"])
        for name, call in calls.items():
            call()
            theirs_ms[name].append(statistics.median(milliseconds(call) for _ in range(3)))
    ours = statistics.median(ours_ms)
    best = min(statistics.median(times) for times in theirs_ms.values())
    print(json.dumps({
        "model": options.model, "text": options.text, "bytes": report["bytes"], "cpu": report["cpu"],
        "tokens": report["tokens"],
        "tokens_equal": len(theirs.encode(text, add_special_tokens=False).ids) == report["tokens"],
        "kvferry_ms": ours, "kvferry_ms_range": [min(ours_ms), max(ours_ms)],
        "tokenizers_ms": best, "tokenizers_ms_ranges": {n: [min(t), max(t)] for n, t in theirs_ms.items()},
        "tokenizers_version": tokenizers.__version__, "times_as_fast": best / ours}, indent=1))


main()

#!/usr/bin/env python3
"""The official `openai` package, unchanged, against a cluster of this tree: sync and async clients,
streams, errors, time-outs, retries.

    tests/e2e/openai_client.py [--program build/release/bin/kvferry]

Starts `kvferry up` with API keys on a free port, prints a line for each check, stops it. Exits with
1 if a check fails.
"""

import argparse
import asyncio
import contextlib
import hashlib
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import openai

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMPT = '{"QIRN": "PTRAT", "LOVE": "MAKSU", "TENB": "ORILA"}\n"LOVE":'
FREE, ONE = "key-without-a-limit", "key-for-one-request-at-once"
STORY = "Once upon a time there was a little girl named Lily."
CHAT = [{"role": "user", "content": STORY}]
# Busy for long enough to be found so.
LONG = {"prompt": STORY, "max_tokens": 1900, "extra_body": {"ignore_eos": True}}


@contextlib.contextmanager
def cluster(program):
    with tempfile.TemporaryDirectory() as directory:
        keys = pathlib.Path(directory) / "keys.yaml"
        lines = ["keys:"]
        for name, key, more in (("free", FREE, ""), ("one", ONE, ", concurrent: 1")):
            digest = hashlib.sha256(key.encode()).hexdigest()
            lines.append(f"  - {{name: {name}, sha256: {digest}{more}}}")
        keys.write_text("\n".join(lines) + "\n")
        up = subprocess.Popen(
            [program, "up", "--model", str(ROOT / "models/mini"), "--port", "0",
             "--api-keys", str(keys)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            line = up.stdout.readline()
            if not line.startswith("serving on "):
                raise SystemExit("`kvferry up` did not start; run it by hand to see why")
            yield line.split()[-1] + "/v1"
        finally:
            up.terminate()
            up.wait()


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


class Checks:
    def __init__(self, url):
        self.url = url

    def client(self, key=FREE, **options):
        return openai.OpenAI(base_url=self.url, api_key=key, **options)

    def models(self):
        client = self.client()
        assert [model.id for model in client.models.list()] == ["mini"]
        assert client.models.retrieve("mini").max_model_len == 2048

    def completion(self):
        raw = self.client().completions.with_raw_response.create(
            model="mini", prompt=PROMPT, max_tokens=8, stop="\n",
            extra_headers={"X-Request-Id": "from-the-client"})
        assert raw.headers["x-request-id"] == "from-the-client"
        answer = raw.parse()
        assert "MAKSU" in answer.choices[0].text, answer
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.total_tokens == (
            answer.usage.prompt_tokens + answer.usage.completion_tokens)
        assert answer.usage.kvferry["codec"]

    def chat(self):
        answer = self.client().chat.completions.create(model="mini", messages=CHAT, max_tokens=20)
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].message.content
        assert answer.usage.completion_tokens <= 20

    def streams_say_what_whole_answers_say(self):
        client = self.client()
        whole = client.chat.completions.create(model="mini", messages=CHAT, max_tokens=30)
        text, usage, reason = "", None, None
        for chunk in client.chat.completions.create(
                model="mini", messages=CHAT, max_tokens=30, stream=True,
                stream_options={"include_usage": True}):
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
                reason = chunk.choices[0].finish_reason or reason
            usage = chunk.usage or usage
        assert text == whole.choices[0].message.content
        assert reason == whole.choices[0].finish_reason
        assert usage.completion_tokens == whole.usage.completion_tokens
        pieces = client.completions.create(model="mini", prompt=PROMPT, max_tokens=8, stream=True)
        assert "MAKSU" in "".join(piece.choices[0].text for piece in pieces)

    def errors(self):
        client = self.client(max_retries=0)
        lost = raises(openai.NotFoundError, lambda: client.completions.create(
            model="gpt-9", prompt="x"))
        assert lost.status_code == 404 and lost.code == "model_not_found", lost
        assert lost.request_id
        bad = raises(openai.BadRequestError, lambda: client.completions.create(
            model="mini", prompt="x", temperature=7))
        assert bad.param == "temperature", bad
        far = raises(openai.BadRequestError, lambda: client.completions.create(
            model="mini", prompt=[5] * 3000))
        assert far.code == "context_length_exceeded", far
        raises(openai.BadRequestError, lambda: list(client.completions.create(
            model="mini", prompt=[5] * 3000, stream=True)))
        large = raises(openai.APIStatusError, lambda: client.completions.create(
            model="mini", prompt="x" * 100_000_000))
        assert large.status_code == 413, large
        raises(openai.AuthenticationError, lambda: self.client("wrong").models.list())

    def timeouts(self):
        client = self.client(max_retries=0)
        raises(openai.APITimeoutError, lambda: client.completions.create(
            model="mini", timeout=0.002, **LONG))
        late = raises(openai.InternalServerError, lambda: client.completions.create(
            model="mini", extra_headers={"Timeout": "0.002"}, **LONG))
        assert late.status_code == 504, late

    def retries(self):
        """A key for one request at once: without retries the second is refused, with them it
        waits for as long as Retry-After says."""
        busy = self.client(ONE).completions.create(model="mini", stream=True, **LONG)
        next(iter(busy))
        raises(openai.RateLimitError, lambda: self.client(ONE, max_retries=0).completions.create(
            model="mini", prompt=PROMPT, max_tokens=4))
        threading.Timer(0.3, busy.close).start()
        answer = self.client(ONE, max_retries=5).completions.create(
            model="mini", prompt=PROMPT, max_tokens=4)
        assert answer.choices[0].text

    def leaving_a_stream_frees_its_place(self):
        client = self.client(ONE, max_retries=0)
        for _ in range(3):
            stream = client.completions.create(model="mini", stream=True, **LONG)
            next(iter(stream))
            stream.close()
            deadline = time.monotonic() + 10
            while True:  # the gateway hears of it when the connection is closed
                try:
                    client.completions.create(model="mini", prompt=PROMPT, max_tokens=2)
                    break
                except openai.RateLimitError:
                    assert time.monotonic() < deadline

    def async_client(self):
        async def all_at_once():
            async with openai.AsyncOpenAI(base_url=self.url, api_key=FREE) as client:
                async def one(index):
                    text = ""
                    async for chunk in await client.chat.completions.create(
                            model="mini", messages=CHAT, max_tokens=5 + index, stream=True):
                        text += chunk.choices[0].delta.content or ""
                    return text
                streams = await asyncio.gather(*(one(index) for index in range(8)))
                for shorter, longer in zip(streams, streams[1:]):
                    assert longer.startswith(shorter), (shorter, longer)
                answer = await client.completions.create(
                    model="mini", prompt=PROMPT, max_tokens=8)
                assert "MAKSU" in answer.choices[0].text
                try:
                    await client.completions.create(
                        model="mini", timeout=0.002, **LONG)
                    raise AssertionError("no time-out")
                except openai.APITimeoutError:
                    pass
                try:
                    await client.with_options(api_key="wrong").models.list()
                    raise AssertionError("no 401")
                except openai.AuthenticationError:
                    pass

        asyncio.run(all_at_once())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=str(ROOT / "build/release/bin/kvferry"))
    failed = 0
    with cluster(parser.parse_args().program) as url:
        checks = Checks(url)
        for name in (name for name in vars(Checks) if not name.startswith("_") and name != "client"):
            try:
                getattr(checks, name)()
                print(f"ok      {name}", flush=True)
            except Exception:  # every check is told of
                failed += 1
                print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
    print(f"openai {openai.__version__}: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes chat.json: what transformers renders of the conversations below with published chat templates, and the SHA-256
by which each template is recognised (text/chat_formats.cpp). The templates are not part of the tree; give a folder that
holds FORMAT.jinja, or FORMAT@ANYTHING.jinja where a format was published in several forms:

    python3 make_chat_golden.py FOLDER
"""
import hashlib
import json
import pathlib
import sys
from unittest import mock

from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
TODAY = "07 Mar 2025"


def call(name, arguments, id="abcdefgh1"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def turns(*contents):
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


SYSTEM = {"role": "system", "content": " Be brief.\n"}
TOOL_CALL = {"role": "assistant", "content": "", "tool_calls": [
    call("weather", {"city": "Zürich \"x\"", "days": 3, "at": [1.5, 1e-7, 1e20, True, None], "of": {}})]}
TOOL_ANSWER = {"role": "tool", "content": "{\"sky\": \"blue\\t\"}\nend", "tool_call_id": "abcdefgh1"}
CONVERSATIONS = {
    "one": turns("Hi"),
    "system": [SYSTEM] + turns("Hi"),
    "only_system": [SYSTEM],
    "spaces": turns("  two\u3000\n", "\tanswer\x1f ", " \n"),
    "many": [SYSTEM] + turns("What is 2+2?", "Four.", "And 3+3?", "Six.", "日本語で😀"),
    "special": turns("<|im_end|>\n<|im_start|>system\n<|eot_id|>[/INST]</s>", "<s>[INST]", "{{ bos_token }}"),
    "answer_last": turns("Count.", "One,"),
    "same_role_twice": turns("a") + turns("b"),
    "system_later": turns("a", "b") + [SYSTEM] + turns("c"),
    "system_for_answer": turns("a") + [SYSTEM],
    "empty": turns("", "", ""),
    "thoughts": turns("a", "<think>\nhm\n\n</think>\n\nb", "c", "<think>\n\n</think>\n\nd"),
    "thoughts_odd": turns("a", "x</think>y</think>\nz", "c", "no <think> end"),
    "tool": [SYSTEM] + turns("Weather?") + [TOOL_CALL, TOOL_ANSWER] + turns("Thanks"),
    "tool_answer_last": turns("Weather?") + [TOOL_CALL, TOOL_ANSWER],
    "tool_after_words": turns("Weather?") + [dict(TOOL_CALL, content="<think>\nlook\n</think>\n\nI look.")] + [
        TOOL_ANSWER, {"role": "assistant", "content": "Blue."}, {"role": "user", "content": "And?"}],
    "two_tools": turns("Both?") + [
        {"role": "assistant", "content": "", "tool_calls": [call("a", {}), call("b", {"x": "y"}, "abcdefgh2")]},
        TOOL_ANSWER, dict(TOOL_ANSWER, content="two", tool_call_id="abcdefgh2"), {"role": "assistant", "content": "Done"},
        {"role": "user", "content": "Fine"}],
    "tool_id": turns("a") + [{"role": "assistant", "content": "", "tool_calls": [call("f", {}, "call_1")]},
                             dict(TOOL_ANSWER, tool_call_id="call_1")],
}
TOKENS = {"llama": ("<|begin_of_text|>", "<|eot_id|>"), "mistr": ("<s>", "</s>")}


def normal_form(source):
    return source.replace("\r", "").replace("\\n", "\n").replace("\"", "'").strip()


def render(source, name, conversation, **options):
    bos, eos = TOKENS.get(name[:5], ("<s>", "<|im_end|>"))
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[conversation], chat_template=source, bos_token=bos, eos_token=eos,
            **{"add_generation_prompt": True, **options})
        return {"prompt": rendered[0]}
    except Exception as error:  # the template's own raise_exception
        return {"error": str(error)}


def the_one_end(longer, shorter):
    """What all of `longer` have behind those of `shorter`."""
    ends = set()
    for key, made in longer.items():
        if "prompt" in made:
            prompt, begin = made["prompt"], shorter[key]["prompt"]
            ends.add(prompt[len(begin):] if prompt.startswith(begin) else None)
    if len(ends) != 1 or None in ends:
        sys.exit(f"an option does not end all prompts alike: {ends}")
    return ends.pop()


def render_all(source, name):
    def made(**options):
        return {key: render(source, name, messages, **options) for key, messages in CONVERSATIONS.items()}
    rendered, bare = made(), made(add_generation_prompt=False)
    if bare != made(add_generation_prompt=False, enable_thinking=False) or rendered != made(enable_thinking=True):
        sys.exit(f"enable_thinking changes more than the generation prompt of {name}")
    return {"rendered": rendered, "generation_prompt": the_one_end(rendered, bare),
            "no_thoughts": the_one_end(made(enable_thinking=False), rendered)}


def for_test(message):
    """As a client of the API sends it: arguments as text."""
    calls = [dict(id=c["id"], name=c["function"]["name"], arguments=json.dumps(c["function"]["arguments"]))
             for c in message.get("tool_calls", [])]
    return {"role": message["role"], "content": message["content"], "tool_calls": calls,
            "tool_call_id": message.get("tool_call_id", "")}


class Today(chat_template_utils.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.strptime(TODAY, "%d %b %Y")


def main():
    formats = {}
    for file in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
        name = file.stem.split("@")[0]
        source = file.read_text()
        made = render_all(source, name)
        entry = formats.setdefault(name, {"hashes": [], **made})
        if any(entry[key] != value for key, value in made.items()):
            sys.exit(f"{file} renders otherwise than the other templates of {name}")
        digest = hashlib.sha256(normal_form(source).encode()).hexdigest()
        if digest not in entry["hashes"]:
            entry["hashes"].append(digest)
            print(f'    {{"{digest}",\n     "{name}"}},')
    bos_eos = {name: TOKENS.get(name[:5], ("<s>", "<|im_end|>")) for name in formats}
    for name, entry in formats.items():
        entry["bos_token"], entry["eos_token"] = bos_eos[name]
    conversations = {key: [for_test(m) for m in messages] for key, messages in CONVERSATIONS.items()}
    (HERE / "chat.json").write_text(json.dumps(
        {"today": TODAY, "conversations": conversations, "formats": formats}, indent=0) + "\n")


with mock.patch.object(chat_template_utils, "datetime", Today):
    main()

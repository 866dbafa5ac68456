"""Writes what Hugging Face's tokenizers makes of corpus.json, for the tokenizer in each folder here and for
models/mini: FOLDER.json next to this file. A folder whose tokenizer.json is missing gets one first, trained on the
tree's documents with the pre-tokenizer, normalizer and decoder of the family it is named for.

corpus.json: "texts" are strings, or {"hex": bytes that are not UTF-8}; "alphabets" feed the long text."""
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CORPUS = json.loads((HERE / "corpus.json").read_text())
TEXTS = [text if isinstance(text, str) else bytes.fromhex(text["hex"]).decode("utf-8", errors="replace")
         for text in CORPUS["texts"]]
LONG_BYTES = 1 << 20


def training_texts():
    return [path.read_text() for path in sorted(ROOT.glob("docs/*.md"))] + TEXTS * 2


def template(tokenizer, bos):
    return processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B",
                                         special_tokens=[(bos, tokenizer.token_to_id(bos))])


def byte_level(pre_tokenizer, vocab_size, normalizer=None, ignore_merges=False):
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.pre_tokenizer = pre_tokenizer
    made.decoder = decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    made.train_from_iterator(training_texts(), trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return made


def split_then_bytes(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])


def gpt2():
    made = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), 900)
    made.add_special_tokens(["<|endoftext|>"])
    made.add_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<end>", rstrip=True, normalized=False),
                     AddedToken("word", single_word=True, normalized=False),
                     AddedToken("<both>", lstrip=True, rstrip=True, special=True)])
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


def llama3():
    made = byte_level(split_then_bytes(LLAMA3), 900, ignore_merges=True)
    model = json.loads(made.to_str())  # a token that no merge makes: only ignore_merges finds it
    model["model"]["vocab"]["\u0120quack"] = len(model["model"]["vocab"])
    made = Tokenizer.from_str(json.dumps(model))
    made.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                             "<|eot_id|>", "<|python_tag|>", "<|eom_id|>"])
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                               template(made, "<|begin_of_text|>")])
    return made


def qwen2():
    made = byte_level(split_then_bytes(QWEN2), 900, normalizer=normalizers.NFC())
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    made.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False),
                     AddedToken("cafe\u0301", normalized=True)])
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


def sentencepiece(metaspace, normalizer, decoder, normalized_specials=False):
    """Trained on words with a marker, as SentencePiece does; the bytes come first, merges may make runs of markers."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trained.train_from_iterator(training_texts(), trainers.BpeTrainer(
        vocab_size=900, limit_alphabet=150, show_progress=False))
    model = json.loads(trained.to_str())
    first = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [["\u2581" * 2 ** i, "\u2581" * 2 ** i] for i in range(3)] + model["model"]["merges"]
    learned = [token for token in model["model"]["vocab"] if token not in first]
    runs = ["\u2581" * 2 ** (i + 1) for i in range(3)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(first + runs + learned))}
    model["model"].update(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    model["pre_tokenizer"] = metaspace
    model["normalizer"] = normalizer
    model["decoder"] = decoder
    made = Tokenizer.from_str(json.dumps(model))
    made.add_special_tokens([AddedToken(token, normalized=normalized_specials) for token in ("<unk>", "<s>", "</s>")])
    made.post_processor = template(made, "<s>")
    return made


TO_TEXT = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
MARKERS = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
                                               {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}


def legacy(key):
    """As files were before prepend_scheme: add_prefix_space and a copy of the replacement."""
    return {"type": "Metaspace", "replacement": "\u2581", "str_rep": "\u2581", "add_prefix_space": True, key: "always"}


FAMILIES = {
    "gpt2": gpt2,
    "llama3": llama3,
    "qwen2": qwen2,
    "llama2": lambda: sentencepiece(None, MARKERS, TO_TEXT),
    "llama2_normalized": lambda: sentencepiece(None, MARKERS, TO_TEXT, normalized_specials=True),
    "mistral": lambda: sentencepiece(metaspace("first", False), None, TO_TEXT),
    "metaspace": lambda: sentencepiece(legacy("prepend_scheme"), None, {"type": "Sequence", "decoders": [
        {"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always",
                                   "split": True}]}),
}


class Random:
    """Knuth's 64-bit linear congruential generator, as golden_test.cpp has it."""

    def __init__(self, seed):
        self.state = seed

    def below(self, bound):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % bound


def long_text():
    random = Random(1)
    text, size = [], 0
    while size < LONG_BYTES:
        if random.below(2) == 0:
            part = TEXTS[random.below(len(TEXTS))]
        else:
            letters = CORPUS["alphabets"][random.below(len(CORPUS["alphabets"]))]
            part = " " + "".join(letters[random.below(len(letters))] for _ in range(1 + random.below(10)))
        text.append(part)
        size += len(part.encode())
    return "".join(text)


def hash_of(ids):
    value = 14695981039346656037
    for one in ids:
        value = (value ^ one) * 1099511628211 % 2**64
    return value


def ids_of(tokenizer, text, literal=False):
    tokenizer.encode_special_tokens = literal
    return tokenizer.encode(text, add_special_tokens=False).ids


def decode(tokenizer, ids):
    """Without special tokens, which 0.23 does not skip when they are normalized."""
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return tokenizer.decode([id for id in ids if id not in special])


def case(tokenizer, text):
    ids = ids_of(tokenizer, text)
    made = {"ids": ids}
    if (literal := ids_of(tokenizer, text, True)) != ids:
        made["literal"] = literal
    if (decoded := decode(tokenizer, ids)) != text:
        made["decoded"] = decoded
    return made


def random_ids(tokenizer):
    random = Random(2)
    for _ in range(60):
        yield [random.below(tokenizer.get_vocab_size()) for _ in range(random.below(12))]


def golden(tokenizer, name):
    text = long_text()
    ids = ids_of(tokenizer, text)
    lines = ",\n".join(json.dumps(case(tokenizer, text)) for text in TEXTS)
    decoded = json.dumps([{"ids": ids, "text": decode(tokenizer, ids)} for ids in random_ids(tokenizer)])
    (HERE / f"{name}.json").write_text(
        f'{{"cases": [\n{lines}\n],\n"decoded": {decoded},\n'
        f'"long": {{"count": {len(ids)}, "hash": "{hash_of(ids):016x}"}}}}\n')


def main():
    for name, make in FAMILIES.items():
        file = HERE / name / "tokenizer.json"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            file.write_text(make().to_str() + "\n")
        golden(Tokenizer.from_file(str(file)), name)
    golden(Tokenizer.from_file(str(ROOT / "models" / "mini" / "tokenizer.json")), "mini")


main()

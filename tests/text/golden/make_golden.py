"""Writes split/tokenizer.json, split.json and mini.json next to this file."""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
MINI = HERE.parents[2] / "models" / "mini" / "tokenizer.json"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")

TEXTS = [
    "", " ", "  ", "\n", "\n\n", " \n ", "a", "hello", "Hello, world!", " leading", "trailing ", "two  spaces",
    "three   spaces\tand\ttabs \r\n", "The pass key of Lily is 12345.", "What is the pass key of Lily? 12345\n",
    "Question: What did Lily find?\nAnswer: a red ball\n", '{"QIRN": "PTRAT", "ABCD": "EFGH"}\n"QIRN":',
    '{"a": [1, 2.5e-3, true, null], "b": {"c": "\\u00e9\\n"}}', "don't I'LL we've they're it's I'm he'd DON'T",
    "0123456789", "3.14159 1,000,000 007", "½ ² Ⅷ ٣ ४ 一二三", "naïve café Ångström", "Straße ſ'ſ 'ſ",
    "Привет, мир! Γειά σου κόσμε", "日本語のテキスト。中文，标点！", "한국어 문장입니다", "مرحبا بالعالم", "नमस्ते दुनिया",
    "e\u0301 o\u0308 combining", "😀", "👩‍👩‍👧‍👦 family 🇩🇪 flag 👍🏽", "a😀b 😀 c", "\u00a0nbsp\u2003em\u3000ideographic\u0085next",
    "zero\u200bwidth\ufeffbom", "\x00nul\x07bell\x1besc", "\ufffd replacement", "\U0010ffff last \ue000 private",
    "<|begin|>", "<|endoftext|>", "<|begin|><|begin|>x", "a<|begin|>b<|endoftext|>", "<|begin", "<|begin|", "<<|begin|>>",
    "<|begin_long|> <|begin|>_long|>", " <|endoftext|> ", "<tool> <toolbox>", "x<tool>y", "snake_case and CamelCase; x+=1 // c++",
    "def f(x):\n    return x ** 2\n\n\nprint(f(3))\n", "!!!???...", "--- *** ===", "    indented\n        more\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abababababababababab", "the the the the", "THE THEN Then then", "\t\t\tx",
    "word" * 40, " " * 33 + "x", "\n" * 9 + "y", "1" * 20, "it's\u2019s quote\u201ds",
]
CORPUS = [
    "the quick brown fox jumps over the lazy dog and then the other dog, don't you think that's the thing?",
    "Lily met Tom in the garden; they'll find the red ball, we've seen it. Numbers 12 123 1234 2024 and 100.",
    "print(f(x)) return value == other_value  \n\n    indent\n naïve café Straße Привет мир 日本語 日本 😀 😀",
]


def random_texts():
    rng = random.Random(3)
    letters = list("aeht nrTH0129'.,\n\t_{}\"<|>") + ["é", "ß", "ж", "日", "😀", "\u0301", "\u00a0", " the", "<|begin|>"]
    return ["".join(rng.choice(letters) for _ in range(rng.randrange(1, 60))) for _ in range(60)]


def split_tokenizer():
    made = Tokenizer(models.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    # A token that no merge makes: only ignore_merges finds it.
    model = json.loads(made.to_str())
    model["model"]["vocab"]["\u0120quack"] = len(model["model"]["vocab"])
    made = Tokenizer.from_str(json.dumps(model))
    made.add_special_tokens(["<|begin|>", "<|endoftext|>", "<|begin_long|>"])
    made.add_tokens([AddedToken("<tool>", normalized=True), AddedToken("<toolbox>", normalized=False)])
    begin = made.token_to_id("<|begin|>")
    made.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B",
                                      special_tokens=[("<|begin|>", begin)]),
    ])
    return json.loads(made.to_str())


def golden(tokenizer, name):
    texts = TEXTS + ["x quack quack", " quack"] + random_texts()
    cases = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids,
              "with_bos": tokenizer.encode(text).ids,
              "decoded": tokenizer.decode(tokenizer.encode(text).ids)} for text in texts]
    (HERE / name).write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


split = HERE / "split" / "tokenizer.json"
split.write_text(json.dumps(split_tokenizer(), ensure_ascii=True) + "\n")
golden(Tokenizer.from_file(str(split)), "split.json")
golden(Tokenizer.from_file(str(MINI)), "mini.json")

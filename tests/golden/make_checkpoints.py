#!/usr/bin/env python3
"""Tiny random checkpoints of every supported architecture and option, with the logits that
transformers computes from them.

Each folder checkpoints/NAME is a Hugging Face directory (config.json as transformers 4 or 5 writes
it, one file or shards) and, beside it, what the tests compare with:

  golden.npy   float32 [positions][vocab]: the saved checkpoint reloaded in float32 (a cast of a
               bf16 model would keep its rounded rotary tables)
  golden.json  ids' count, the positions, and bf16_rms: the root mean square by which transformers'
               own bfloat16 run of the same checkpoint differs from golden.npy

Weights are drawn so that attention matters: scores have a deviation of about 2.

Run with torch and transformers 5 installed, from the root: tests/golden/make_checkpoints.py
"""

import json
import pathlib
import shutil

import numpy
import torch
import transformers

HERE = pathlib.Path(__file__).parent / "checkpoints"
TOKENS = 160
POSITIONS = [0, 1, 2, 7, 30, 62, 63, 64, 65, 90, 127, 128, 129, 140, 158, 159]
VOCAB = 128
COMMON = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
              num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
              bos_token_id=1, eos_token_id=2, rms_norm_eps=1e-5)
FOUR_HEADS = dict(num_attention_heads=4, num_key_value_heads=2)

# name: (class, config, type of the weights, keys of transformers 4 or 5, shards, more)
CASES = {
    "llama2": ("Llama", dict(rope_parameters=dict(rope_type="default", rope_theta=1e4)),
               torch.float16, 4, False, {}),
    "llama3": ("Llama", dict(head_dim=64, tie_word_embeddings=True,
                             rope_parameters=dict(rope_type="llama3", rope_theta=5e5, factor=8.0,
                                                  low_freq_factor=1.0, high_freq_factor=4.0,
                                                  original_max_position_embeddings=64)),
               torch.bfloat16, 5, False, dict(eos=[2, 5, 9])),
    "llama-linear": ("Llama", dict(head_dim=16, attention_bias=True, **FOUR_HEADS,
                                   rope_parameters=dict(rope_type="linear", rope_theta=1e4,
                                                        factor=4.0)),
                     torch.float32, 4, True, {}),
    "mistral": ("Mistral", dict(head_dim=64, sliding_window=None,
                                rope_parameters=dict(rope_type="default", rope_theta=1e6)),
                torch.bfloat16, 5, True, {}),
    "qwen2": ("Qwen2", dict(head_dim=64, use_sliding_window=False,
                            rope_parameters=dict(rope_type="default", rope_theta=1e6)),
              torch.bfloat16, 4, False, dict(k_bias=True)),
    "qwen3": ("Qwen3", dict(head_dim=64, tie_word_embeddings=True,
                            rope_parameters=dict(rope_type="default", rope_theta=1e6)),
              torch.bfloat16, 5, False, {}),
}


def draw_weights(model, large_k_bias):
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            value = 1 + 0.2 * noise
        elif name.endswith(".bias"):
            value = 0.3 * noise
            if large_k_bias and "k_proj" in name:
                half = model.config.head_dim // 2
                for pair in (1, 5, 9, 20):  # fast and slow ones
                    value[pair] += 12.0
                    value[pair + half] -= 8.0
        elif "embed_tokens" in name:
            value = noise
        else:
            gain = 1.5 if "q_proj" in name or "k_proj" in name else 1.0
            value = gain * noise / parameter.shape[1] ** 0.5
        parameter.data.copy_(value)


def as_transformers_4(path):
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    if "use_sliding_window" in config:
        config["sliding_window"] = 64  # as in Qwen2's own files: there, and not in effect
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.57.1"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def logits_of(directory, dtype, ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    return logits.float().numpy()[POSITIONS]


def make(name, kind, options, dtype, keys, sharded, more):
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    config = getattr(transformers, kind + "Config")(**{**COMMON, **options})
    model = getattr(transformers, kind + "ForCausalLM")(config)
    draw_weights(model, more.get("k_bias", False))
    model = model.to(dtype)
    model.generation_config.eos_token_id = more.get("eos", 2)
    model.save_pretrained(directory, max_shard_size="60KB" if sharded else "5GB")
    for file in directory.iterdir():
        file.chmod(0o644)
    if keys == 4:
        as_transformers_4(directory / "config.json")
    # The same ids as test_ids() in tests/model/model_fixture.h.
    ids = [1] + [(i * 7919 + 13) % VOCAB for i in range(1, TOKENS)]
    exact = logits_of(directory, torch.float32, ids)
    bf16 = logits_of(directory, torch.bfloat16, ids)
    numpy.save(directory / "golden.npy", exact.astype(numpy.float32))
    rms = float(numpy.sqrt(numpy.mean((bf16 - exact) ** 2)))
    golden = dict(tokens=TOKENS, positions=POSITIONS, bf16_rms=rms)
    (directory / "golden.json").write_text(json.dumps(golden) + "\n")
    print(name, "largest", abs(exact).max(), "bf16 rms", rms, "agreeing argmax",
          (exact.argmax(1) == bf16.argmax(1)).mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case, arguments in CASES.items():
        make(case, *arguments)

#!/usr/bin/env python3
"""Writes mini_logits.npy: logits of models/mini by a plain NumPy forward pass in float64.

An independent reference: it shares no code with kvferry, reads the checkpoint by itself, and
computes with a full attention matrix. Needs NumPy. Run from the root of the repository:

    python3 tests/model/golden/make_golden.py
"""
import json
import pathlib
import struct

import numpy as np

TOKENS = 200
POSITIONS = [0, 1, 62, 63, 64, 65, 127, 128, 199]  # both sides of every tile border


def load_safetensors(path):
    raw = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + header_bytes])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "BF16"
        begin, end = entry["data_offsets"]
        bits = np.frombuffer(raw[8 + header_bytes + begin : 8 + header_bytes + end], "<u2")
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = values.reshape(entry["shape"]).astype(np.float64)
    return tensors


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rope(x, theta):  # [tokens, heads, d]
    d = x.shape[-1]
    frequency = theta ** (-np.arange(0, d, 2) / d)
    angle = np.arange(x.shape[0])[:, None] * frequency[None, :]
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def forward(config, w, ids):
    d, heads, kv_heads = (config[k] for k in ("head_dim", "num_attention_heads", "num_key_value_heads"))
    eps, theta, t = config["rms_norm_eps"], config["rope_theta"], len(ids)
    x = w["model.embed_tokens.weight"][ids]
    mask = np.where(np.tril(np.ones((t, t), bool)), 0.0, -np.inf)
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = rms_norm(x, w[p + "input_layernorm.weight"], eps)
        q = rope((h @ w[p + "self_attn.q_proj.weight"].T).reshape(t, heads, d), theta)
        k = rope((h @ w[p + "self_attn.k_proj.weight"].T).reshape(t, kv_heads, d), theta)
        v = (h @ w[p + "self_attn.v_proj.weight"].T).reshape(t, kv_heads, d)
        out = np.empty((t, heads, d))
        for head in range(heads):
            g = head // (heads // kv_heads)
            s = q[:, head] @ k[:, g].T / np.sqrt(d) + mask
            s = np.exp(s - s.max(axis=-1, keepdims=True))
            out[:, head] = (s / s.sum(axis=-1, keepdims=True)) @ v[:, g]
        x = x + out.reshape(t, heads * d) @ w[p + "self_attn.o_proj.weight"].T
        h = rms_norm(x, w[p + "post_attention_layernorm.weight"], eps)
        gate, up = h @ w[p + "mlp.gate_proj.weight"].T, h @ w[p + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[p + "mlp.down_proj.weight"].T
    return rms_norm(x, w["model.norm.weight"], eps) @ w["model.embed_tokens.weight"].T


def main():
    root = pathlib.Path("models/mini")
    config = json.loads((root / "config.json").read_text())
    weights = load_safetensors(root / "model.safetensors")
    # The same ids as in forward_test.cpp: BOS, then a fixed scatter over the vocabulary.
    ids = [1] + [(i * 7919 + 13) % config["vocab_size"] for i in range(1, TOKENS)]
    logits = forward(config, weights, np.array(ids))
    target = pathlib.Path(__file__).parent / "mini_logits.npy"
    np.save(target, logits[POSITIONS].astype("<f4"))


if __name__ == "__main__":
    main()

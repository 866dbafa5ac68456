#!/usr/bin/env python3
"""Goldens of layout=paper, from the formulas that HACK publishes (arXiv 2502.03589, section 5 and
equations 3 and 4) and the choices of docs/codecs.md that the paper leaves open: bf16 metadata, how
ranges are rounded, and which random bits decide. Written with NumPy alone, apart from the C++.

Each paper/NAME.bin is little-endian:
  u32 [12]       head_dim D, partition P, k_bits, v_bits, stochastic (0 or 1), seed, layer, kv_head,
                 tile, tokens, rows R, key of the queries
  u8  [T][D]     codes of K, then of V; T = max(64, P), rows from `tokens` on are zeros
  u16 [C][T]     scales of K as bf16, minima of K, sums of K's codes; C = D / min(P, D)
  u16 [T/P][D]   the same of V
  f32 [R][T]     scores of the query rows; f32 [R][D]: their attention output, normalised

K, V and queries are functions of small integers (made_values), so that a test can make them too.

Run with numpy installed, from the root: tests/golden/make_paper.py
"""

import pathlib
import struct

import numpy as np

HERE = pathlib.Path(__file__).parent / "paper"
F32 = np.float32

# name: (head_dim, partition, k_bits, v_bits, stochastic, tokens)
CASES = {
    "d64-p64-k2-v2": (64, 64, 2, 2, False, 64),
    "d64-p32-k4-v1": (64, 32, 4, 1, False, 64),
    "d64-p64-k8-v3": (64, 64, 8, 3, False, 64),
    "d64-p32-k5-v8": (64, 32, 5, 8, False, 64),
    "d64-p64-k7-v6": (64, 64, 7, 6, False, 64),
    "d64-p64-k2-v4-stochastic": (64, 64, 2, 4, True, 64),
    "d64-p32-k3-v2-open": (64, 32, 3, 2, False, 41),
    "d64-p128-k2-v3": (64, 128, 2, 3, False, 128),
    "d128-p128-k4-v2": (128, 128, 4, 2, False, 128),
    "d128-p128-k2-v2-stochastic": (128, 128, 2, 2, True, 128),
    "d256-p64-k1-v2": (256, 64, 1, 2, False, 64),
}
SEED, LAYER, KV_HEAD, TILE, ROWS = 7, 3, 1, 5, 2


# --- random bits: SplitMix64 finalisers over a key and a counter

def finalise(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def counter_random(key, counter):
    golden = np.uint64(0x9E3779B97F4A7C15)
    key = np.asarray(key, np.uint64)
    counter = np.asarray(counter, np.uint64)
    return finalise(finalise(key + golden) + (counter + np.uint64(1)) * golden)


def made_values(key, tokens, dim):
    """f32 [tokens][dim], near Gaussian; some channels biased, constant or large. Exact in bf16."""
    counter = np.arange(tokens, dtype=np.uint64)[:, None] * np.uint64(256) + np.arange(
        dim, dtype=np.uint64)
    word = counter_random(key, counter)
    four = sum(((word >> np.uint64(8 * i)) & np.uint64(255)).astype(np.int64) for i in range(4))
    n = (four - 510) // 2  # -255..255
    channel = np.broadcast_to(np.arange(dim) % 16, n.shape)
    n = np.where(channel == 3, n // 8 + 200, n)
    n = np.where(channel == 7, 100, n)
    return np.where(channel == 11, n.astype(F32) / F32(16), n.astype(F32) / F32(64)).astype(F32)


# --- bf16

def bf16_bits(x):
    bits = np.ascontiguousarray(x, F32).view(np.uint32)
    assert np.all(bits & np.uint32(0xFFFF) == 0)
    return (bits >> np.uint32(16)).astype(np.uint16)


def round_up_to_bf16(x):
    """Of positive values."""
    bits = np.ascontiguousarray(x, F32).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(F32)


# --- the algorithm

def quantize_kv(x, bits, uniform=None):
    """Codes, scales and minima of partitions x [..., P] in float32; scale * code + minimum ~ x.
    uniform: numbers in 0..1 for stochastic rounding, or None for the nearest code."""
    levels = F32(2 ** bits - 1)
    lowest = highest = x[..., :1]
    for i in range(x.shape[-1]):  # the later one of equals, which decides the sign of a zero
        value = x[..., i:i + 1]
        lowest = np.where(lowest < value, lowest, value)
        highest = np.where(highest > value, highest, value)
    half = highest * F32(0.5) - lowest * F32(0.5)
    step = (half / levels) * F32(2)
    scale = round_up_to_bf16(np.clip(step, F32(2.0 ** -126), F32(2.0 ** 128 - 2.0 ** 120)))
    place = (x * F32(0.5) - lowest * F32(0.5)) * (F32(2) / scale)
    place = np.clip(place, F32(0), levels)
    if uniform is None:
        codes = np.rint(place)
    else:
        lower = np.floor(place)
        codes = lower + (uniform < place - lower)
    assert place.dtype == F32
    return codes.astype(np.uint8), scale[..., 0], lowest[..., 0]


def quantize_8bit(x):
    """Queries and softmax weights: asymmetric INT8, in float32. x [..., P]."""
    lowest = x.min(-1, keepdims=True)
    span = x.max(-1, keepdims=True) - lowest
    tiny = span < F32(2.0 ** -118)
    step = np.where(tiny, F32(0), span / F32(255))
    inverse = np.where(tiny, F32(0), F32(255) / np.where(tiny, F32(1), span))
    place = (x - lowest) * inverse
    assert place.dtype == F32
    distance = np.abs(place.astype(np.float64) % 1.0 - 0.5).min()  # from a tie
    return np.rint(place).astype(np.int64), step[..., 0], lowest[..., 0], distance


def homomorphic(a_codes, a_scale, a_min, b_codes, b_scale, b_min, b_sums):
    """SUM over one partition of a_i b_ij, from integers: equation 4. a [R][P], b [P][N], sums of
    b's codes [N] as they are stored."""
    size = a_codes.shape[1]
    dots = a_codes @ b_codes.astype(np.int64)
    a_sums = a_codes.sum(1)
    a_scale, a_min = a_scale.astype(np.float64)[:, None], a_min.astype(np.float64)[:, None]
    b_scale, b_min = b_scale.astype(np.float64)[None], b_min.astype(np.float64)[None]
    return (a_scale * b_scale * dots + b_min * a_scale * a_sums[:, None] +
            a_min * b_scale * b_sums.astype(np.float64)[None] + size * a_min * b_min)


def uniform_of(seed, layer, kv_head, is_v, positions, dim):
    """The random numbers of each position and channel."""
    key = counter_random(counter_random(seed, layer), 2 * kv_head + is_v)
    counter = positions.astype(np.uint64)[:, None] * np.uint64(256) + np.arange(
        dim, dtype=np.uint64)
    return (counter_random(key, counter) >> np.uint64(40)).astype(F32) * F32(2.0 ** -24)


def encode(case):
    dim, size, k_bits, v_bits, stochastic, tokens = case
    tile = max(64, size)
    k_size = min(size, dim)
    k = made_values(1000 + dim + size, tile, dim)
    v = made_values(2000 + dim + size, tile, dim)
    positions = TILE * tile + np.arange(tile)
    k_random = v_random = None
    if stochastic:
        k_random = uniform_of(SEED, LAYER, KV_HEAD, 0, positions, dim).reshape(tile, -1, k_size)
        v_random = uniform_of(SEED, LAYER, KV_HEAD, 1, positions, dim)
    # K: partitions of channels, for each token.
    k_codes, k_scale, k_min = quantize_kv(k.reshape(tile, -1, k_size), k_bits, k_random)
    out = dict(k_codes=k_codes.reshape(tile, dim), k_scale=k_scale.T, k_min=k_min.T,
               k_sums=k_codes.astype(np.uint16).sum(2).T)
    out["k_codes"][tokens:] = 0
    for plane in ("k_scale", "k_min", "k_sums"):
        out[plane] = out[plane].copy()
        out[plane][:, tokens:] = 0
    # V: partitions of tokens, for each channel; the last may be short.
    out["v_codes"] = np.zeros((tile, dim), np.uint8)
    out["v_scale"] = np.zeros((tile // size, dim), F32)
    out["v_min"] = np.zeros((tile // size, dim), F32)
    out["v_sums"] = np.zeros((tile // size, dim), np.uint16)
    for span in range(tile // size):
        rows = slice(span * size, min((span + 1) * size, tokens))
        if rows.start >= rows.stop:
            break
        random = v_random[rows].T if stochastic else None
        codes, out["v_scale"][span], out["v_min"][span] = quantize_kv(v[rows].T, v_bits, random)
        out["v_codes"][rows] = codes.T
        out["v_sums"][span] = codes.astype(np.uint16).sum(1)
    return out


def attend(case, kv, queries):
    """Scores and normalised output, and how near any softmax weight came to a tie."""
    dim, size, _, _, _, tokens = case
    k_size = min(size, dim)
    scores = 0.0
    for part in range(dim // k_size):
        channels = slice(part * k_size, (part + 1) * k_size)
        codes, step, lowest, _ = quantize_8bit(queries[:, channels])
        scores = scores + homomorphic(codes, step, lowest, kv["k_codes"][:tokens, channels].T,
                                      kv["k_scale"][part, :tokens], kv["k_min"][part, :tokens],
                                      kv["k_sums"][part, :tokens])
    weights = np.exp(scores - scores.max(1, keepdims=True)).astype(F32)
    output, nearest = 0.0, 1.0
    for span in range(-(-tokens // size)):
        rows = slice(span * size, min((span + 1) * size, tokens))
        codes, step, lowest, distance = quantize_8bit(weights[:, rows])
        nearest = min(nearest, distance)
        output = output + homomorphic(codes, step, lowest, kv["v_codes"][rows],
                                      kv["v_scale"][span], kv["v_min"][span], kv["v_sums"][span])
    return scores, output / weights.astype(np.float64).sum(1, keepdims=True), nearest


def write(name, case):
    dim, size, k_bits, v_bits, stochastic, tokens = case
    kv = encode(case)
    # Weights nearer to a tie than this could be rounded otherwise by another exp.
    for query_key in range(3000, 4000):
        queries = made_values(query_key, ROWS, dim) / F32(128)
        scores, output, nearest = attend(case, kv, queries)
        if nearest > 1e-3:
            break
    else:
        raise SystemExit(name + ": no queries found")
    padded = np.zeros((ROWS, max(64, size)), F32)
    padded[:, :tokens] = scores
    header = [dim, size, k_bits, v_bits, int(stochastic), SEED, LAYER, KV_HEAD, TILE, tokens, ROWS,
              query_key]
    with open(HERE / (name + ".bin"), "wb") as out:
        out.write(struct.pack("<%dI" % len(header), *header))
        for of in "kv":
            out.write(kv[of + "_codes"].tobytes())
        for of in "kv":
            out.write(bf16_bits(kv[of + "_scale"]).tobytes())
            out.write(bf16_bits(kv[of + "_min"]).tobytes())
            out.write(np.ascontiguousarray(kv[of + "_sums"], np.uint16).tobytes())
        out.write(padded.tobytes())
        out.write(output.astype(F32).tobytes())
    print(name, "scores", float(scores.min()), float(scores.max()), "queries", query_key)


if __name__ == "__main__":
    np.seterr(over="ignore")  # the random bits are products modulo 2^64
    HERE.mkdir(exist_ok=True)
    for case_name, case_values in CASES.items():
        write(case_name, case_values)

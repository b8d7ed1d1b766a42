"""An independent, slow implementation of the model: one document at a time, Python loops, double precision.

It shares nothing with `lst.model` but the names of the weights, and follows the method's description literally.
"""

import math

import torch
from torch import Tensor

from lst.data.patching import Example
from lst.model import LSTConfig, TransformerConfig

Weights = dict[str, Tensor]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def turn(vector: Tensor, position: int, theta: float) -> Tensor:
    """Rotates the pairs (i, i + D/2) of one head's vector (D,)."""
    half = len(vector) // 2
    out = torch.empty_like(vector)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(vector))
        a, b = vector[i], vector[i + half]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def heads(flat: Tensor, count: int) -> list[Tensor]:
    return list(flat.view(count, -1))


def attend(queries: list[Tensor], keys: list[list[Tensor]], values: list[list[Tensor]]) -> Tensor:
    """One token's query heads over lists (per visible thing) of key and value heads; zeros if nothing is visible."""
    out = []
    for h, query in enumerate(queries):
        if not keys:
            out.append(torch.zeros_like(query))
            continue
        shared = h * len(keys[0]) // len(queries)
        scores = torch.stack([(query * key[shared]).sum() / math.sqrt(len(query)) for key in keys])
        weights = torch.softmax(scores, 0)
        out.append(sum(weight * value[shared] for weight, value in zip(weights, values, strict=True)))
    return torch.cat(out)


def self_attention(w: Weights, at: str, c: TransformerConfig, x: Tensor, positions: list[int]) -> Tensor:
    queries, keys, values = [], [], []
    size = c.dim // c.heads
    groups = c.kv_heads or c.heads
    for row, position in zip(x, positions, strict=True):
        joined = w[f"{at}.qkv.weight"] @ row
        q, k, v = joined.split([c.heads * size, groups * size, groups * size])
        queries.append([turn(part, position, c.rope_theta) for part in heads(q, c.heads)])
        keys.append([turn(part, position, c.rope_theta) for part in heads(k, groups)])
        values.append(heads(v, groups))
    out = []
    for i in range(len(x)):
        first = 0 if c.window is None else max(0, i - c.window + 1)
        out.append(w[f"{at}.out.weight"] @ attend(queries[i], keys[first : i + 1], values[first : i + 1]))
    return torch.stack(out)


def feed_forward(w: Weights, at: str, x: Tensor) -> Tensor:
    gate, up = (x @ w[f"{at}.gate_up.weight"].T).chunk(2, -1)
    return (gate / (1 + torch.exp(-gate)) * up) @ w[f"{at}.down.weight"].T


def layer(w: Weights, at: str, c: TransformerConfig, eps: float, x: Tensor, positions: list[int]) -> Tensor:
    x = x + self_attention(w, f"{at}.attention", c, rms_norm(x, w[f"{at}.attention_norm.weight"], eps), positions)
    return x + feed_forward(w, f"{at}.ffn", rms_norm(x, w[f"{at}.ffn_norm.weight"], eps))


def transformer(w: Weights, at: str, c: TransformerConfig, eps: float, x: Tensor) -> Tensor:
    for i in range(c.layers):
        x = layer(w, f"{at}.layers.{i}", c, eps, x, list(range(len(x))))
    return rms_norm(x, w[f"{at}.norm.weight"], eps)


def plain_logits(config: LSTConfig, state: Weights, tokens: list[int]) -> Tensor:
    """A decoder-only language model (the base SpeechLLM) on one document: (n, V)."""
    w = {name: value.double() for name, value in state.items()}
    x = torch.stack([w["embedding.weight"][token] for token in tokens])
    x = transformer(w, "global_transformer", config.global_transformer, config.norm_eps, x)
    return x @ w["head.weight"].T


def lst_logits(config: LSTConfig, state: Weights, document: Example) -> Tensor:
    """The patched model on one document: (n, V). Local modules see all tokens, or only units (`text_local` false)."""
    w = {name: value.double() for name, value in state.items()}
    enc, dec, eps = config.encoder, config.decoder, config.norm_eps
    tokens = [int(token) for token in document.tokens]
    offset = config.text_size + 8
    local = [i for i, token in enumerate(tokens) if config.text_local or token >= offset]

    # Patch encoder: contextual token states.
    hidden: dict[int, Tensor] = {}
    if local:
        shift = 0 if config.text_local else offset
        scale = math.sqrt(enc.dim) if config.tied_heads else 1.0
        x = torch.stack([w["embedding.weight"][tokens[i] - shift] * scale for i in local])
        for n in range(enc.layers):
            x = layer(w, f"encoder.layers.{n}", enc, eps, x, local)
        hidden = dict(zip(local, x, strict=True))

    # Patches: queries pooled from the patch's tokens attend to the patch's tokens.
    patches, members, visible_from = [], [], []
    first = 0
    for length, closed in zip(document.patch_lengths, document.closed, strict=True):
        inside = list(range(first, first + int(length)))
        first += int(length)
        members.append(inside)
        visible_from.append(inside[-1] if closed else inside[-1] + 1)
        if not config.text_local and tokens[inside[0]] < offset:
            patches.append(w["text_embedding.weight"][tokens[inside[0]]])
            continue
        states = torch.stack([hidden[i] for i in inside])
        pooled = {"max": states.max(0).values, "mean": states.mean(0), "last": states[-1]}[config.pooling]
        if config.queries_per_patch > 1:
            starts = (w["encoder.split.weight"] @ pooled).view(config.queries_per_patch, -1)
        else:
            starts = pooled[None]
        normed = rms_norm(states, w["encoder.token_norm.weight"], eps)
        pairs = [(w["encoder.cross.key_value.weight"] @ row).view(2, -1) for row in normed]
        keys = [heads(pair[0], enc.num_kv_heads) for pair in pairs]
        values = [heads(pair[1], enc.num_kv_heads) for pair in pairs]
        joined = []
        for start in starts:
            query = w["encoder.cross.query.weight"] @ rms_norm(start, w["encoder.query_norm.weight"], eps)
            attended = attend(heads(query, enc.heads), keys, values)
            joined.append(start + w["encoder.cross.out.weight"] @ attended)
        patches.append(w["encoder.output.weight"] @ torch.cat(joined))

    outputs = transformer(w, "global_transformer", config.global_transformer, eps, torch.stack(patches))

    # Patch decoder: each local token sees the outputs of patches known to be complete.
    logits = torch.zeros(len(tokens), config.vocabulary.size, dtype=torch.float64)
    if local:
        x = torch.stack([hidden[i] for i in local])
        if enc.dim != dec.dim:
            x = x @ w["decoder.input.weight"].T
        for n in range(dec.layers):
            at = f"decoder.layers.{n}"
            crossed = []
            for i, row in zip(local, rms_norm(x, w[f"{at}.cross_norm.weight"], eps), strict=True):
                seen = [j for j, since in enumerate(visible_from) if since <= i]
                pairs = [(w[f"{at}.cross.key_value.weight"] @ outputs[j]).view(2, -1) for j in seen]
                keys = [heads(pair[0], dec.num_kv_heads) for pair in pairs]
                values = [heads(pair[1], dec.num_kv_heads) for pair in pairs]
                query = heads(w[f"{at}.cross.query.weight"] @ row, dec.heads)
                if config.cross_rope and seen:
                    query = [turn(part, seen[-1], dec.rope_theta) for part in query]
                    keys = [[turn(part, j, dec.rope_theta) for part in key] for j, key in zip(seen, keys, strict=True)]
                crossed.append(w[f"{at}.cross.out.weight"] @ attend(query, keys, values))
            x = x + torch.stack(crossed)
            x = layer(w, at, dec, eps, x, local)
        x = rms_norm(x, w["decoder.norm.weight"], eps)
        for i, row in zip(local, x, strict=True):
            logits[i] = w["head.weight"] @ row
    if not config.text_local:
        for j, inside in enumerate(members):
            if tokens[inside[0]] < offset:
                logits[inside[0]] = w["text_head.weight"] @ outputs[j]
    return logits

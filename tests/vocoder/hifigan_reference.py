"""Unit HiFi-GAN checkpoints in the published form, with random weights, and a reference that runs them as stored.

The reference is written apart from `lst.vocoder.hifigan`: functions on the raw state dict, weight normalisation applied
by PyTorch's own operator at every call.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CONFIG: dict[str, Any] = {
    "resblock": "1",
    "upsample_rates": [5, 4, 4, 4, 2],
    "upsample_kernel_sizes": [11, 8, 8, 8, 4],
    "upsample_initial_channel": 64,
    "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    "num_embeddings": 501,
    "embedding_dim": 16,
    "model_in_dim": 16,
    "code_hop_size": 640,
    "sampling_rate": 16000,
    "f0": False,
}


def config(**changes: Any) -> dict[str, Any]:
    """The configuration of a public release in small, with `changes`; `model_in_dim` follows from the tables."""
    body = {**CONFIG, **changes}
    tables = 1 + sum(bool(body.get(key)) for key in ("multispkr", "multistyle", "num_f0_tokens", "num_style_tokens"))
    body["model_in_dim"] = tables * body["embedding_dim"]
    return body


def shapes(body: dict[str, Any], speakers: int = 4, styles: int = 3) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors as published: `weight_g` and `weight_v` for every convolution."""
    width, channels = body["embedding_dim"], body["upsample_initial_channel"]
    plain: dict[str, tuple[int, ...]] = {"dict.weight": (body["num_embeddings"], width)}
    normed: dict[str, tuple[int, ...]] = {"conv_pre": (channels, body["model_in_dim"], 7)}
    outputs = {"conv_pre": channels}
    block = 0
    for index, kernel in enumerate(body["upsample_kernel_sizes"]):
        normed[f"ups.{index}"] = (channels, channels // 2, kernel)
        channels //= 2
        outputs[f"ups.{index}"] = channels
        for size, dilations in zip(body["resblock_kernel_sizes"], body["resblock_dilation_sizes"], strict=True):
            lists = ("convs1", "convs2") if body["resblock"] == "1" else ("convs",)
            for name in lists:
                for place in range(len(dilations)):
                    normed[f"resblocks.{block}.{name}.{place}"] = (channels, channels, size)
                    outputs[f"resblocks.{block}.{name}.{place}"] = channels
            block += 1
    normed["conv_post"] = (1, channels, 7)
    outputs["conv_post"] = 1
    if body.get("multispkr"):
        plain["spkr.weight"] = (speakers, width)
    if body.get("multistyle"):
        plain["style.weight"] = (styles, width)
    if body.get("num_f0_tokens"):
        plain["f0_dict.weight"] = (body["num_f0_tokens"], width)
    if body.get("num_style_tokens"):
        plain["style_dict.weight"] = (body["num_style_tokens"], width)
    if body.get("dur_predictor_params"):
        hidden, kernel = (body["dur_predictor_params"][f"var_pred_{key}"] for key in ("hidden_dim", "kernel_size"))
        for name, size in (
            ("conv1.0", (hidden, width, kernel)),
            ("conv2.0", (hidden, hidden, kernel)),
            ("proj", (1, hidden)),
        ):
            plain |= {f"dur_predictor.{name}.weight": size, f"dur_predictor.{name}.bias": size[:1]}
        for name in ("ln1", "ln2"):
            plain |= {f"dur_predictor.{name}.weight": (hidden,), f"dur_predictor.{name}.bias": (hidden,)}
    for name, size in normed.items():
        plain |= {f"{name}.weight_g": (size[0], 1, 1), f"{name}.weight_v": size, f"{name}.bias": (outputs[name],)}
    return plain


def random_state(body: dict[str, Any], seed: int = 0, **tables: int) -> dict[str, Tensor]:
    """Random tensors at sizes that keep the signal alive through the layers."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(size, generator=generator) for name, size in shapes(body, **tables).items()}
    for name in state:
        if name.endswith("weight_g"):
            state[name] = state[name].abs() * 0.3 + 0.9
        elif name.endswith("bias"):
            state[name] = state[name] * 0.05
    return state


def save_checkpoint(directory: Path, body: dict[str, Any], state: dict[str, Any]) -> Path:
    """`config.json` and `generator.pt`, as releases have them."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(body))
    torch.save({"generator": state}, directory / "generator.pt")
    return directory


def reference(
    body: dict[str, Any],
    state: dict[str, Tensor],
    units: list[int],
    *,
    speaker: int = 0,
    style: int = 0,
    f0_codes: list[int] | None = None,
    style_codes: list[int] | None = None,
) -> Tensor:
    """(samples,) of one sequence, by the formulas of the HiFi-GAN paper on the tensors as stored."""

    def weight(name: str) -> Tensor:
        return torch._weight_norm(state[f"{name}.weight_v"], state[f"{name}.weight_g"], 0)

    def conv(x: Tensor, name: str, dilation: int = 1) -> Tensor:
        kernel = weight(name)
        same = (kernel.shape[2] * dilation - dilation) // 2
        return F.conv1d(x, kernel, state[f"{name}.bias"], padding=same, dilation=dilation)

    count = len(units)
    rows = [state["dict.weight"][units]]
    if f0_codes is not None:
        rows.append(state["f0_dict.weight"][f0_codes])
    if style_codes is not None:
        rows.append(state["style_dict.weight"][style_codes])
    if "spkr.weight" in state:
        rows.append(state["spkr.weight"][speaker].repeat(count, 1))
    if "style.weight" in state:
        rows.append(state["style.weight"][style].repeat(count, 1))
    x = conv(torch.cat(rows, 1).T[None], "conv_pre")
    block = 0
    for index, (rate, kernel) in enumerate(zip(body["upsample_rates"], body["upsample_kernel_sizes"], strict=True)):
        name = f"ups.{index}"
        x = F.conv_transpose1d(
            F.leaky_relu(x, 0.1), weight(name), state[f"{name}.bias"], stride=rate, padding=(kernel - rate) // 2
        )
        summed = torch.zeros_like(x)
        for dilations in body["resblock_dilation_sizes"]:
            branch = x
            for place, dilation in enumerate(dilations):
                if body["resblock"] == "1":
                    inner = conv(F.leaky_relu(branch, 0.1), f"resblocks.{block}.convs1.{place}", dilation)
                    branch = branch + conv(F.leaky_relu(inner, 0.1), f"resblocks.{block}.convs2.{place}")
                else:
                    branch = branch + conv(F.leaky_relu(branch, 0.1), f"resblocks.{block}.convs.{place}", dilation)
            summed = summed + branch
            block += 1
        x = summed / len(body["resblock_kernel_sizes"])
    return torch.tanh(conv(F.leaky_relu(x, 0.01), "conv_post"))[0, 0]


def reference_durations(state: dict[str, Tensor], units: list[int]) -> list[int]:
    """Frames per unit by the duration predictor."""
    x = state["dict.weight"][units].T[None]
    for layer in ("1", "2"):
        kernel = state[f"dur_predictor.conv{layer}.0.weight"]
        x = F.relu(F.conv1d(x, kernel, state[f"dur_predictor.conv{layer}.0.bias"], padding=1))
        scale, shift = state[f"dur_predictor.ln{layer}.weight"], state[f"dur_predictor.ln{layer}.bias"]
        centred = x - x.mean(1, keepdim=True)
        x = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt() * scale[:, None] + shift[:, None]
    logs = state["dur_predictor.proj.weight"][0] @ x[0] + state["dur_predictor.proj.bias"]
    return [max(1, round(float(value))) for value in logs.exp() - 1]

"""Units: HuBERT-base of random weights through our encoder against Hugging Face's, and the embedded MFCC tokenizer.

Both HuBERTs have the same weights and as many layers as the units need (11, at 25 Hz), run one recording at a time in
one thread on the same audio, in turns; the time is that of the processor.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SECONDS = (3.1, 11.7, 6.4, 2.2, 8.6)
ROUNDS = 5
LAYER = 11


def speech(seconds: float, seed: int) -> np.ndarray:
    """Noise in bursts: the cost of an encoder does not depend on what is said."""
    rng = np.random.default_rng(seed)
    samples = round(16000 * seconds)
    return (
        0.1 * np.repeat(rng.uniform(0, 1, samples // 1600 + 1), 1600)[:samples] * rng.standard_normal(samples)
    ).astype(np.float32)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def hubert(audio: list[np.ndarray]) -> dict[str, object]:
    """Our features and Hugging Face's of the same audio, in turns."""
    import soundfile  # noqa: F401  (before fairseq2)
    import torch
    from transformers import HubertConfig, HubertModel

    from lst.units.hubert import load_hubert
    from lst.units.spec import HubertSpec

    torch.set_num_threads(1)
    stem = [(10, 5)] + [(3, 2)] * 4 + [(2, 2)] * 3
    config = HubertConfig(
        num_hidden_layers=LAYER,
        conv_dim=[512] * len(stem),
        conv_kernel=[kernel for kernel, _ in stem],
        conv_stride=[stride for _, stride in stem],
    )
    reference = HubertModel(config).eval()
    with tempfile.TemporaryDirectory() as scratch:
        reference.save_pretrained(scratch)
        spec = HubertSpec(weights="model.safetensors", config="config.json", layer=LAYER)
        encoder = load_hubert(spec, Path(scratch), "cpu")

    def theirs() -> list[np.ndarray]:
        with torch.inference_mode():
            return [reference(torch.from_numpy(samples)[None]).last_hidden_state[0].numpy() for samples in audio]

    def ours() -> list[np.ndarray]:
        return [encoder.features(samples) for samples in audio]

    difference = max(float(np.abs(a - b).max()) for a, b in zip(ours(), theirs(), strict=True))
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(ROUNDS):
        times["ours"].append(cpu_seconds(ours))
        times["theirs"].append(cpu_seconds(theirs))
    total = sum(SECONDS)
    ours_s, theirs_s = (statistics.median(times[name]) for name in ("ours", "theirs"))
    return {
        "bench": "units: HuBERT-base 25 Hz layer 11, random weights",
        "times_real_time": round(total / ours_s, 2),
        "hugging_face_times_real_time": round(total / theirs_s, 2),
        "ratio": round(theirs_s / ours_s, 3),
        "goal": ">= 1",
        "largest_difference": float(f"{difference:.1e}"),
    }


def mfcc(audio: list[np.ndarray]) -> dict[str, object]:
    """The embedded tokenizer."""
    from lst.units import load_tokenizer

    tokenizer = load_tokenizer("mfcc-501")
    seconds = statistics.median(cpu_seconds(lambda: [tokenizer.encode(item) for item in audio]) for _ in range(ROUNDS))
    return {"bench": "units: mfcc-501", "times_real_time": round(sum(SECONDS) / seconds, 1)}


def main() -> None:
    """Print one line per tokenizer."""
    audio = [speech(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    print(json.dumps(hubert(audio)), flush=True)
    print(json.dumps(mfcc(audio)), flush=True)


if __name__ == "__main__":
    main()

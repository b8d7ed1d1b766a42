"""Fundamental frequency and voicing: autocorrelation candidates and the best path through them.

After Boersma (1993), "Accurate short-term analysis of the fundamental frequency": the autocorrelation of a windowed
frame is divided by that of the window, its peaks are candidates, and dynamic programming picks a path that prefers
strong peaks and few jumps. Cost: one FFT per frame and a loop of a few operations per frame.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lst.constants import SAMPLE_RATE

Float = NDArray[np.float32]
Double = NDArray[np.float64]

CANDIDATES = 5
BLOCK = 2048
"""Frames worked on at a time: bounds the memory whatever the length."""


@dataclass(frozen=True)
class PitchConfig:
    """Range in Hz and the costs of the path, in units of autocorrelation strength (Boersma's defaults)."""

    floor: float = 75.0
    ceiling: float = 450.0
    silence_threshold: float = 0.03
    voicing_threshold: float = 0.45
    octave_cost: float = 0.01
    octave_jump_cost: float = 0.35
    voicing_cost: float = 0.14


def estimate_pitch(samples: Float, hop: int, config: PitchConfig | None = None) -> Float:
    """F0 in Hz per frame, 0 where unvoiced: samples (hop * K,) -> (K,). Frame k is centred on (k + 1/2) * hop."""
    config = config or PitchConfig()
    count = len(samples) // hop
    if count == 0:
        return np.zeros(0, np.float32)
    frequencies = np.zeros((count, CANDIDATES + 1))
    strengths = np.zeros((count, CANDIDATES + 1))
    peak = float(np.abs(samples).max()) or 1.0
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        frequencies[start:stop, 1:], strengths[start:stop] = _candidates(samples, hop, start, stop, peak, config)
    return _best_path(frequencies, strengths, hop / SAMPLE_RATE, config).astype(np.float32)


def interpolate_pitch(pitch: Float, default: float) -> Float:
    """Log F0 of every frame: straight lines across unvoiced stretches, the nearest value at the ends. (K,) -> (K,)."""
    voiced = np.flatnonzero(pitch > 0)
    if len(voiced) == 0:
        return np.full(len(pitch), np.log(default), np.float32)
    return np.interp(np.arange(len(pitch)), voiced, np.log(pitch[voiced])).astype(np.float32)


def _candidates(
    samples: Float, hop: int, start: int, stop: int, peak: float, config: PitchConfig
) -> tuple[Double, Double]:
    """Peaks of frames start..stop: frequencies (n, C), strengths (n, C + 1) where column 0 is "unvoiced"."""
    window = round(3 * SAMPLE_RATE / config.floor)
    n_fft = 1 << int(np.ceil(np.log2(1.5 * window)))
    before = (window - hop) // 2
    low, high = start * hop - before, (stop - 1) * hop - before + window
    piece = np.zeros(high - low)
    piece[max(0, -low) : len(piece) - max(0, high - len(samples))] = samples[max(0, low) : high]
    frames = np.lib.stride_tricks.sliding_window_view(piece, window)[::hop]
    frames = frames - frames.mean(1, keepdims=True)
    local_peak = np.abs(frames).max(1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(window) + 0.5) / window)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames * hann, n_fft)) ** 2)
    of_window = np.fft.irfft(np.abs(np.fft.rfft(hann, n_fft)) ** 2)
    shortest, longest = int(SAMPLE_RATE / config.ceiling), int(np.ceil(SAMPLE_RATE / config.floor))
    lags = np.arange(shortest - 1, longest + 2)
    energy = np.maximum(correlation[:, :1], 1e-12)
    normalised = (correlation[:, lags] / energy) / (of_window[lags] / of_window[0])
    left, middle, right = normalised[:, :-2], normalised[:, 1:-1], normalised[:, 2:]
    is_peak = (middle >= left) & (middle > right) & (middle > 0.5 * config.voicing_threshold)
    # A parabola through three points gives the peak between the samples.
    curvature = np.minimum(left - 2 * middle + right, -1e-9)
    offset = np.clip(0.5 * (left - right) / curvature, -0.5, 0.5)
    height = middle - 0.25 * (left - right) * offset
    frequency = SAMPLE_RATE / (lags[1:-1] + offset)
    strength = np.where(is_peak, height - config.octave_cost * np.log2(config.floor / frequency), -np.inf)
    best = np.argsort(-strength, axis=1, kind="stable")[:, :CANDIDATES]
    strengths = np.empty((len(frames), CANDIDATES + 1))
    strengths[:, 1:] = np.take_along_axis(strength, best, 1)
    loudness = (local_peak / peak) / (config.silence_threshold / (1 + config.voicing_threshold))
    strengths[:, 0] = config.voicing_threshold + np.maximum(0, 2 - loudness)
    return np.take_along_axis(frequency, best, 1), strengths


def _best_path(frequencies: Double, strengths: Double, hop_s: float, config: PitchConfig) -> Double:
    """Viterbi over the candidates of each frame; costs per 10 ms, as in the paper."""
    scale = 0.01 / hop_s
    logs = np.log2(np.maximum(frequencies, 1e-6))
    count, width = strengths.shape
    back = np.zeros((count, width), np.int64)
    score = strengths[0].copy()
    columns = np.arange(width)
    unvoiced = columns == 0
    changes = (unvoiced[:, None] != unvoiced[None, :]) * (config.voicing_cost * scale)
    both = ~unvoiced[:, None] & ~unvoiced[None, :]
    for index in range(1, count):
        jumps = np.abs(logs[index - 1][:, None] - logs[index][None, :]) * (config.octave_jump_cost * scale)
        total = score[:, None] - np.where(both, jumps, changes)
        back[index] = total.argmax(0)
        score = total[back[index], columns] + strengths[index]
    path = np.empty(count, np.int64)
    path[-1] = score.argmax()
    for index in range(count - 1, 0, -1):
        path[index - 1] = back[index, path[index]]
    return np.asarray(frequencies[np.arange(count), path], np.float64)

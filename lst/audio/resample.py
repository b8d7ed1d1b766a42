"""Resampling by chunks, equal to resampling the whole.

`torchaudio.functional.resample` turns `orig` samples into `new` samples (the rates over their greatest common
divisor) with one bank of windowed-sinc kernels that reach `width` samples to each side. Output block j depends on input
samples j * orig - width ... (j + 1) * orig + width only. A chunk of whole blocks that is given `margin` more blocks
on each side therefore comes out as it would from the whole recording, and the margins are thrown away.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LOWPASS_WIDTH = 6
ROLLOFF = 0.99
"""The defaults of torchaudio.functional.resample."""

_LARGEST_KERNEL = 2_000_000
"""Coefficients. 44,100 Hz needs 77 thousand; 44,101 Hz, which shares no factor with 16,000, would need 700 million."""


@dataclass(frozen=True)
class Ratio:
    """A change of sampling rate as a ratio of whole numbers, in blocks of `orig` input and `new` output samples."""

    orig: int
    new: int

    @classmethod
    def of(cls, rate: int, target: int) -> "Ratio":
        """The ratio from `rate` to `target` samples per second."""
        divisor = math.gcd(rate, target)
        return cls(rate // divisor, target // divisor)

    @property
    def width(self) -> int:
        """Reach of the filter in input samples."""
        return math.ceil(LOWPASS_WIDTH * self.orig / (min(self.orig, self.new) * ROLLOFF))

    @property
    def margin(self) -> int:
        """Blocks of input needed beyond each side of a chunk."""
        return math.ceil((self.width + 1) / self.orig)

    def output_length(self, frames: int) -> int:
        """Output samples of `frames` input samples, as torchaudio counts them."""
        return -(-frames * self.new // self.orig)

    def resample(self, window: "np.ndarray") -> "np.ndarray":
        """Resample (n,) float32, n = (blocks + 2 * margin) * orig, to (blocks * new,): without the margins."""
        if self.new * (2 * self.width + self.orig) > _LARGEST_KERNEL:
            return self._direct(window)
        import torch
        import torchaudio.functional

        with torch.inference_mode():
            wave = torchaudio.functional.resample(torch.from_numpy(window), self.orig, self.new)
        blocks = len(window) // self.orig - 2 * self.margin
        return wave[self.margin * self.new : (self.margin + blocks) * self.new].numpy()  # type: ignore[no-any-return]

    def _direct(self, window: "np.ndarray") -> "np.ndarray":
        """The same filter, its coefficients computed per output sample: for ratios whose kernel bank would be huge."""
        import numpy as np

        blocks = len(window) // self.orig - 2 * self.margin
        output = np.empty(blocks * self.new, dtype=np.float32)
        cutoff = min(self.orig, self.new) * ROLLOFF / self.orig
        taps = np.arange(-self.width, self.width + 2)
        for first in range(0, len(output), 8192):
            index = np.arange(first, min(first + 8192, len(output)), dtype=np.int64)
            centre, rest = np.divmod(index * self.orig, self.new)
            distance = np.clip((taps - (rest / self.new)[:, None]) * cutoff, -LOWPASS_WIDTH, LOWPASS_WIDTH)
            kernel = np.sinc(distance) * np.cos(distance * (math.pi / LOWPASS_WIDTH / 2)) ** 2 * cutoff
            samples = window[centre[:, None] + taps + self.margin * self.orig]
            output[index] = np.einsum("nk,nk->n", kernel, samples)
        return output

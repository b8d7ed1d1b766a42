"""Numbers that every part shares: the audio rate, the unit rate, and how they relate."""

SAMPLE_RATE = 16_000
"""Samples per second of all audio inside `lst` (mono, float32)."""

FRAME_RATE = 25
"""Speech units per second (paper, section 3: 25 Hz HuBERT units)."""

SAMPLES_PER_FRAME = SAMPLE_RATE // FRAME_RATE
"""640 samples, 40 ms: the hop of a unit."""

DEFAULT_TOKENIZER = "hubert-nano-25hz-501"
"""The embedded unit tokenizer that is used where none is named."""

DEFAULT_VOCODER = "vocoder-nano-joe"
"""The embedded vocoder that its units get first, of those of its kind."""

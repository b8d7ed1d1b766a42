"""Units to waveform."""

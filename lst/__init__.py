"""`lst`: from raw audio and text to a Latent Speech-Text Transformer, and back into speech."""

__version__ = "0.1.0"

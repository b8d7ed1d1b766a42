"""The Latent Speech-Text Transformer."""

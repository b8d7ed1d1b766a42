"""Text tokenizers and normalisers."""

"""Decoding: transcribe, synthesize, continue."""

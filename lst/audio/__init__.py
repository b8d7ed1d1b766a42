"""Decoding, resampling, segmentation and corpus readers."""

"""Benchmarks, scoring, statistics."""

"""Interleaving, patching, packing, mixing: from Arrow rows to batches."""

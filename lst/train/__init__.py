"""Pretraining and fine-tuning on fairseq2."""

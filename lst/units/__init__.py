"""Speech units: encoders, quantizers, the unit tokenizer."""

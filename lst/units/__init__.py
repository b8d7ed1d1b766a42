"""Speech units: encoders, quantizers, the unit tokenizer. torch loads only with a tokenizer that needs it."""

from lst.units.loading import (
    TokenizerIdentity,
    identify_tokenizer,
    load_tokenizer,
    tokenizer_fingerprint,
    tokenizer_name,
)
from lst.units.tokenizer import UnitTokenizer

__all__ = [
    "TokenizerIdentity",
    "UnitTokenizer",
    "identify_tokenizer",
    "load_tokenizer",
    "tokenizer_fingerprint",
    "tokenizer_name",
]

"""The encoder that is told it is alone is fairseq2's."""

import subprocess
import sys

import pytest
import torch
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig, Wav2Vec2EncoderFactory
from fairseq2.nn import BatchLayout

from lst.units.encoder_factory import EncoderFactory


def test_same_draws_same_output() -> None:
    for order in (TransformerNormOrder.PRE, TransformerNormOrder.POST):
        config = Wav2Vec2EncoderConfig(
            model_dim=16, num_encoder_layers=2, num_encoder_attn_heads=2, ffn_inner_dim=24, norm_order=order
        )
        made = []
        for factory in (Wav2Vec2EncoderFactory, EncoderFactory):
            torch.manual_seed(1)
            made.append(factory(config).create_encoder().eval())
        theirs, ours = made
        assert theirs.state_dict().keys() == ours.state_dict().keys()
        for name, value in theirs.state_dict().items():
            assert torch.equal(value, ours.state_dict()[name]), name
        seqs = torch.randn(2, 7, 16)
        layout = BatchLayout.of(seqs, [7, 5])
        assert torch.equal(theirs(seqs, layout), ours(seqs, layout))


def test_other_encoders_are_refused() -> None:
    for config in (Wav2Vec2EncoderConfig(pos_encoder_type="rotary"), Wav2Vec2EncoderConfig(use_conformer=True)):
        with pytest.raises(ValueError, match="positions from a convolution"):
            EncoderFactory(config)


def test_a_tokenizer_opens_without_every_model_family_there_is() -> None:
    script = (
        "import soundfile, sys; from lst.units import load_tokenizer; load_tokenizer('hubert-nano-25hz-501'); "
        "print([name for name in ('fairseq2.composition', 'transformers', 'sklearn') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

"""A Latent Speech-Text Transformer for transformers' `AutoModelForCausalLM`. Needs the `lst` package.

`lst export` puts this file beside the weights. Token ids are those of `lst`: text pieces, control tokens, speech units;
units are patched as at inference, in runs of the model's patch size. There is no key-value cache here: `lst generate`
has one.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput

from lst.data.batch import pack_examples
from lst.generate.layout import inference_patch_size, static_example
from lst.model.config import LSTConfig
from lst.model.lst import LST


class LSTTransformersConfig(PretrainedConfig):
    """`lst`: the fields of `lst.model.LSTConfig`."""

    model_type = "lst"

    def __init__(self, lst: dict[str, Any] | None = None, **settings: Any) -> None:
        self.lst = lst or {}
        super().__init__(**settings)


class LSTForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc, no-untyped-call]
    """`forward(input_ids)`: logits (B, T, V) of the token after each token, and the mean loss if there are labels."""

    config_class = LSTTransformersConfig
    base_model_prefix = "lst"

    def __init__(self, config: LSTTransformersConfig) -> None:
        super().__init__(config)
        self.shape = LSTConfig.model_validate(config.lst)
        self.lst = LST(self.shape)
        self.generation_config = GenerationConfig.from_model_config(config)
        self.generation_config.use_cache = False

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutput:
        """`input_ids` (B, T); `attention_mask` (B, T): 0 on padding, on either side; `labels` (B, T), -100 left out."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        live = mask.bool()
        size = inference_patch_size(self.shape.patching)
        rows = [
            [static_example(ids[kept].cpu().numpy().astype(np.int32), self.shape.vocabulary, size)]
            for ids, kept in zip(input_ids, live, strict=True)
        ]
        batch = pack_examples(rows, self.shape.vocabulary).to(input_ids.device)
        made = self.lst(batch)
        logits = made.new_zeros(*input_ids.shape, made.shape[-1])
        logits[live] = made[batch.documents > 0]
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)  # type: ignore[arg-type]

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        """The whole sequence every time."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

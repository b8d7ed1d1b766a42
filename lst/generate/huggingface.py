"""A Latent Speech-Text Transformer for transformers' `AutoModelForCausalLM`. Needs the `lst` package.

`lst export` puts this file beside the weights. Token ids are those of `lst`: text pieces, control tokens, speech units;
units are patched as at inference, in runs of the model's patch size. `generate` works out one token at a time with the
caches of `lst` (`lst.model.cache`). transformers' own cache classes do not fit a model whose modules advance at
different paces, so `past_key_values` is not taken.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput

from lst.data.batch import pack_examples
from lst.generate.layout import inference_patch_size, static_example
from lst.model.cache import Incremental
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
        self.generation_config.use_cache = False  # of transformers' kind
        self._growing: _Growing | None = None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        only_last: bool = False,
        **_: Any,
    ) -> CausalLMOutput:
        """`input_ids` (B, T); `attention_mask` (B, T): 0 on padding, on either side; `labels` (B, T), -100 left out.

        `only_last`, for `generate`: logits (B, 1, V) after the last tokens, at the cost of one token where the rows are
        those of the call before with one more each.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        live = mask.bool()
        tokens = [ids[kept].cpu().numpy().astype(np.int32) for ids, kept in zip(input_ids, live, strict=True)]
        if only_last:
            if self._growing is None:
                self._growing = _Growing(self.lst)
            return CausalLMOutput(logits=self._growing.logits(tokens)[:, None])  # type: ignore[arg-type]
        size = inference_patch_size(self.shape.patching)
        rows = [[static_example(row, self.shape.vocabulary, size)] for row in tokens]
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
        """The whole sequence every time; what is new of it is found by comparing."""
        return {"input_ids": input_ids, "attention_mask": attention_mask, "only_last": True}

    def generate(self, *inputs: Any, **settings: Any) -> Any:
        """transformers' `generate`, with caches that last as long as the call."""
        self._growing = None
        try:
            return super().generate(*inputs, **settings)
        finally:
            self._growing = None


class _Growing:
    """Documents that mostly grow by one token a call; after another change (beams trade places) all are read again."""

    def __init__(self, model: LST) -> None:
        self.cached = Incremental(model, inference_patch_size(model.config.patching))
        self.rows: list[NDArray[np.int32]] = []

    def logits(self, rows: list[NDArray[np.int32]]) -> Tensor:
        """(B, V) after the last tokens of `rows`."""
        longer = len(rows) == len(self.rows) and all(
            np.array_equal(row[:-1], before) for row, before in zip(rows, self.rows, strict=True)
        )
        self.rows = rows
        return self.cached.step(np.array([row[-1] for row in rows])) if longer else self._read(rows)

    def _read(self, rows: list[NDArray[np.int32]]) -> Tensor:
        model, size = self.cached.model, self.cached.patch_size
        return self.cached.start([static_example(row, model.config.vocabulary, size) for row in rows])

"""lst models in EleutherAI's lm-evaluation-harness (extra `lm-eval`): any of its text tasks, T->T.

    python -m lst.evaluate.harness --model lst --model_args path=DIR --tasks hellaswag,piqa

That is the harness's own command with `lst` among its models: it finds models by registration, so this module must be
imported first. Layout and scores are those of `lst eval --mode t-t`: `<t>` opens the document, as it does in training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from lst.assets.models import find_model
from lst.errors import LstError
from lst.evaluate.scoring import BATCH_TOKENS, Continuation, greedy_continuations, score_continuations
from lst.generate.decoding import generate
from lst.generate.sampling import GenerateConfig
from lst.generate.session import open_session


@register_model("lst")
class LSTHarness(TemplateLM):  # type: ignore[misc]
    """A model as the harness sees it. `path`: its directory, or a name (lst-nano); `device`: cpu or cuda.

    The harness asks for a GPU unless it is told otherwise; where there is none, it gets the CPU.
    """

    def __init__(
        self,
        path: str,
        device: str = "cpu",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        max_gen_toks: int = 256,
        **unknown: Any,
    ) -> None:
        """Load it. `batch_size` is ignored: batches are as large as `batch_tokens` allows; scores do not depend on it.

        Raises LstError for arguments that mean nothing here.
        """
        super().__init__()
        if unknown:
            raise LstError(f"--model_args has no {next(iter(unknown))}.", hint="It has path, device, batch_tokens.")
        self.session = open_session(find_model(path, "pretrained").directory, device=_available(device))
        self.batch_tokens = int(batch_tokens)
        self.max_gen_toks = int(max_gen_toks)

    @property
    def eot_token_id(self) -> int:
        """`<end>` of a document."""
        return int(self.session.vocabulary.end)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context: the marker that opens text."""
        return int(self.session.vocabulary.text_marker)

    @property
    def max_length(self) -> int:
        """Longest document, in text tokens."""
        return self.session.context

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Text ids, without markers."""
        return [int(token) for token in self.session.encode_text(string)]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """(log p of the continuation, whether it is what greedy decoding would give) per request."""
        items = []
        for _texts, context, continuation in requests:
            prompt = tuple(token for token in context if token != self.prefix_token_id)
            items.append(Continuation(prompt, "text", tuple(continuation), "text"))
        scores = score_continuations(self.session, items, batch_tokens=self.batch_tokens)
        greedy = greedy_continuations(self.session, items, batch_tokens=self.batch_tokens)
        return [(score.logp, same) for score, same in zip(scores, greedy, strict=True)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log p of whole texts, each token given those before it; longer ones in pieces of the model's context."""
        items: list[Continuation] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            step = self.max_length - 1
            for start in range(0, len(ids), step):
                items.append(Continuation((), "text", tuple(ids[start : start + step]), "text"))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, score in zip(
            owners, score_continuations(self.session, items, batch_tokens=self.batch_tokens), strict=True
        ):
            totals[owner] += score.logp
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to one of the stop strings, greedy unless the task asks for sampling."""
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        stops: Sequence[str] = [until] if isinstance(until, str) else until
        limit = int(settings.get("max_gen_toks", self.max_gen_toks))
        config = GenerateConfig(
            modality="text",
            max_tokens=limit,
            greedy=not settings.get("do_sample", False),
            temperature=float(settings.get("temperature") or 1.0),
            top_p=settings.get("top_p"),
        )
        ids = self.tok_encode(context)[-max(1, self.max_length - 1 - limit) :]
        prompt = np.array([self.prefix_token_id, *ids], dtype=np.int32)
        (made,) = generate(self.session, [prompt], "text", config)
        text = self.session.text.decode(made.ids("text").tolist())
        ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text


def _available(device: str | None) -> str:
    import torch

    wanted = device or "cpu"
    return "cpu" if wanted.startswith("cuda") and not torch.cuda.is_available() else wanted


def main() -> None:
    """The harness's command line."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()

"""EleutherAI's evaluation harness on this engine: ``lm_eval.simple_evaluate(InferlibLM(…))``.

Importing this module registers the name ``inferlib`` with the harness, for ``model="inferlib"``.

Interface: lm-eval 0.4.13, ``lm_eval.api.model.TemplateLM``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ..errors import RequestError
from ..model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lm_eval.api.instance import Instance

    from .. import Tokenizer
    from ..scoring import LogLikelihood

_LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_length")


@register_model("inferlib")
class InferlibLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """A model as the harness wants it; all requests of a call run as one batch.

    Requests with the same context have it computed once, others share what their contexts have in
    common.

    Args:
        pretrained: As for ``Model.from_pretrained``, which also takes ``options``.
        model: A loaded model instead; it stays open.
        max_gen_toks: Most tokens of a generation whose task names no limit.
        add_bos_token: Whether texts begin with the beginning-of-sequence token; ``None`` is what
            the tokenizer does.
        batch_size: Ignored: the scheduler decides.
        device: As for ``Model.from_pretrained``.
        **options: Of ``Model.from_pretrained``, such as ``precision="exact"``.

    Raises:
        RequestError: Neither or both of ``pretrained`` and ``model`` are given, or the model has no
            tokenizer.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        *,
        model: Model | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        batch_size: object = None,  # noqa: ARG002  # the harness gives it to every model
        device: str | None = None,
        **options: Any,  # noqa: ANN401  # checked by from_pretrained
    ) -> None:
        super().__init__()
        if (pretrained is None) == (model is None):
            raise RequestError("give a name or path, or a model", field="pretrained")
        if model is None:
            options.pop("max_batch_size", None)
            if device is not None:
                options["device"] = device
            model = Model.from_pretrained(str(pretrained), **options)
        if model.tokenizer is None:
            raise RequestError("this model has no tokenizer", field="model")
        self.model = model
        self.tokenizer: Tokenizer = model.tokenizer
        self.max_gen_toks = max_gen_toks
        self._add_bos = model.tokenizer.add_bos if add_bos_token is None else add_bos_token
        self._bos_id = model.tokenizer.bos_id
        self._checkpoint = model._parts.checkpoint  # noqa: SLF001  # one package

    # What the harness asks about the model

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        tokenizer = self.tokenizer
        ends = [tokenizer.eos_id, tokenizer.eot_id, *tokenizer.end_ids]
        return next(end for end in [*ends, 0] if end is not None)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: the beginning, or the end of another text."""
        return self.eot_token_id if self._bos_id is None else self._bos_id

    @property
    def max_length(self) -> int:
        """Most tokens of a context and what follows it."""
        return self.model.max_model_len

    @property
    def tokenizer_name(self) -> str:
        """The model's name: the harness keeps requests under it."""
        return self._checkpoint.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:  # noqa: FBT001, FBT002  # the harness's signature
        """Return the template's text: the harness stores its hash with the results."""
        return self._checkpoint.chat_template_text if chat_template else None

    def apply_chat_template(
        self,
        chat_history: list[dict[str, str]],
        add_generation_prompt: bool = True,  # noqa: FBT001, FBT002  # the harness's signature
    ) -> str:
        """Return the prompt of a conversation; its last message goes on where that is wanted."""
        return self.model.apply_chat_template(
            chat_history, continue_final_message=not add_generation_prompt
        )

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,  # noqa: FBT001  # the harness's signature
        **_: object,
    ) -> list[int]:
        """Return token ids; a beginning-of-sequence token is never there twice."""
        token_ids: list[int] = self.tokenizer.encode(string, add_special=False).tolist()
        wanted = self._add_bos if add_special_tokens is None else add_special_tokens
        if wanted and self._bos_id is not None and token_ids[:1] != [self._bos_id]:
            token_ids.insert(0, self._bos_id)
        return token_ids

    # Scoring

    def loglikelihood_rolling(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: ARG002, FBT001, FBT002  # the harness's signature
    ) -> list[float]:
        """Return the log-probability of whole texts, each token predicted once.

        Texts longer than the context are cut into windows as the harness does it: the last one
        keeps a full context.
        """
        pairs: list[tuple[list[int], list[int]]] = []
        counts: list[int] = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            own = [make_disjoint_window(window) for window in windows]
            pairs += own
            counts.append(len(own))
        scores = iter(self._score(pairs))
        totals = [math.fsum(next(scores).total for _ in range(count)) for count in counts]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        **_: object,
    ) -> list[tuple[float, bool]]:
        longest = self.max_length
        pairs = []
        for _texts, context, continuation in requests:
            # Of what does not fit, the beginning goes, as the harness's own models do it.
            room = longest - len(continuation)
            pairs.append((context[-room:] if room > 0 else context[-1:], continuation))
        results = [(score.total, score.is_greedy) for score in self._score(pairs)]
        for (texts, *_tokens), result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, result)
        return results

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[LogLikelihood]:
        if not pairs:
            return []
        contexts = [context for context, _ in pairs]
        return self.model.loglikelihood(contexts, [continuation for _, continuation in pairs])

    # Generating

    def generate_until(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: FBT001, FBT002  # the harness's signature
    ) -> list[str]:
        """Continue contexts until a stop string, greedily unless a task asks for sampling.

        Raises:
            RequestError: A task has an option that this engine does not know.
        """
        texts = [""] * len(requests)
        for options, places in self._by_options(requests):
            room = max(1, self.max_length - options["max_tokens"])
            prompts = [self.tok_encode(requests[place].args[0])[-room:] for place in places]
            completions = self.model.generate(
                prompts, progress=False if disable_tqdm else None, **options
            )
            for place, completion in zip(places, completions, strict=True):
                texts[place] = completion.text
                self.cache_hook.add_partial("generate_until", requests[place].args, completion.text)
        return texts

    def _by_options(self, requests: list[Instance]) -> list[tuple[dict[str, Any], list[int]]]:
        """Requests that want the same, by their places."""
        groups: list[tuple[dict[str, Any], list[int]]] = []
        for place, request in enumerate(requests):
            options = self._options(request.args[1])
            known = next((places for known, places in groups if known == options), None)
            if known is None:
                groups.append((options, [place]))
            else:
                known.append(place)
        return groups

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        """The harness's options in our names."""
        options = dict(given)
        until = options.pop("until", None) or []
        stop = [until] if isinstance(until, str) else list(until)
        lengths = [options.pop(name, None) for name in _LENGTH_NAMES]
        most = next((length for length in lengths if length is not None), self.max_gen_toks)
        sampled = options.pop("do_sample", None)
        if sampled is False or (sampled is None and not options.get("temperature")):
            options["temperature"] = 0
        max_tokens = max(1, min(int(most), self.max_length - 1))
        return {**options, "stop": [each for each in stop if each], "max_tokens": max_tokens}

"""The calls that look inside a model: ``forward``, ``aforward`` and ``weight``."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

import numpy as np

from .activations import Activations
from .call_options import ForwardOptions, RequestOptions
from .capture_points import (
    MAX_NAME_BYTES,
    CapturePoint,
    capture_points,
    choose_points,
    choose_positions,
)
from .errors import ModelError, RequestError
from .prompts import is_one_prompt
from .reading import Reading, ReadText, captured_rows
from .sampling_params import SamplingParams
from .sequence import COMPUTE_ONLY
from .transformer import LOGITS
from .validation import boolean, check_keywords, shown, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .prompts import EncodedPrompt, MixedPrompts, Prompt, Prompts
    from .request import Request

    Floats = NDArray[np.float32]

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What one call captures.

    Attributes:
        points: In the order of the forward pass.
        logits: Whether logits, too.
        prompts: In order.
        positions: Of each prompt, ``[n]``.
        request_options: Where its requests run.
    """

    points: tuple[CapturePoint, ...]
    logits: bool
    prompts: list[EncodedPrompt]
    positions: list[NDArray[np.int32]]
    request_options: dict[str, Any]

    @property
    def sources(self) -> list[str]:
        """The program's points, each once."""
        names = dict.fromkeys(point.source for point in self.points)
        return [*names, LOGITS] if self.logits else list(names)

    def start(self, index: int) -> int:
        """The first token of a prompt whose rows are wanted."""
        return int(self.positions[index].min())

    def text(self, index: int) -> ReadText:
        """What is computed of a prompt."""
        start = self.start(index)
        params = COMPUTE_ONLY
        if self.logits:
            params = SamplingParams(
                max_tokens=1,
                temperature=0,
                ignore_eos=True,
                prompt_logprobs=0,
                prompt_logprobs_start=start + 1,
            )
        return ReadText(token_ids=self.prompts[index].token_ids, start=start, params=params)

    def result(
        self, index: int, request: Request, numbers: dict[str, tuple[int, str]]
    ) -> Activations:
        """What one prompt gives.

        Args:
            index: Which prompt.
            request: It ended, and has rows of ``sources`` in the model's order.
            numbers: The model's order: every point's number comes first.
        """
        prompt, positions = self.prompts[index], self.positions[index]
        start = self.start(index)
        num_rows = len(prompt.token_ids) - start
        ordered = sorted(self.sources, key=lambda source: numbers[source])
        rows = {
            source: values.reshape(num_rows, -1)
            for source, values in zip(ordered, captured_rows(index, request), strict=True)
        }
        places = positions - start
        everything = np.array_equal(places, np.arange(num_rows))
        chosen = {
            source: values if everything else values[places] for source, values in rows.items()
        }
        return Activations(
            prompt=prompt.text,
            token_ids=prompt.token_ids,
            positions=positions,
            logits=np.array(chosen[LOGITS]) if self.logits else None,
            arrays={point.name: point.of(chosen[point.source]) for point in self.points},
        )


class Capturing(Reading):
    """Looks inside a model."""

    @cached_property
    def _capture_points(self) -> dict[str, CapturePoint]:
        checkpoint = self._parts.checkpoint
        known = self._parts.builder.capture_points
        points = capture_points(checkpoint.spec, checkpoint.program)
        return {name: point for name, point in points.items() if point.source in known}

    @property
    def capture_points(self) -> tuple[str, ...]:
        """Names that ``forward`` captures, in its order; none on devices that hand nothing out.

        They are TransformerLens': ``hook_embed``, ``blocks.0.hook_resid_pre``,
        ``blocks.0.attn.hook_rot_q`` … ``ln_final``.
        """
        return tuple(self._capture_points)

    @overload
    def forward(
        self,
        prompt: Prompt,
        *,
        progress: bool | None = None,
        **options: Unpack[ForwardOptions],
    ) -> Activations: ...
    @overload
    def forward(
        self,
        prompt: Prompts,
        *,
        progress: bool | None = None,
        **options: Unpack[ForwardOptions],
    ) -> list[Activations]: ...
    @overload
    def forward(
        self,
        prompt: MixedPrompts,
        *,
        progress: bool | None = None,
        **options: Unpack[ForwardOptions],
    ) -> list[Activations]: ...
    def forward(
        self,
        prompt: Prompt | Prompts | MixedPrompts,
        *,
        progress: bool | None = None,
        **options: Unpack[ForwardOptions],
    ) -> Activations | list[Activations]:
        """Compute prompts and hand out what the model computes on the way.

        Runs beside all other requests, and gives the same bits whatever these are, in whatever
        chunks a prompt is computed. To look at generated tokens, give prompt and output together.

        Args:
            prompt: Text or a list of token ids; or a list of these.
            progress: Show a progress bar; ``None``: for long lists in a terminal or notebook.
            **options: ``capture``: names of ``capture_points``, or patterns such as
                ``"blocks.*.hook_resid_post"``; one or several.
                ``positions``: which tokens' rows: a place, several or a ``slice``, from the end
                where negative; ``None``: all. The prefix cache serves what lies before the first.
                ``logits``: whether to hand out logits as well, of the same tokens. Then the prompt
                must be a token shorter than the context.
                ``cache_salt``, ``priority``, ``tenant`` and ``adapter``: as in ``generate``.

        Returns:
            One for one prompt, a list for a list.

        Raises:
            RequestError: A name is unknown (the nearest are named), another argument is invalid, it
                is more than ``Limits.capture_bytes``, or this device hands nothing out.
            PromptTooLongError: A prompt does not fit the context or the KV cache.
            ExecutorError: What was captured is not numbers.
            InferlibError: A step failed, or the model was closed.
        """
        one, plan = self._plan(prompt, options)
        results: list[Activations] = []
        self._read(
            [plan.text(index) for index in range(len(plan.prompts))],
            plan.sources,
            lambda index, request: results.append(plan.result(index, request, self._numbers)),
            progress=progress,
            what="forward",
            options=plan.request_options,
        )
        return results[0] if one else results

    @overload
    async def aforward(self, prompt: Prompt, **options: Unpack[ForwardOptions]) -> Activations: ...
    @overload
    async def aforward(
        self, prompt: Prompts, **options: Unpack[ForwardOptions]
    ) -> list[Activations]: ...
    @overload
    async def aforward(
        self, prompt: MixedPrompts, **options: Unpack[ForwardOptions]
    ) -> list[Activations]: ...
    async def aforward(
        self, prompt: Prompt | Prompts | MixedPrompts, **options: Unpack[ForwardOptions]
    ) -> Activations | list[Activations]:
        """``forward`` without blocking the event loop."""
        one, plan = self._plan(prompt, options)
        results: list[Activations] = []
        await self._aread(
            [plan.text(index) for index in range(len(plan.prompts))],
            plan.sources,
            lambda index, request: results.append(plan.result(index, request, self._numbers)),
            plan.request_options,
        )
        return results[0] if one else results

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names that ``weight`` reads, and the shapes of what it gives."""
        program = self._parts.checkpoint.program
        shapes = dict(program.weights)
        if self._is_tied:
            shapes[HEAD] = shapes[EMBEDDING]
        return shapes

    def weight(self, name: str) -> Floats:
        """Read a weight from the checkpoint, dequantized.

        Names are the same for all families, projections that are computed together are one matrix
        (``layers.0.self_attn.qkv_proj.weight``), and values are as they are used: Gemma's norms
        have their one added. ``lm_head.weight`` is the embedding where the logits use that.

        Args:
            name: One of ``weight_shapes``.

        Returns:
            float32, ``weight_shapes[name]``, in memory of its own; read from the files each time.
            ``quantize=`` does not change it.

        Raises:
            RequestError: There is no such weight; the nearest are named.
            ModelError: The files were changed since the model was loaded, or there are none.
            ClosedError: The model is closed.
        """
        self._engine.check_usable()
        checkpoint, shapes = self._parts.checkpoint, self.weight_shapes
        text("name", name, limit=MAX_NAME_BYTES)
        if name not in shapes:
            near = difflib.get_close_matches(name, shapes, n=3)
            raise RequestError(
                f"this model has no weight {shown(name)}",
                field="name",
                hint=f"near it are {', '.join(near)}" if near else "weight_shapes lists all names",
            )
        if checkpoint.read_weight is None:
            raise ModelError(
                "this model was made of weights in memory, which it does not keep",
                hint="whoever gave them has them",
            )
        stored = EMBEDDING if name == HEAD and self._is_tied else name
        return checkpoint.read_weight(stored).reshape(shapes[name])

    @property
    def _is_tied(self) -> bool:
        spec = self._parts.checkpoint.spec
        return spec.lm_head and spec.tied_embeddings

    @property
    def _numbers(self) -> dict[str, tuple[int, str]]:
        return dict(self._parts.builder.capture_points)

    def _plan(self, prompt: object, options: Mapping[str, Any]) -> tuple[bool, _Plan]:
        """Whether one prompt was given; and what is to be done, checked."""
        self._engine.check_usable()
        check_keywords(options, ForwardOptions.__annotations__)
        logits = options.get("logits", False)
        boolean("logits", logits)
        builder = self._parts.builder
        if not builder.capture_points:
            raise RequestError(
                "nothing of a forward pass is handed out on this device",
                field="device",
                hint='load the model with device="cpu"',
            )
        if logits and not builder.generates:
            raise RequestError("this model has no logits", field="logits")
        points = choose_points(self._capture_points, options.get("capture", ()))
        if not points and not logits:
            raise RequestError(
                "nothing is asked for",
                field="capture",
                hint="name capture points, or give logits=True",
            )
        one = is_one_prompt(prompt)
        given = [prompt] if one else list(cast("Sequence[object]", prompt))
        prompts = [self._encoded(each) for each in given]
        positions = options.get("positions")
        plan = _Plan(
            points=points,
            logits=logits,
            prompts=prompts,
            positions=[choose_positions(positions, len(each.token_ids)) for each in prompts],
            request_options={
                name: options[name] for name in RequestOptions.__annotations__ if name in options
            },
        )
        self._check_bytes(plan)
        return one, plan

    def _check_bytes(self, plan: _Plan) -> None:
        """Refuse what would hand out too much, before anything is computed."""
        program = self._parts.checkpoint.program
        widths = {
            op["name"]: program.buffers[op["x"]][1] for kind, op in program.ops if kind == "capture"
        }
        handed_out = sum(widths[source] for source in plan.sources)
        kept = sum(point.width for point in plan.points)
        kept += program.vocab_size if plan.logits else 0
        num_bytes = sum(
            4 * max(handed_out * (len(prompt.token_ids) - plan.start(index)), kept * len(places))
            for index, (prompt, places) in enumerate(zip(plan.prompts, plan.positions, strict=True))
        )
        self._parts.builder.limits.check_capture(num_bytes)

"""
The compiled half of inferlib.
"""

from os import PathLike
from typing import Any, Final, SupportsFloat, SupportsIndex, final

from _typeshed import SupportsGetItem
from numpy import bool_, float32, int32, int64, uint8, uint64
from numpy.typing import NDArray

__all__ = [
    "__version__",
    "Batch",
    "Buffer",
    "ChatTemplate",
    "CpuExecutor",
    "DecodeStream",
    "Events",
    "Grammar",
    "GrammarStates",
    "Grammars",
    "GroupBatch",
    "HeldSequences",
    "KvGroup",
    "KvLayer",
    "LogitsSampler",
    "Program",
    "ProgramRecorder",
    "RequestOutput",
    "Rope",
    "RowLogprobs",
    "SampledRows",
    "SamplingParams",
    "Scheduler",
    "SchedulerStats",
    "SequenceOutput",
    "StepOutput",
    "TextStreams",
    "Timestamps",
    "Tokenizer",
    "Weight",
    "Weights",
    "dequantize",
    "read_tokenizer_config",
    "replay_decisions",
    "set_error_classes",
]

__version__: Final[str]

@final
class Batch:
    """
    The input of one step as int32 arrays. The scheduler refills its buffers only when no handle is left.
    """
    @property
    def captures(self, /) -> list[tuple[int, int, int]]:
        """
        Rows that are to be handed out: (capture point, first row, one past the last).
        """
    def drawn_rows(
        self, /, request_ids: SupportsGetItem[int, SupportsIndex]
    ) -> list[tuple[int, int, int, int | None]]:
        """
        The rows that draw tokens of these requests: row, request, sequence, and the drafted token behind the row, if there
        is one.
        """
    @property
    def groups(self, /) -> list[GroupBatch]:
        """
        Block tables and slots, one per KV group.
        """
    @property
    def history(self, /) -> NDArray[int32]:
        """
        Token histories that sampling needs, flattened; see `SampledRows`.
        """
    @property
    def logits_indices(self, /) -> NDArray[int32]:
        """
        `[num_sampled]`: ascending token rows whose logits are wanted.
        """
    @property
    def num_sampled(self, /) -> int:
        """
        Rows of logits in this step.
        """
    @property
    def num_seqs(self, /) -> int:
        """
        Sequences in this step.
        """
    @property
    def num_tokens(self, /) -> int:
        """
        Scheduled tokens.
        """
    @property
    def positions(self, /) -> NDArray[int32]:
        """
        `[num_tokens]`: absolute positions.
        """
    @property
    def query_start_loc(self, /) -> NDArray[int32]:
        """
        `[num_seqs + 1]`: first token row of each sequence.
        """
    def restrict(
        self, /, row: SupportsIndex, token_id: SupportsIndex, vocab_size: SupportsIndex
    ) -> None:
        """
        Let a row draw this token and no other, of a vocabulary of `vocab_size`.
        """
    @property
    def sampled(self, /) -> SampledRows:
        """
        What the rows of logits are for.
        """
    @property
    def segment_ids(self, /) -> NDArray[int32]:
        """
        `[num_tokens]`: 1 for tokens of a sequence's second text, else 0; empty if all are 0.
        """
    @property
    def seq_lens(self, /) -> NDArray[int32]:
        """
        `[num_seqs]`: tokens in the cache after this step.
        """
    @property
    def step(self, /) -> int:
        """
        Increases by one per scheduled step.
        """
    @property
    def token_ids(self, /) -> NDArray[int32]:
        """
        `[num_tokens]`.
        """
    def want_logits(
        self, /, request_ids: SupportsGetItem[int, SupportsIndex]
    ) -> list[tuple[int, int, int]]:
        """
        Let the executor hand out the logits of these requests' rows that draw tokens, and draw nothing from them. Returns
        these rows, each with its request and sequence.
        """

@final
class Buffer:
    """
    A buffer of a program that is being recorded.
    """
    @property
    def name(self, /) -> str:
        """
        The buffer's name.
        """
    @property
    def width(self, /) -> int:
        """
        Elements per row.
        """

@final
class ChatTemplate:
    """
    A compiled chat template. Immutable; any thread may use it.
    """
    def __new__(cls, /, source: str, special_tokens: dict[str, str] | None = None) -> ChatTemplate:
        """
        Compile a template; `special_tokens` are variables such as `bos_token`.
        """
    def render(
        self,
        /,
        messages: Any,
        *,
        tools: Any | None = None,
        add_generation_prompt: bool = True,
        variables: Any | None = None,
        now: tuple[SupportsIndex, SupportsIndex] | None = None,
    ) -> str:
        """
        The text of a conversation.

        `variables` are further ones for the template (`enable_thinking`); `now` is what its clock shows, as seconds since
        1970 in UTC and the local offset from UTC in seconds, by default the present in UTC.
        """

@final
class CpuExecutor:
    """
    Runs a program on the CPU, with the GIL released: packed weights, KV cache, workspaces, threads.

    Load every weight of the program, `seal`, then `run` batches. One step runs at a time.
    """
    def __new__(
        cls,
        /,
        program: Program,
        *,
        num_blocks: SupportsGetItem[int, SupportsIndex],
        precision: str = "fast",
        kv_cache_dtype: str = "auto",
        threads: SupportsIndex | None = None,
        tier: str | None = None,
        max_num_batched_tokens: SupportsIndex = 512,
    ) -> CpuExecutor:
        """
        Reserve the KV cache (`num_blocks` per KV group) and choose kernels. Starts no thread.
        """
    def abort(self, /) -> None:
        """
        End the running step at its next barrier, from any thread.
        """
    @staticmethod
    def available_cores() -> int:
        """
        Cores that this process may use.
        """
    @staticmethod
    def bytes_per_block(
        program: Program, precision: str, kv_cache_dtype: str = "auto"
    ) -> list[int]:
        """
        Bytes of one KV block in each group of the program.
        """
    def close(self, /) -> None:
        """
        Give back memory and threads. A running step is aborted first. Later calls raise `ClosedError`.
        """
    def info(self, /) -> "dict[str, object]":
        """
        Tier, threads, type of the KV cache and bytes in use, as a plain dict.

        `weight_bytes_by_type` counts matrices by their tensor type. `fallback_weights` lists those whose type has no
        packed layout and which are held as floats: `{"name", "type", "held_as", "bytes", "file_bytes"}`.
        """
    def load_adapter(
        self,
        /,
        adapter: SupportsIndex,
        parts: SupportsGetItem[
            int,
            tuple[
                str,
                SupportsIndex,
                NDArray[float32],
                NDArray[float32],
                SupportsFloat | SupportsIndex,
            ],
        ],
    ) -> None:
        """
        Load a low-rank adapter under a number above 0, which `submit` names it by: per part a weight's name, the first of
        its rows that it adapts, A `[rank, in_features]`, B transposed `[rank, rows]`, and what multiplies `B (A x)`.
        """
    def load_array(self, /, name: str, values: NDArray[float32]) -> None:
        """
        Give a matrix as float32 values, `[out_features, in_features]`.
        """
    def load_matrices(
        self,
        /,
        checkpoint: Weights,
        matrices: "list[tuple[str, list[tuple[str, NDArray[int32] | None]]]]",
        *,
        packed_cache: str | PathLike[str] | None = None,
        row_scales: bool = False,
    ) -> "tuple[str, str | None]":
        """
        Give all matrices of the program as tensors of a checkpoint, stacked by rows: row `i` of a part is row
        `row_order[i]` of its tensor. Packed into memory, or with `packed_cache` (a folder) into a file there once, which
        later loads map. Signals are looked at meanwhile. With `row_scales` matrices in `Q8_0` whose rows have one scale each are
        multiplied with activations of one scale per row.

        Returns where the weights came from (`"packed"`, `"written"` or `"opened"`), and what was wrong with a file of the
        cache that had to be replaced.
        """
    def load_vector(self, /, name: str, values: NDArray[float32]) -> None:
        """
        Give a vector, `[width]` float32.
        """
    def plant_panic(self, /, *, in_caller: bool = False) -> None:
        """
        Let the next step panic, in every worker or, with `in_caller`, outside of them: `inferlib.testing` shows with it
        that a bug ends neither the process nor the model.
        """
    def residency(self, /) -> "dict[str, int]":
        """
        How the weights of `load_matrices` lie in memory now, as a plain dict; empty where the system does not tell.
        Costs a walk over the process's page tables: not for every step.
        """
    def run(self, /, batch: Batch) -> StepOutput | None:
        """
        Run one step. `None` if `abort` was called: then discard the step; running it again is safe.
        """
    def seal(self, /) -> None:
        """
        All weights are there: build the plan and the workspaces.
        """
    @staticmethod
    def tiers() -> list[str]:
        """
        Names of the kernel tiers that this machine runs, best first.
        """
    def unload_adapter(self, /, adapter: SupportsIndex) -> bool:
        """
        Forget an adapter that no request uses any more; whether there was one.
        """

@final
class DecodeStream:
    """
    Decodes one sequence of tokens as it grows; never gives out half a character.
    """
    def __new__(
        cls, /, tokenizer: Tokenizer, *, skip_special: bool = True, continues: bool = False
    ) -> DecodeStream:
        """
        `continues`: the text goes on after other text, so that a leading space stays.
        """
    def finish(self, /) -> str:
        """
        End the text: an unfinished character becomes U+FFFD.
        """
    def push(self, /, token_id: SupportsIndex) -> str:
        """
        Decode one more token; returns the text that is certain now and was not before.
        """

@final
class Events:
    """
    What a step brought, as parallel arrays: no object per request.
    """
    @property
    def finished(self, /) -> NDArray[bool_]:
        """
        `[num_tokens]`: whether the sequence ended with it.
        """
    @property
    def finished_requests(self, /) -> NDArray[int64]:
        """
        Requests whose last sequence ended in this step, also without a token. Not those that `cancel` or `finish`
        ended.
        """
    @property
    def request_ids(self, /) -> NDArray[int64]:
        """
        `[num_tokens]`: whose token.
        """
    @property
    def sequence_indices(self, /) -> NDArray[int32]:
        """
        `[num_tokens]`: which of its sequences.
        """
    @property
    def token_ids(self, /) -> NDArray[int32]:
        """
        `[num_tokens]`: the token appended.
        """
    @property
    def token_indices(self, /) -> NDArray[int32]:
        """
        `[num_tokens]`: which of the sequence's output tokens. A step may bring several of one sequence, in order.
        """

@final
class Grammar:
    """
    A compiled description of texts.
    """
    @property
    def least_tokens(self, /) -> int:
        """
        No text of it has fewer tokens.
        """
    @property
    def num_bytes(self, /) -> int:
        """
        Bytes of the automata that each of its sequences has.
        """
    @property
    def shortest(self, /) -> list[int] | None:
        """
        Tokens of a short text; `None` if none was found with a bounded effort.
        """

@final
class GrammarStates:
    """
    The grammars of running sequences, under keys that callers choose: `request_id * sequences_per_request + index`.
    """
    def __len__(self, /) -> int:
        """
        Sequences with a grammar.
        """
    def __new__(
        cls,
        /,
        vocab_size: SupportsIndex,
        sequences_per_request: SupportsIndex,
        max_bytes: SupportsIndex,
    ) -> GrammarStates:
        """
        No sequence yet. Where the automata of all take more than `max_bytes`, the sequence with the largest ones fails.
        """
    def advance(
        self, /, keys: NDArray[uint64], token_ids: NDArray[int32]
    ) -> list[tuple[int, int, bool]]:
        """
        Take over the tokens that a step appended, `[num_events]` both. Returns the keys of sequences whose text is whole,
        with which of their tokens it is, and whether it was closed on request.
        """
    def close(self, /, key: SupportsIndex) -> int | None:
        """
        End a text by a short way from now on; how many tokens that takes. `None`: it has no grammar, or it cannot end.
        """
    def failure(self, /, key: SupportsIndex) -> str | None:
        """
        Why a sequence's grammar allows nothing any more; `None` if it does.
        """
    def force(self, /, scheduler: Scheduler, keys: NDArray[uint64]) -> None:
        """
        Tell the scheduler which tokens must follow in these sequences.
        """
    def insert(
        self,
        /,
        key: SupportsIndex,
        grammar: Grammar,
        *,
        max_tokens: SupportsIndex,
        closes: bool,
        forces: bool,
    ) -> None:
        """
        A sequence without output begins: at most `max_tokens` tokens, closed before they run out if it `closes`. With
        `forces` the scheduler is told tokens that must follow.
        """
    def mask(self, /, batch: Batch) -> bool:
        """
        Put the masks of a step into its batch. Whether what is drawn must go through `refuse`.
        """
    @property
    def num_bytes(self, /) -> int:
        """
        Bytes of the automata of all sequences.
        """
    def rebuild(self, /, key: SupportsIndex, token_ids: NDArray[int32]) -> tuple[bool, bool]:
        """
        Start a sequence again with these output tokens. Whether its text is whole, and was closed on request.
        """
    def refuse(self, /, batch: Batch, output: StepOutput) -> StepOutput:
        """
        The result of a step without the tokens behind which a text could not end in time.
        """
    def remove(self, /, key: SupportsIndex) -> bool:
        """
        A sequence is over; false if it has no grammar.
        """
    @property
    def vocab_size(self, /) -> int:
        """
        Number of logits.
        """

@final
class Grammars:
    """
    Compiles grammars for one vocabulary. Immutable; any thread may use it.
    """
    def __new__(
        cls,
        /,
        tokenizer: Tokenizer,
        eos_token_ids: SupportsGetItem[int, SupportsIndex],
        vocab_size: SupportsIndex,
    ) -> Grammars:
        """
        For the tokens of `tokenizer`; masks have `vocab_size` bits. Takes a moment: a trie of all tokens is built.
        """
    def choices(self, /, choices: SupportsGetItem[int, str]) -> Grammar:
        """
        Compile a list of texts, one of which is generated.
        """
    def json_schema(self, /, schema: str) -> Grammar:
        """
        Compile a JSON schema, as JSON.
        """
    def lark(self, /, grammar: str) -> Grammar:
        """
        Compile a grammar in Lark's syntax.
        """
    def regex(self, /, pattern: str) -> Grammar:
        """
        Compile a regular expression for the whole text.
        """

@final
class GroupBatch:
    """
    Block tables and slots of one KV group.
    """
    @property
    def block_copies(self, /) -> NDArray[int32]:
        """
        Blocks to copy before the step: source, target, source, target …
        """
    @property
    def block_table_start_loc(self, /) -> NDArray[int32]:
        """
        `[num_seqs + 1]`: where each sequence's blocks begin in `block_tables`.
        """
    @property
    def block_tables(self, /) -> NDArray[int32]:
        """
        Block ids in order of position.
        """
    @property
    def slot_mapping(self, /) -> NDArray[int32]:
        """
        `[num_tokens]`: `block_id * block_size + offset` where each token's K and V go.
        """

@final
class HeldSequences:
    """
    Tokens and blocks that outlive requests. A sequence that is not there raises `ClosedError`.
    """
    def close(self, /, sequence: SupportsIndex) -> bool:
        """
        Let a sequence go; whether there was one.
        """
    def export(
        self, /, sequence: SupportsIndex, executor: CpuExecutor
    ) -> "list[tuple[NDArray[uint8], NDArray[uint8], NDArray[uint8], NDArray[uint8]]]":
        """
        K and V of a sequence's computed tokens, per KV group: K, V, and the scales of both where the type has them, as
        the bytes of row-major `[layer][token][head][d]` arrays. Waits for a step that runs.
        """
    def fork(self, /, sequence: SupportsIndex) -> int:
        """
        Hold a sequence's tokens and blocks once more; the new id. Costs a reference per block.
        """
    def lengths(self, /, sequence: SupportsIndex) -> tuple[int, int]:
        """
        Tokens of a sequence, and how many of them have K and V: none once it lost its blocks to somebody who ran.
        """
    def open(self, /, cache_salt: str | None = None) -> int:
        """
        Hold a sequence without tokens; its id. A request with `keep` gives it some.
        """
    def restore(
        self,
        /,
        sequence: SupportsIndex,
        token_ids: NDArray[int32],
        num_computed: SupportsIndex,
        executor: CpuExecutor,
        groups: "list[tuple[NDArray[uint8], NDArray[uint8], NDArray[uint8], NDArray[uint8]]]",
    ) -> bool:
        """
        Give a sequence tokens, and K and V of the first `num_computed` of them as `export` gave them; whether there was
        room for these. They are never published.
        """
    def rewind(self, /, sequence: SupportsIndex, num_tokens: SupportsIndex) -> None:
        """
        Take the last `num_tokens` tokens off. `RequestError` if it has fewer, `SequenceBusyError` if a request that
        will change it is running.
        """
    def token_ids(self, /, sequence: SupportsIndex) -> NDArray[int32]:
        """
        All tokens of a sequence.
        """

@final
class KvGroup:
    """
    Layers that share one block table per sequence.
    """
    def __eq__(self, value: object, /) -> bool: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __repr__(self, /) -> str: ...
    @property
    def bidirectional(self, /) -> bool:
        """
        Whether a query sees what comes behind it, too.
        """
    @property
    def k_head_dim(self, /) -> int:
        """
        Elements of a K head.
        """
    @property
    def num_kv_heads(self, /) -> int:
        """
        KV heads per layer.
        """
    @property
    def num_layers(self, /) -> int:
        """
        Layers whose K and V live in each of the group's blocks.
        """
    @property
    def v_head_dim(self, /) -> int:
        """
        Elements of a V head.
        """
    @property
    def window(self, /) -> int | None:
        """
        Tokens that a query may see, itself included; None means all.
        """

@final
class KvLayer:
    """
    Where one layer's K and V live, in a program that is being recorded.
    """

@final
class LogitsSampler:
    """
    Draws or scores rows from logits on the host, all options included. One per executor: it keeps its scratch.
    """
    def __new__(cls, /, vocab_size: SupportsIndex) -> LogitsSampler:
        """
        For rows of `vocab_size` logits.
        """
    def complete(
        self,
        /,
        batch: Batch,
        rows: NDArray[int32],
        logits: NDArray[float32],
        token_ids: NDArray[int32],
        failed: NDArray[bool_],
    ) -> StepOutput:
        """
        Complete a step: rows `rows` of the batch from their `logits` `[len(rows), vocab_size]`, the others as `token_ids`
        and `failed` `[num_sampled]` say, drawn elsewhere.

        The same bits as the CPU executor gives for the same logits. Without the GIL.
        """
    def redraw(
        self, /, batch: Batch, output: StepOutput, rows: NDArray[int32], logits: NDArray[float32]
    ) -> StepOutput:
        """
        The result of a step with tokens for `rows` whose logits it hands out, drawn from `logits` `[len(rows), vocab_size]`
        instead. Raw log-probabilities are those of the logits that were handed out. Without the GIL.
        """

@final
class Program:
    """
    A recorded forward pass: ops over named buffers, weights by canonical name, KV groups.
    """
    def __repr__(self, /) -> str: ...
    @property
    def buffers(self, /) -> dict[str, tuple[str, int]]:
        """
        Buffer name → (what its rows count, elements per row).
        """
    @property
    def captures(self, /) -> list[str]:
        """
        Names of the capture points, in the order of the forward pass.
        """
    def describe(self, /) -> str:
        """
        The program as text, one line per op.
        """
    @property
    def has_lm_head(self, /) -> bool:
        """
        Whether there are logits.
        """
    @property
    def is_bidirectional(self, /) -> bool:
        """
        Whether tokens see those behind them, so that every sequence has to be one step.
        """
    @property
    def kv_groups(self, /) -> list[KvGroup]:
        """
        A sequence has one block table in each.
        """
    @property
    def ops(self, /) -> list[tuple[str, dict[str, Any]]]:
        """
        The ops in order, as (kind, arguments). Buffers and weights appear by name; built anew on each access.
        """
    @property
    def vocab_size(self, /) -> int:
        """
        Token ids are below this: the width of the logits, where there are any.
        """
    @property
    def weights(self, /) -> dict[str, tuple[int, ...]]:
        """
        Canonical weight name → shape.
        """

@final
class ProgramRecorder:
    """
    Records one forward pass: declare buffers and weights, call the ops in order, then `finish()`.

    Declaring the same thing twice gives the same one. Every call raises `ModelError` if ids, widths or shapes do not fit.
    """
    def __new__(cls, /) -> ProgramRecorder: ...
    def act_and_mul(self, /, x: Buffer, activation: str, *, out: Buffer) -> None:
        """
        `out = act(x[:, :half]) * x[:, half:]`; `activation` is `"silu"`, `"gelu_tanh"`, `"gelu"`, `"relu"`,
        `"tanh"` or `"clamped_swiglu"`.
        """
    def activation(self, /, x: Buffer, activation: str, *, out: Buffer) -> None:
        """
        `out = act(x)`; `activation` is `"silu"`, `"gelu_tanh"`, `"gelu"`, `"relu"` or `"tanh"`, `out` may be `x`.
        """
    def add(self, /, a: Buffer, b: Buffer, *, out: Buffer) -> None:
        """
        `out = a + b`; `out` may be either of them.
        """
    def attention(
        self,
        /,
        q: Buffer,
        kv: KvLayer,
        *,
        num_heads: SupportsIndex,
        scale: SupportsFloat | SupportsIndex,
        out: Buffer,
        q_start: SupportsIndex = 0,
        softcap: SupportsFloat | SupportsIndex | None = None,
        sinks: Weight | None = None,
    ) -> None:
        """
        Attend from the queries at `q_start` of each row to their sequences' blocks, causally unless `kv` is bidirectional.

        `sinks` is a score per head that takes part in the softmax and adds nothing.
        """
    def buffer(self, /, name: str, rows: str, width: SupportsIndex) -> Buffer:
        """
        A buffer of `width` floats per row; `rows` is `"tokens"`, `"sampled"` or `"sequences"`.
        """
    def capture(self, /, name: str, x: Buffer) -> None:
        """
        Hand out the rows of `x` here when a request asks for `name`; off by default.
        """
    def embedding(
        self, /, weight: Weight, *, out: Buffer, scale: SupportsFloat | SupportsIndex = 1.0
    ) -> None:
        """
        `out[t] = weight[token_ids[t]] * scale`.
        """
    def finish(self, /) -> Program:
        """
        The finished program; the recorder cannot be used any more.
        """
    def gather_rows(self, /, x: Buffer, *, out: Buffer) -> None:
        """
        `out[i] = x[logits_indices[i]]`: keep the rows whose logits are wanted.
        """
    def head_linear(
        self, /, x: Buffer, weight: Weight, *, out: Buffer, pass_through: SupportsIndex = 0
    ) -> None:
        """
        Each head's own matrix: `out[head] = weight[head] @ x[head]`, behind the first `pass_through` elements of each head,
        which are copied. `weight` is `(heads, out_features, in_features)`.
        """
    def kv_layer(
        self,
        /,
        *,
        num_kv_heads: SupportsIndex,
        k_head_dim: SupportsIndex,
        v_head_dim: SupportsIndex,
        window: SupportsIndex | None,
        bidirectional: bool = False,
    ) -> KvLayer:
        """
        Room for one more layer's K and V, in the KV group of all layers with the same dimensions, window and direction.
        """
    def layer_norm(
        self,
        /,
        x: Buffer,
        weight: Weight,
        bias: Weight | None = None,
        *,
        eps: SupportsFloat | SupportsIndex,
        out: Buffer,
    ) -> None:
        """
        `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, over whole rows; `out` may be `x`.
        """
    def linear(
        self, /, x: Buffer, weight: Weight, bias: Weight | None = None, *, out: Buffer
    ) -> None:
        """
        `out = x @ weight.T + bias`.
        """
    def lm_head(
        self,
        /,
        x: Buffer,
        weight: Weight,
        *,
        out: Buffer,
        softcap: SupportsFloat | SupportsIndex | None = None,
    ) -> None:
        """
        `out = x @ weight.T`, then `softcap * tanh(out / softcap)` if given: the logits.
        """
    def moe(
        self,
        /,
        x: Buffer,
        router_logits: Buffer,
        *,
        gate: Weight,
        up: Weight,
        down: Weight,
        top_k: SupportsIndex,
        normalise: bool,
        activation: str,
        out: Buffer,
        biases: tuple[Weight, Weight, Weight] | None = None,
        scoring: str = "softmax",
        score_bias: Weight | None = None,
        groups: tuple[SupportsIndex, SupportsIndex, SupportsIndex] | None = None,
        weight_scale: SupportsFloat | SupportsIndex = 1.0,
    ) -> None:
        """
        Each row through the `top_k` experts of its largest scores, each a gated MLP, and their weighted sum.

        `gate` and `up` are `(experts, intermediate_size, hidden_size)`, `down` is `(experts, hidden_size,
        intermediate_size)`, `biases` are those of the three, flat. `scoring` makes scores of the logits: `"softmax"` or
        `"sigmoid"`. With `normalise` the weights of the chosen experts sum to 1, else they are their scores; both times
        `weight_scale`. `score_bias` is added to the scores for the choice alone. `groups` is (count, kept, scored): only
        experts of the `kept` runs with the largest sums of `scored` scores may be chosen.
        """
    def pool(self, /, x: Buffer, row: str, *, out: Buffer) -> None:
        """
        `out[s] = x[row of sequence s]`: its `"first"` row in the step, or its `"last"`.
        """
    def position_embedding(self, /, weight: Weight, *, out: Buffer) -> None:
        """
        `out[t] = weight[positions[t]]`: learned positions.
        """
    def rms_norm(
        self,
        /,
        x: Buffer,
        weight: Weight,
        *,
        eps: SupportsFloat | SupportsIndex,
        out: Buffer,
        start: SupportsIndex = 0,
        length: SupportsIndex | None = None,
    ) -> None:
        """
        `out = x / sqrt(mean(x²) + eps) * weight`, over each run of the weight's width.

        With `start` and `length`, only that slice of each row, in place (heads of a fused qkv row).
        """
    def rope(
        self,
        /,
        x: Buffer,
        table: Rope,
        *,
        start: SupportsIndex,
        num_heads: SupportsIndex,
        head_dim: SupportsIndex,
    ) -> None:
        """
        Rotate `num_heads` heads from element `start` on, in place, by each token's position.
        """
    def rotary_table(
        self,
        /,
        inv_freq: SupportsGetItem[int, SupportsFloat | SupportsIndex],
        *,
        scale: SupportsFloat | SupportsIndex = 1.0,
    ) -> Rope:
        """
        A rotary table: pair `i` turns by `position * inv_freq[i]`; cosine and sine are multiplied by `scale`.
        """
    def scale(self, /, x: Buffer, scale: SupportsFloat | SupportsIndex) -> None:
        """
        `x *= scale`, in place.
        """
    def segment_embedding(self, /, weight: Weight, *, out: Buffer) -> None:
        """
        `out[t] = weight[segment_ids[t]]`: which of two texts a token belongs to.
        """
    def store_kv(
        self, /, x: Buffer, kv: KvLayer, *, k_start: SupportsIndex, v_start: SupportsIndex
    ) -> None:
        """
        Write this step's K and V, at `k_start` and `v_start` of each row, into the sequences' blocks.
        """
    def weight(self, /, name: str, shape: SupportsGetItem[int, SupportsIndex]) -> Weight:
        """
        A weight by canonical name: one size for a vector, `(out_features, in_features)` for a matrix, and
        `(experts, out_features, in_features)` for the stacked matrices of experts.
        """

@final
class RequestOutput:
    """
    Results of a request.
    """
    @property
    def captures(self, /) -> list[NDArray[float32]]:
        """
        Rows of the capture points that were asked for, in their order: `[rows * width]` each.
        """
    @property
    def is_finished(self, /) -> bool:
        """
        Whether every sequence ended.
        """
    @property
    def num_accepted_tokens(self, /) -> int:
        """
        Of these, tokens that were drawn: steps saved.
        """
    @property
    def num_cached_tokens(self, /) -> int:
        """
        Prompt tokens whose K and V were found in the prefix cache when the request first ran.
        """
    @property
    def num_drafted_tokens(self, /) -> int:
        """
        Tokens drafted for it, as far as the model verified them.
        """
    @property
    def num_forced_tokens(self, /) -> int:
        """
        Tokens that were known before their rows were computed: steps saved.
        """
    @property
    def num_model_accepted_tokens(self, /) -> int:
        """
        Of these, tokens that were drawn.
        """
    @property
    def num_model_drafted_tokens(self, /) -> int:
        """
        Of the drafted tokens, those of the draft model.
        """
    @property
    def num_preemptions(self, /) -> int:
        """
        How often a sequence of it lost its blocks.
        """
    @property
    def prompt_logprobs(self, /) -> list[RowLogprobs] | None:
        """
        Log-probabilities of the prompt tokens from `prompt_logprobs_start` on; `None` unless asked for.
        """
    @property
    def prompt_logprobs_start(self, /) -> int:
        """
        Position of the first entry of `prompt_logprobs`: 1 or more, since nothing precedes position 0.
        """
    @property
    def prompt_token_ids(self, /) -> NDArray[int32]:
        """
        The prompt.
        """
    @property
    def request_id(self, /) -> int:
        """
        As `Scheduler.submit` gave it.
        """
    def run_record(self, /) -> "dict[str, int | dict[str, int]]":
        """
        How it was run, in steps: counts by name, and `waited_for`: steps that passed before its first, by why nobody
        more was let in (`"blocks"`, `"max_num_seqs"`, `"token_budget"`, `"preemption"`).
        """
    @property
    def sequences(self, /) -> list[SequenceOutput]:
        """
        `[n]`.
        """
    @property
    def timestamps(self, /) -> Timestamps:
        """
        When things happened.
        """
    def vector(
        self, /, pooling: str, width: SupportsIndex, dimensions: SupportsIndex, normalize: bool
    ) -> NDArray[float32] | None:
        """
        `[dimensions]`: one vector of its only capture's rows, which are `width` wide: `pooling` (`"cls"`, `"mean"`,
        `"last"`, `"max"`), of it the first `dimensions`, brought to length 1 if `normalize`. `None` if a number is none.

        A mean is summed in float64, token by token, so that it depends on nothing but the rows.
        """

@final
class Rope:
    """
    A rotary table of a program that is being recorded.
    """

@final
class RowLogprobs:
    """
    Log-probabilities of one token: its own, then the best `k`.
    """
    @property
    def logprob(self, /) -> float:
        """
        Of the chosen (or scored) token.
        """
    @property
    def rank(self, /) -> int:
        """
        Its rank, 1 for the most likely.
        """
    @property
    def top_ids(self, /) -> NDArray[int32]:
        """
        `[k]`: the most likely tokens, best first.
        """
    @property
    def top_logprobs(self, /) -> NDArray[float32]:
        """
        `[k]`: their log-probabilities.
        """

@final
class SampledRows:
    """
    What each row of logits is for, as parallel arrays.
    """
    @property
    def history_output_len(self, /) -> NDArray[int32]:
        """
        `[num_sampled]`: output tokens there.
        """
    @property
    def history_prompt_len(self, /) -> NDArray[int32]:
        """
        `[num_sampled]`: prompt tokens there; 0 where sampling needs no history.
        """
    @property
    def history_start(self, /) -> NDArray[int32]:
        """
        `[num_sampled]`: where the row's tokens begin in `Batch.history`, prompt first.
        """
    @property
    def is_argmax(self, /) -> NDArray[bool_]:
        """
        `[num_sampled]`: whether the row's token is that of the largest logit, and nothing else is asked of it.
        """
    @property
    def is_plain(self, /) -> NDArray[bool_]:
        """
        `[num_sampled]`: whether the row is drawn by temperature, `top_k`, `top_p` and `min_p` alone, and nothing else is
        asked of it.
        """
    @property
    def is_scored(self, /) -> NDArray[bool_]:
        """
        `[num_sampled]`: whether the row scores a prompt token; the others draw the next token.
        """
    @property
    def min_p(self, /) -> NDArray[float32]:
        """
        `[num_sampled]`.
        """
    @property
    def num_output_tokens(self, /) -> NDArray[int32]:
        """
        `[num_sampled]`: output tokens so far.
        """
    @property
    def num_tokens_left(self, /) -> NDArray[int32]:
        """
        `[num_sampled]`: how many tokens the request's `max_tokens` allows behind this one.
        """
    @property
    def params(self, /) -> list[SamplingParams]:
        """
        Parameters of each row, as objects: not for the hot path.
        """
    @property
    def positions(self, /) -> NDArray[int32]:
        """
        `[num_sampled]`: position of the token that is drawn or scored.
        """
    @property
    def seeds(self, /) -> NDArray[uint64]:
        """
        `[num_sampled]`: with the next two, the key of the random numbers.
        """
    @property
    def sequence_indices(self, /) -> NDArray[int32]:
        """
        `[num_sampled]`: which of the request's `n` sequences.
        """
    @property
    def sequences(self, /) -> NDArray[int32]:
        """
        `[num_sampled]`: index of the sequence in the batch.
        """
    @property
    def targets(self, /) -> NDArray[int32]:
        """
        `[is_scored.sum()]`: the tokens that are scored, in the order of their rows.
        """
    @property
    def temperature(self, /) -> NDArray[float32]:
        """
        `[num_sampled]`: as in the request, and so the next three.
        """
    @property
    def top_k(self, /) -> NDArray[int32]:
        """
        `[num_sampled]`: 0 keeps all.
        """
    @property
    def top_p(self, /) -> NDArray[float32]:
        """
        `[num_sampled]`.
        """

@final
class SamplingParams:
    """
    How a request's tokens are drawn: every value resolved. Raises `RequestError` with `field` for what cannot work.
    """
    def __eq__(self, value: object, /) -> bool: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __new__(
        cls,
        /,
        *,
        temperature: SupportsFloat | SupportsIndex = 1.0,
        top_k: SupportsIndex | None = None,
        top_p: SupportsFloat | SupportsIndex = 1.0,
        min_p: SupportsFloat | SupportsIndex = 0.0,
        top_n_sigma: SupportsFloat | SupportsIndex | None = None,
        typical_p: SupportsFloat | SupportsIndex = 1.0,
        xtc_probability: SupportsFloat | SupportsIndex = 0.0,
        xtc_threshold: SupportsFloat | SupportsIndex = 0.1,
        mirostat: tuple[SupportsFloat | SupportsIndex, SupportsFloat | SupportsIndex] | None = None,
        no_repeat_ngram_size: SupportsIndex = 0,
        dry: tuple[
            SupportsFloat | SupportsIndex,
            SupportsFloat | SupportsIndex,
            SupportsIndex,
            SupportsIndex | None,
            SupportsGetItem[int, SupportsIndex],
        ]
        | None = None,
        presence_penalty: SupportsFloat | SupportsIndex = 0.0,
        frequency_penalty: SupportsFloat | SupportsIndex = 0.0,
        repetition_penalty: SupportsFloat | SupportsIndex = 1.0,
        min_tokens: SupportsIndex = 0,
        max_tokens: SupportsIndex = 256,
        eos_token_ids: SupportsGetItem[int, SupportsIndex] = ...,
        stop_token_ids: SupportsGetItem[int, SupportsIndex] = ...,
        logit_bias: SupportsGetItem[int, tuple[SupportsIndex, SupportsFloat | SupportsIndex]] = ...,
        allowed_token_ids: SupportsGetItem[int, SupportsIndex] | None = None,
        bad_words: SupportsGetItem[int, SupportsGetItem[int, SupportsIndex]] = ...,
        logprobs: SupportsIndex | None = None,
        prompt_logprobs: SupportsIndex | None = None,
        prompt_logprobs_start: SupportsIndex = 0,
        logprobs_mode: str = "raw",
    ) -> SamplingParams:
        """
        `mirostat` is `(tau, eta)`; `dry` is `(multiplier, base, allowed_length, last_n, breaker_ids)`.
        """
    def __repr__(self, /) -> str: ...
    @property
    def allowed_token_ids(self, /) -> list[int] | None:
        """
        If present, only these tokens may be drawn.
        """
    @property
    def bad_words(self, /) -> list[list[int]]:
        """
        Token runs that may not be completed.
        """
    @property
    def eos_token_ids(self, /) -> list[int]:
        """
        End-of-sequence tokens, ascending.
        """
    @property
    def frequency_penalty(self, /) -> float:
        """
        Subtracted per occurrence in the generated tokens.
        """
    @property
    def logit_bias(self, /) -> list[tuple[int, float]]:
        """
        Added to logits, by token, ascending.
        """
    @property
    def logprobs(self, /) -> int | None:
        """
        Log-probabilities of the best `k` per output token.
        """
    @property
    def logprobs_mode(self, /) -> str:
        """
        `"raw"` or `"processed"`.
        """
    @property
    def max_tokens(self, /) -> int:
        """
        Most tokens to generate.
        """
    @property
    def min_p(self, /) -> float:
        """
        Keep tokens with at least this share of the best one's probability.
        """
    @property
    def min_tokens(self, /) -> int:
        """
        Stop tokens are masked until this many tokens were generated.
        """
    @property
    def mirostat(self, /) -> tuple[float, float] | None:
        """
        Wanted surprise in bits, and how fast the limit follows.
        """
    @property
    def no_repeat_ngram_size(self, /) -> int:
        """
        Runs of so many tokens do not occur twice.
        """
    @property
    def presence_penalty(self, /) -> float:
        """
        Subtracted once from every generated token's logit.
        """
    @property
    def prompt_logprobs(self, /) -> int | None:
        """
        The same per prompt token.
        """
    @property
    def prompt_logprobs_start(self, /) -> int:
        """
        First prompt position that is scored.
        """
    @property
    def repetition_penalty(self, /) -> float:
        """
        Divides positive and multiplies negative logits of all tokens so far.
        """
    @property
    def stop_token_ids(self, /) -> list[int]:
        """
        Further stop tokens, ascending.
        """
    @property
    def temperature(self, /) -> float:
        """
        0 is greedy.
        """
    @property
    def top_k(self, /) -> int | None:
        """
        Keep the `k` most likely; `None` keeps all.
        """
    @property
    def top_n_sigma(self, /) -> float | None:
        """
        Keep tokens whose logit is at most so many standard deviations below the best one's.
        """
    @property
    def top_p(self, /) -> float:
        """
        Keep the smallest set whose probability reaches this.
        """
    @property
    def typical_p(self, /) -> float:
        """
        Keep the set of this probability whose surprise is nearest to the entropy.
        """
    @property
    def xtc_probability(self, /) -> float:
        """
        How often XTC acts.
        """
    @property
    def xtc_threshold(self, /) -> float:
        """
        Tokens of at least this probability are XTC's.
        """

@final
class Scheduler:
    """
    Decides what runs next: requests in, batches out, results back.

    `now` is the time in seconds of `time.monotonic()`; without it the clock is read.
    """
    def __new__(
        cls,
        /,
        *,
        groups: SupportsGetItem[int, tuple[SupportsIndex, SupportsIndex | None]],
        max_num_seqs: SupportsIndex,
        max_num_batched_tokens: SupportsIndex,
        max_model_len: SupportsIndex,
        vocab_size: SupportsIndex,
        enable_prefix_caching: bool = True,
        num_speculative_tokens: SupportsIndex | None = None,
        prompt_lookup_max: SupportsIndex = 4,
        prompt_lookup_min: SupportsIndex = 1,
        num_model_tokens: SupportsIndex | None = None,
        rows_per_pass: SupportsIndex = 6,
        policy: str = "fcfs",
        steps_per_class: SupportsIndex = ...,
        input_weight: SupportsIndex = ...,
        output_weight: SupportsIndex = ...,
        patience_seconds: SupportsFloat | SupportsIndex = ...,
        background_tokens: SupportsIndex = ...,
        whole_prompts: bool = False,
        max_chunk: SupportsIndex | None = None,
        max_waiting: SupportsIndex | None = None,
        max_waiting_tokens: SupportsIndex | None = None,
        prefix_hash_key: tuple[SupportsIndex, SupportsIndex] | None = None,
    ) -> Scheduler:
        """
        An idle scheduler with an empty KV cache.

        `groups` holds `(num_blocks, window)` of each KV group of the program. `prefix_hash_key` is random unless given.

        With `num_speculative_tokens` a sequence's last `prompt_lookup_max` down to `prompt_lookup_min` tokens are
        looked up among its earlier ones, and up to that many tokens that followed are drafted, as long as the step has
        no more than `rows_per_pass` rows. With `num_model_tokens` a draft model stands beside it: `wanted_drafts` says what
        it is to draft, up to that many tokens, and `suggest` takes them.

        With `whole_prompts` every prompt is one step and nothing is kept of it: for models whose tokens see those behind
        them.

        `policy` is `"fcfs"`, `"priority"` (better by a class for every `steps_per_class` steps), `"fair"` (per tenant; a
        prompt token costs `input_weight`, a generated one `output_weight`) or `"deadline"` (a request without one has
        `patience_seconds`). Requests in the background get `background_tokens` of a step at most.
        """
    def cancel(
        self, /, request_id: SupportsIndex, now: SupportsFloat | SupportsIndex | None = None
    ) -> bool:
        """
        End a request with `finish_reason="abort"`, also while a step is in flight; whether it was alive.
        """
    def check_integrity(self, /) -> None:
        """
        Verify every invariant; `InternalError` with the first contradiction. For tests.
        """
    def discard_step(self, /) -> None:
        """
        The step failed or was interrupted: nothing of it counts, the next `schedule` plans it again.
        """
    def end_decision_log(self, /) -> str | None:
        """
        End the log of decisions, if there is one; why it ended earlier, if it could not be written.
        """
    def finish(
        self,
        /,
        request_id: SupportsIndex,
        sequence_index: SupportsIndex,
        reason: str,
        now: SupportsFloat | SupportsIndex | None = None,
        *,
        num_output_tokens: SupportsIndex | None = None,
    ) -> bool:
        """
        End one sequence, also while a step is in flight; whether it was alive. `reason` is `"stop"`, `"length"`,
        `"abort"`, `"error"`, `"deadline"` or `"abstain"`.

        With `num_output_tokens` it ends with that token: what the same step brought behind it goes, even if the
        sequence ended with that meanwhile.
        """
    def force(
        self,
        /,
        request_id: SupportsIndex,
        sequence_index: SupportsIndex,
        token_ids: SupportsGetItem[int, SupportsIndex],
    ) -> bool:
        """
        Tokens that certainly follow what a sequence has now: rows of its next step. What is drawn at their rows decides all
        the same. Forgotten once the sequence goes on; whether it was alive.
        """
    def has_work(self, /) -> bool:
        """
        Whether `schedule` would give a batch.
        """
    def is_finished(self, /, request_id: SupportsIndex) -> bool:
        """
        Whether every sequence of a request ended. `KeyError` as in `output`.
        """
    def log_decisions(self, /, path: str | PathLike[str]) -> None:
        """
        Write everything from now on to a new file: what this scheduler is told, and what it decides. `RequestError` if the
        file exists or cannot be made. For a scheduler that nothing was given to yet.
        """
    def num_output_tokens(self, /, request_id: SupportsIndex) -> int:
        """
        Tokens generated by all sequences of a request. `KeyError` as in `output`.
        """
    def output(self, /, request_id: SupportsIndex) -> RequestOutput:
        """
        A snapshot of a request's results. `KeyError` if it is unknown or was taken.
        """
    def overdue(self, /) -> Events:
        """
        What happened without a step: requests that ended at their deadline when `schedule` had nothing else to do.
        Otherwise `update` tells of them.
        """
    def schedule(self, /, now: SupportsFloat | SupportsIndex | None = None) -> Batch | None:
        """
        Plan a step; `None` if there is nothing to do. A step still in flight is discarded.
        """
    def sequence_since(
        self, /, request_id: SupportsIndex, sequence_index: SupportsIndex, start: SupportsIndex
    ) -> SequenceOutput:
        """
        One sequence of a request, from its token `start` on. `KeyError` as in `output`.
        """
    @property
    def sequences(self, /) -> HeldSequences:
        """
        The sequences that are held between requests.
        """
    def stats(self, /) -> SchedulerStats:
        """
        Counters now.
        """
    def status(self, /, request_id: SupportsIndex) -> str:
        """
        `"waiting"`, `"running"`, `"preempted"` or `"finished"`. `KeyError` as in `output`.
        """
    def submit(
        self,
        /,
        prompt: NDArray[int32],
        params: SamplingParams,
        *,
        n: SupportsIndex = 1,
        seed: SupportsIndex = 0,
        cache_salt: str | None = None,
        priority: SupportsIndex = 0,
        background: bool = False,
        tenant: str | None = None,
        deadline: SupportsFloat | SupportsIndex | None = None,
        closes: bool = False,
        speculation: bool = True,
        draft_model: bool = True,
        sequence: SupportsIndex | None = None,
        keep: bool = False,
        captures: SupportsGetItem[int, tuple[SupportsIndex, str]] = ...,
        capture_start: SupportsIndex = 0,
        second_segment: SupportsIndex | None = None,
        adapter: SupportsIndex = 0,
        now: SupportsFloat | SupportsIndex | None = None,
    ) -> int:
        """
        Queue a request; its id. Raises `RequestError`, `PromptTooLongError` or `OverloadedError` at once.

        One in the `background` runs where all others leave room. It goes on from the held `sequence`, whose salt it has;
        with `keep` its tokens are the sequence's once it ended.
        `SequenceBusyError` if another such request runs. It is computed with the executor's `adapter` of that number, which
        is never given to another one: prefixes are shared only under it. At `deadline`, a moment like `now`, it ends with
        what it has; one that `closes` has a second more for that. Prompt lookup drafts for it where `speculation` says so,
        the draft model where `draft_model` does.

        Of the `captures`, by number and kind of rows (`"tokens"` from `capture_start` on, `"sequences"`, or `"sampled"`: the
        logits that `prompt_logprobs` scores and the first token is drawn from), the rows of the prompt are handed out:
        `RequestOutput.captures`. The second of two texts begins at `second_segment`.
        """
    def suggest(
        self, /, request_id: SupportsIndex, sequence_index: SupportsIndex, token_ids: NDArray[int32]
    ) -> bool:
        """
        Tokens that the draft model thinks follow what a sequence has now; false if it has ended or wants none. What is
        drawn at their rows decides.
        """
    def take(self, /, request_id: SupportsIndex) -> RequestOutput:
        """
        Remove a finished request; its results. `KeyError` if it is unknown, was taken, or is not finished.
        """
    def tenants(self, /) -> list[tuple[str | None, int, int, int]]:
        """
        Weighted tokens that each tenant got under fair share, `(tenant, service, num_seqs, num_waiting_seqs)`, as far as
        they are remembered: tenants with something to do, and those that are ahead. In order of the names.
        """
    def tokens_since(
        self, /, request_id: SupportsIndex, sequence_index: SupportsIndex, start: SupportsIndex
    ) -> NDArray[int32]:
        """
        Tokens of one sequence of a request, prompt and output, from its `start`-th on. `KeyError` as in `output`.
        """
    def update(
        self, /, output: StepOutput, now: SupportsFloat | SupportsIndex | None = None
    ) -> Events:
        """
        Account for the result of the step in flight.
        """
    def wanted_drafts(self, /) -> list[tuple[int, int, int, int]]:
        """
        What the draft model is to draft before the next step: `(request_id, sequence_index, num_tokens, num_drafts)` of
        sequences that have `num_tokens` tokens now, of which the next step has rows for `num_drafts` more. To be asked once
        per step.
        """
    def why_waiting(self, /, request_id: SupportsIndex) -> "dict[str, object] | None":
        """
        Why a request does not run, as a plain dict; `None` if it runs, has ended, or is unknown. `reason` is that of the
        latest step: `"blocks"`, `"max_num_seqs"`, `"token_budget"`, `"preemption"` or `None`. What its place in the queue
        comes from is said by `policy` and, by policy, `priority` and `effective_priority`, `service` and `least_service`
        (weighted tokens of its tenant, and of the one that was served least), or `due` and `has_deadline`.
        """

@final
class SchedulerStats:
    """
    The scheduler at one moment, and sums since it was made.
    """
    @property
    def groups(self, /) -> list[tuple[int, int, int, int]]:
        """
        Blocks of each KV group: all, used, free, cached (used or free).
        """
    @property
    def num_accepted_tokens(self, /) -> int:
        """
        Of these, tokens that were drawn.
        """
    @property
    def num_cached_tokens(self, /) -> int:
        """
        Of these, found in the prefix cache.
        """
    @property
    def num_drafted_tokens(self, /) -> int:
        """
        Tokens drafted, as far as the model verified them.
        """
    @property
    def num_evictions(self, /) -> int:
        """
        Held sequences that lost their blocks.
        """
    @property
    def num_finished(self, /) -> int:
        """
        Requests finished, for whatever reason.
        """
    @property
    def num_held_blocks(self, /) -> int:
        """
        References to blocks that they hold; forks share.
        """
    @property
    def num_held_seqs(self, /) -> int:
        """
        Held sequences.
        """
    @property
    def num_model_accepted_tokens(self, /) -> int:
        """
        Of these, tokens that were drawn.
        """
    @property
    def num_model_drafted_tokens(self, /) -> int:
        """
        Of the drafted tokens, those of the draft model.
        """
    @property
    def num_output_tokens(self, /) -> int:
        """
        Tokens generated.
        """
    @property
    def num_preempted_seqs(self, /) -> int:
        """
        Of these, preempted.
        """
    @property
    def num_preemptions(self, /) -> int:
        """
        Sequences that lost their blocks while their request ran.
        """
    @property
    def num_prompt_tokens(self, /) -> int:
        """
        Prompt tokens of all requests that ever ran.
        """
    @property
    def num_requests(self, /) -> int:
        """
        Requests accepted.
        """
    @property
    def num_running_seqs(self, /) -> int:
        """
        Sequences with blocks.
        """
    @property
    def num_scheduled_tokens(self, /) -> int:
        """
        Tokens planned, discarded steps included.
        """
    @property
    def num_steps(self, /) -> int:
        """
        Steps planned.
        """
    @property
    def num_waiting_requests(self, /) -> int:
        """
        Requests never scheduled yet.
        """
    @property
    def num_waiting_seqs(self, /) -> int:
        """
        Living sequences without blocks.
        """
    @property
    def num_waiting_tokens(self, /) -> int:
        """
        Their prompt tokens.
        """

@final
class SequenceOutput:
    """
    One of a request's sequences.
    """
    @property
    def finish_reason(self, /) -> str | None:
        """
        `"stop"`, `"length"`, `"abort"`, `"error"`, or `None` while it lives.
        """
    @property
    def logprobs(self, /) -> list[RowLogprobs]:
        """
        Parallel to `token_ids`; empty unless log-probabilities were asked for.
        """
    @property
    def stop_token_id(self, /) -> int | None:
        """
        The stop token that ended it, if one did.
        """
    @property
    def token_ids(self, /) -> NDArray[int32]:
        """
        Generated tokens, an end or stop token included.
        """

@final
class StepOutput:
    """
    The result of one step, parallel to the batch's rows of logits.
    """
    def __new__(
        cls,
        /,
        token_ids: NDArray[int32],
        *,
        failed: NDArray[bool_] | None = None,
        logprobs: NDArray[float32] | None = None,
        ranks: NDArray[int32] | None = None,
        top_ids: NDArray[int32] | None = None,
        top_logprobs: NDArray[float32] | None = None,
    ) -> StepOutput:
        """
        The result of an executor in Python.

        `token_ids` `[num_sampled]` holds the drawn token, or the target of a scored row; `failed` `[num_sampled]` the
        rows whose logits were not numbers. Where a row of the batch asks for log-probabilities, all rows give them:
        `logprobs` and `ranks` `[num_sampled]`, `top_ids` and `top_logprobs` `[num_sampled, k]`.
        """
    @property
    def failed(self, /) -> NDArray[bool_]:
        """
        `[num_sampled]`: rows whose logits were not numbers.
        """
    @property
    def logits(self, /) -> list[NDArray[float32]]:
        """
        `[k]` arrays `[vocab_size]`: the model's own logits of these rows.
        """
    @property
    def logits_rows(self, /) -> NDArray[int32]:
        """
        `[k]`: rows whose logits are handed out, ascending; see `Batch.want_logits`.
        """
    @property
    def token_ids(self, /) -> NDArray[int32]:
        """
        `[num_sampled]`.
        """

@final
class TextStreams:
    """
    The text of all running requests, by key: decoding and stop strings, advanced in one call per engine step.
    """
    def __len__(self, /) -> int: ...
    def __new__(cls, /, tokenizer: Tokenizer) -> TextStreams:
        """
        A pool without streams.
        """
    def advance(
        self, /, keys: "NDArray[uint64]", token_ids: "NDArray[int32]"
    ) -> "tuple[list[tuple[int, int, int]], list[tuple[int, int, Exception]]]":
        """
        Append token `token_ids[i]` to stream `keys[i]`, for all i in order.

        Returns `(stops, failures)`: `stops` lists `(key, i, which)` for each stream whose text has just ended with its
        stop string number `which`; `failures` lists `(key, i, error)` for tokens that could not be decoded.
        """
    def finish(self, /, key: SupportsIndex) -> None:
        """
        End a stream's text: what was held back for a stop string becomes visible.
        """
    def insert(
        self,
        /,
        key: SupportsIndex,
        *,
        stop: SupportsGetItem[int, str] = ...,
        include_stop: bool = False,
        skip_special: bool = True,
        continues: bool = False,
        min_tokens: SupportsIndex = 0,
    ) -> None:
        """
        Begin a stream. The text of its first `min_tokens` tokens cannot contain a stop string.
        """
    def remove(self, /, key: SupportsIndex) -> bool:
        """
        Forget a stream; whether there was one.
        """
    def take_text(self, /, key: SupportsIndex) -> str:
        """
        The text of a stream that has become certain since the last call.
        """

@final
class Timestamps:
    """
    When things happened, in seconds of `time.monotonic()`; `None` for what has not happened.
    """
    @property
    def arrival(self, /) -> float:
        """
        Submitted.
        """
    @property
    def finished(self, /) -> float | None:
        """
        The last sequence ended.
        """
    @property
    def first_scheduled(self, /) -> float | None:
        """
        First step that holds a token of it.
        """
    @property
    def first_token(self, /) -> float | None:
        """
        First generated token.
        """
    @property
    def last_token(self, /) -> float | None:
        """
        Latest generated token.
        """
    @property
    def prefill_done(self, /) -> float | None:
        """
        The prompt's last token was computed.
        """

@final
class Tokenizer:
    """
    Text to token ids and back. Immutable; any thread may use it.
    """
    @property
    def add_bos(self, /) -> bool:
        """
        Whether `add_special` puts BOS first.
        """
    @property
    def add_eos(self, /) -> bool:
        """
        Whether `add_special` puts EOS last.
        """
    @property
    def bos_id(self, /) -> int | None:
        """
        The token that begins a text.
        """
    def decode(self, /, token_ids: Any, *, skip_special: bool = True) -> str:
        """
        The text of token ids. Bytes that are no UTF-8 become U+FFFD.
        """
    def encode(
        self, /, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> NDArray[int32]:
        """
        The ids of `text`.

        `add_special` puts BOS and EOS where the vocabulary wants them. `parse_special` reads the names of control tokens in
        the text (`<|im_end|>`) as those tokens; leave it off for text that users write.
        """
    def encode_segments(
        self, /, first: str, second: str | None = None, *, max_tokens: SupportsIndex | None = None
    ) -> tuple[NDArray[int32], int | None, int]:
        """
        The ids of one text, or of two that an encoder reads together, with the special tokens around them; where the
        second one begins, if the vocabulary tells them apart; and how many tokens the last text lost, so that there
        are at most `max_tokens`.
        """
    @property
    def end_ids(self, /) -> list[int]:
        """
        All tokens after which a model has nothing more to say, ascending: EOS, end of turn, and their like.
        """
    @property
    def eos_id(self, /) -> int | None:
        """
        The token that ends a text.
        """
    @property
    def eot_id(self, /) -> int | None:
        """
        The token that ends a turn of a chat, where the file names one.
        """
    @staticmethod
    def from_gguf(weights: Weights) -> Tokenizer:
        """
        From the metadata of a GGUF file.
        """
    @staticmethod
    def from_json(json: bytes, config: bytes | None = None) -> Tokenizer:
        """
        From the bytes of a `tokenizer.json` and, if there is one, of the `tokenizer_config.json` beside it.
        """
    def id_to_token(self, /, token_id: SupportsIndex) -> str | None:
        """
        The token as the vocabulary writes it (`Ġhello`, `▁hello`). `None`: there is no such token.
        """
    @property
    def pad_id(self, /) -> int | None:
        """
        The token that fills batches.
        """
    @property
    def special_ids(self, /) -> list[int]:
        """
        All ids that `skip_special` skips, ascending.
        """
    def token_bytes(self, /, token_id: SupportsIndex) -> bytes | None:
        """
        The bytes of a token as they stand in the output; they may be part of a character. `None`: there is no such token.
        """
    def token_to_id(self, /, token: str) -> int | None:
        """
        The id of a token as the vocabulary writes it. `None`: there is no such token.
        """
    @property
    def unknown_id(self, /) -> int | None:
        """
        The token for what the vocabulary cannot express.
        """
    @property
    def vocab_size(self, /) -> int:
        """
        One more than the largest token id.
        """

@final
class Weight:
    """
    A weight of a program that is being recorded.
    """
    @property
    def name(self, /) -> str:
        """
        Canonical name.
        """

@final
class Weights:
    """
    An opened checkpoint: a `.gguf` file, a `.safetensors` file or its shards. Immutable; any thread may use it.
    """
    def array(self, /, name: str) -> "NDArray[float32]":
        """
        The tensor as float32, dequantized, in memory of its own. `KeyError` if there is no such tensor.
        """
    def check_unchanged(self, /) -> None:
        """
        Raise `ModelFormatError` if a mapped file was truncated or extended since it was opened.
        """
    @property
    def files(self, /) -> list[str]:
        """
        Paths of the opened files.
        """
    @property
    def format(self, /) -> str:
        """
        `"gguf"` or `"safetensors"`.
        """
    @staticmethod
    def from_bytes(name: str | PathLike[str], data: bytes) -> Weights:
        """
        Read a checkpoint of one file from memory; `name` stands for its path in errors.
        """
    def info(self, /, name: str) -> "tuple[str, tuple[int, ...]]":
        """
        Name of the tensor's type and its shape, outermost dimension first. `KeyError` if there is no such tensor.
        """
    @property
    def is_mapped(self, /) -> bool:
        """
        Whether the files are mapped into memory.
        """
    def metadata(self, /) -> "dict[str, object]":
        """
        Metadata as plain Python values, without arrays of more than 1,024 elements: see `metadata_value`.
        """
    def metadata_length(self, /, key: str) -> int | None:
        """
        How many elements the array of `key` has; `None` if there is no such array.
        """
    def metadata_string(self, /, key: str, index: SupportsIndex) -> str | None:
        """
        One element of an array of strings, without converting the others; `None` if there is no such element.
        """
    def metadata_value(self, /, key: str) -> "object | None":
        """
        The metadata value of `key`, of whatever length; `None` if there is no such key.
        """
    @property
    def names(self, /) -> list[str]:
        """
        Names of all tensors, in the order of the files.
        """
    @staticmethod
    def open(path: str | PathLike[str], *, mmap: bool = True) -> Weights:
        """
        Open a `.gguf` file, a `.safetensors` file, a `*.index.json` of shards, or a folder with one of them.

        Reads headers only, unless `mmap` is off: then all bytes are read into memory, and a file that is truncated
        later cannot end the process.
        """
    def raw(self, /, name: str) -> NDArray[uint8]:
        """
        The tensor's bytes as they are in the file, read-only and not copied; the array keeps the checkpoint open.
        """
    def release(self, /, name: str) -> None:
        """
        Give the memory pages of a mapped tensor back to the system; it is read from the file again when it is used.
        """
    @property
    def total_bytes(self, /) -> int:
        """
        Bytes of all tensors together, as stored.
        """

def dequantize(dtype: "str", data: "NDArray[uint8]") -> "NDArray[float32]":
    """
    Turn whole blocks of a type (`"Q4_K"`, `"BF16"` …) into float32.
    """

def read_tokenizer_config(json: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """
    What a `tokenizer_config.json` says, as (special tokens by name, chat templates by name).

    Special tokens are those of `bos_token`, `eos_token`, `unk_token` and `pad_token` that are set. A single chat template
    has the name `default`.
    """

def replay_decisions(
    path: str | PathLike[str], *, max_bytes: SupportsIndex = ...
) -> "dict[str, object]":
    """
    Replay a decision log through a fresh scheduler and verify that every decision comes out the same; what the log held,
    as a plain dict. `DecisionLogError` if it is damaged, `ReplayError` if something else comes out. A log whose scheduler
    would need more than `max_bytes` is refused.
    """

def set_error_classes(classes: "dict[str, Any]") -> None:
    """
    Receive the exception classes of `errors.py`, by name. Called once, at import.
    """

"""What a caller sees of a result, but for times and counts; and of a stream of it."""

from __future__ import annotations

from tests.unit.fakes import assert_idle


def shape(completion):
    return [
        (
            *(out.text, out.token_ids, out.logprobs),
            *(out.finish_reason, out.stop_reason, out.confidence),
        )
        for out in completion.outputs
    ]


def assert_stream(stream, expected):
    """The deltas of a stream add up to what is expected."""
    deltas = list(stream)
    assert shape(stream.completion) == expected
    for index, (text, token_ids, logprobs, reason, stop_reason, _) in enumerate(expected):
        mine = [delta for delta in deltas if delta.index == index]
        assert "".join(delta.text for delta in mine) == text
        assert [token for delta in mine for token in delta.token_ids] == token_ids
        rows = [row for delta in mine for row in delta.logprobs or ()]
        assert rows == (logprobs or [])
        assert (mine[-1].finish_reason, mine[-1].stop_reason) == (reason, stop_reason)


def assert_answers(model, expected, **options):
    """A call and a stream give what is expected, and leave nothing behind."""
    assert shape(model.generate("x", **options)) == expected
    assert_stream(model.stream("x", **options), expected)
    assert_idle(model)

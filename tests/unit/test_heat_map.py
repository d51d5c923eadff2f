"""Completions as HTML: well-formed, escaped, and redder where the model was less sure."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

from tests.unit.fakes import fake_model
from tests.unit.test_completion import output

from inferlib import Logprob
from inferlib.heat_map import MAX_TOKENS, heat_map

HOSTILE = "<script>alert(1)</script>&amp;\"'\x00\ud800\n"


class Reader(HTMLParser):
    """The text and the attributes of HTML whose tags must match."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text, self.titles, self.alphas = [], set(), "", [], []
        self.feed(html)
        self.close()
        assert self.open == []
        html.encode()  # no lone surrogates

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.add(tag)
        values = dict(attributes)
        self.titles += [values["title"]] if "title" in values else []
        self.alphas += (
            [float(a) for a in re.findall(r"rgba\(.*,([\d.]+)\)", values["style"] or "")]
            if "style" in values
            else []
        )

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(*outputs, prompt=None):
    return Reader(heat_map(prompt, outputs))


def test_everything_a_model_wrote_is_escaped():
    row = {5: Logprob(-0.5, 1, HOSTILE), 6: Logprob(-1.0, 2, HOSTILE)}
    shown = read(output(0, HOSTILE, token_ids=[5], logprobs=[row]), prompt=HOSTILE)
    assert shown.tags == {"div", "details", "summary", "span"}
    assert shown.text.count("<script>alert(1)</script>&amp;\"'��") == 2
    assert "<script>" in shown.titles[0]
    plain = read(output(0, HOSTILE, logprobs=None))
    assert plain.tags == {"div"}
    assert "<script>alert(1)</script>" in plain.text


def test_the_less_likely_the_redder():
    rows = [{5: Logprob(math.log(p), 1, "x")} for p in (1.0, 0.5, 0.01)]
    shown = read(output(0, token_ids=[5, 5, 5], logprobs=rows))
    assert shown.alphas == [0.0, 0.38, 0.74]
    assert "50.0%, rank 1, token 5" in shown.titles[1]
    assert "confidence 0.171" in shown.text


def test_tokens_without_text_or_names_are_seen():
    rows = [{5: Logprob(-1, 1, "")}, {6: Logprob(-math.inf, 9, None)}, {7: Logprob(-1, 1, "\n")}]
    shown = read(output(0, token_ids=[5, 6, 7], logprobs=rows))
    assert "∅[6]↵\n" in shown.text


def test_a_long_output_is_cut_and_says_so():
    count = MAX_TOKENS + 7
    rows = [{5: Logprob(-1, 1, "x")}] * count
    shown = read(output(0, token_ids=[5] * count, logprobs=rows))
    assert len(shown.titles) == MAX_TOKENS
    assert "7 more tokens" in shown.text


def test_several_outputs_are_numbered_and_notebooks_find_it():
    with fake_model() as model:
        html = model.generate("hi", n=2, max_tokens=9, logprobs=2)._repr_html_()
    shown = Reader(html)
    assert "output 1, 9 tokens, finish_reason length" in shown.text
    assert len(shown.titles) == 18

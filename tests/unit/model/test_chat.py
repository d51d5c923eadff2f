"""``Model.chat``: messages through the template."""

from __future__ import annotations

from typing import ClassVar

import pytest
from tests.unit.fakes import BOS, fake_model

from inferlib.errors import (
    RequestError,
    TemplateError,
)


class TestChat:
    messages: ClassVar = [{"role": "user", "content": "hi"}]

    def test_the_template_writes_the_prompt_and_its_own_bos(self, model):
        completion = model.chat(self.messages, max_tokens=3)
        assert completion.prompt == "<s>[user]hi[assistant]"
        assert completion.prompt_token_ids == [BOS, *b"[user]hi[assistant]"]

    def test_many_conversations(self, model):
        completions = model.chat([self.messages, self.messages], max_tokens=2)
        assert len(completions) == 2

    def test_tools_and_template_keywords_reach_the_template(self, model):
        completion = model.chat(
            self.messages,
            tools=[{"name": "search"}],
            chat_template_kwargs={"thinking": False},
            max_tokens=1,
        )
        assert completion.prompt == "<s>[user]hi[tool]search[thinking=False][assistant]"

    def test_continue_final_message(self, model):
        messages = [*self.messages, {"role": "assistant", "content": "Well"}]
        completion = model.chat(messages, continue_final_message=True, max_tokens=1)
        assert completion.prompt.endswith("[assistant]Well")
        with pytest.raises(RequestError, match="continue_final_message"):
            model.chat(self.messages, continue_final_message=True)

    @pytest.mark.parametrize(
        "messages",
        ["hi", b"hi", {"role": "user"}, [], None, ["hi"], [{"content": "x"}], [{"role": "user"}]],
    )
    def test_malformed_messages(self, model, messages):
        with pytest.raises(RequestError, match=r"message") as raised:
            model.chat(messages)
        assert raised.value.field == "messages"

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
            ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
            ({"tools": "search"}, "tools"),
            ({"tools": [1]}, "tools"),
            ({"continue_final_message": 1}, "continue_final_message"),
        ],
    )
    def test_what_the_template_cannot_be_given(self, model, options, field):
        with pytest.raises(RequestError) as raised:
            model.chat(self.messages, **options)
        assert raised.value.field == field

    def test_a_model_without_template_or_tokenizer(self, model):
        model._parts.checkpoint.chat_template = None
        with pytest.raises(TemplateError, match="no chat template"):
            model.chat(self.messages)
        with fake_model(tokenizer=False) as other, pytest.raises(RequestError, match="tokenizer"):
            other.chat(self.messages)

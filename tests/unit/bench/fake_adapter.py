"""An engine that computes nothing, to be run by ``bench.peers.protocol``."""

from __future__ import annotations

import os

import numpy as np
from bench.divergence import TopLogprobs


def talk(text):
    os.write(1, f"{text}\n".encode())  # as native code does


class Engine:
    version = "fake 1"

    def __init__(self, model, *, threads, **options):
        talk("an engine that talks while it loads")
        if model == "broken":
            raise ValueError("this file\n/home/somebody/model.gguf is broken")
        self.threads, self.options = threads, options

    def first_token(self, text):
        talk(text)

    def prefill(self, prompt):
        talk("an engine that talks while it works")
        return len(prompt) * 0.25

    def decode(self, prompts, num_tokens):
        raise NotImplementedError(f"no batches of {len(prompts)}")

    def serve(self, prompts, num_tokens):
        del prompts, num_tokens
        os.write(2, b"the last words\n")
        os._exit(3)

    def score(self, token_ids, top):
        logits = np.zeros((len(token_ids) - 1, 8), np.float32)
        logits[:, self.threads] = 1
        return TopLogprobs.from_logits(logits, top)

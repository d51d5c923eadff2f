"""What does drafting gain where text repeats itself, and cost where it does not?

    python -m bench.drafting [--model smollm2|gemma] [--threads N] [--repeats 5] [--json FILE]
                             [--draft-model smollm2|gemma|PATH]

Every prompt is answered with drafting and without, in turns, by one model; the answers must be
equal. Figures are decoded tokens per second after the first one, medians over the repeats, and the
ratio of the two. With ``--draft-model`` the prompts are also answered with that model's drafts
alone, and with both kinds.

No two models of one vocabulary and of different sizes are at hand here. A model that drafts for
itself is always right where it is greedy and takes as long for a token as the model does: its ratio
is what drafting by a model costs at most, not what it gains.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import inferlib
from bench import machine, models

CODE = """class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from an empty stack")
        return self.items.pop()

    def __len__(self):
        return len(self.items)
"""
FRUIT = "apple banana cherry date elderberry fig grape honeydew kiwi lemon mango nectarine orange"
LIST = "\n".join(
    f"{i}. {name} (fresh, sold by the kilogram)" for i, name in enumerate(FRUIT.split(), 1)
)
TEXT = (
    "The committee met on Tuesday morning to discuss the new library building. Ms. Alvarez "
    "presented three designs, each with a different budget and schedule. The first design keeps "
    "the old reading room and adds a glass hall to the north side. The second replaces the whole "
    "building and moves the children's section to the ground floor. The third is the cheapest, "
    "but it would close the library for eleven months."
)
OWN_DRAFTS = (
    "the model drafts for itself: always right where it is greedy, and as slow as itself; no "
    "smaller model of its vocabulary is at hand, so this is what drafting by a model costs at most"
)
PROMPTS = {
    "repetitive": {
        "code": f"Repeat this code exactly, but rename the class to Pile:\n```python\n{CODE}```",
        "list": f"Copy this list, but write 'boxed' instead of 'fresh':\n{LIST}",
        "text": f"Repeat the following text word for word:\n{TEXT}",
        "typos": f"Fix the typos and print the whole text again:\n{TEXT}",
    },
    "ordinary": {
        "tcp": "What are the differences between TCP and UDP?",
        "story": "Tell me a story about a lighthouse keeper who finds a letter.",
        "ada": "Who was Ada Lovelace and why is she remembered?",
        "sky": "Explain in two sentences why the sky is blue.",
    },
}


def tokens_per_second(completion: inferlib.Completion) -> float:
    """Of the tokens after the first."""
    return completion.timings.tokens_per_second or 0.0


def measure(
    path: Path, draft_model: Path | None, threads: int | None, repeats: int, options: dict
) -> dict[str, object]:
    """Speeds by prompt, drafted and undrafted in turns."""
    ways = ["prompt_lookup", "off"]
    ways[:0] = [] if draft_model is None else ["draft_model", "auto"]
    rows: dict[str, dict[str, object]] = {}
    with inferlib.Model.from_pretrained(path, threads=threads, draft_model=draft_model) as model:
        for kind, prompts in PROMPTS.items():
            for name, prompt in prompts.items():
                messages = [{"role": "user", "content": prompt}]
                speeds: dict[str, list[float]] = {way: [] for way in ways}
                answers = {}
                for _ in range(repeats):
                    for speculation, values in speeds.items():
                        answer = model.chat(messages, speculation=speculation, **options)
                        values.append(tokens_per_second(answer))
                        answers[speculation] = answer
                undrafted = statistics.median(speeds["off"])
                for way in ways[:-1]:
                    assert answers[way].token_ids == answers["off"].token_ids
                    drafted, usage = statistics.median(speeds[way]), answers[way].usage
                    suffix = "" if way == "prompt_lookup" else f" {way}"
                    rows[f"{kind} {name}{suffix}"] = {
                        "drafted_tokens_per_second": drafted,
                        "undrafted_tokens_per_second": undrafted,
                        "ratio": drafted / undrafted,
                        "output_tokens": usage.output_tokens,
                        "drafted_tokens": usage.drafted_tokens,
                        "accepted_tokens": usage.accepted_tokens,
                    }
    ratios = {}
    for kind, prompts in PROMPTS.items():
        for way in ways[:-1]:
            suffix = "" if way == "prompt_lookup" else f" {way}"
            own = [rows[f"{kind} {name}{suffix}"]["ratio"] for name in prompts]
            ratios[f"{kind}{suffix.replace(' ', '_')}_ratio"] = statistics.geometric_mean(own)
    return {**ratios, "prompts": rows}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["smollm2", "gemma"], default="smollm2")
    parser.add_argument("--draft-model", help="smollm2, gemma, or a path")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    path = getattr(models, arguments.model)()
    draft_model = arguments.draft_model
    if draft_model is not None:
        known = {"smollm2": models.smollm2, "gemma": models.gemma}
        draft_model = known[draft_model]() if draft_model in known else Path(draft_model)
    options = {"temperature": 0, "max_tokens": arguments.max_tokens}
    result = {
        "model": path.name,
        "draft_model": None if draft_model is None else draft_model.name,
        "note": OWN_DRAFTS if draft_model == path else None,
        "threads": arguments.threads or machine.cores(),
        "read_bandwidth_gb_s": machine.read_bandwidth(arguments.threads),
        **measure(path, draft_model, arguments.threads, arguments.repeats, options),
        **machine.describe(),
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

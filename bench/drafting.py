"""What does drafting gain where text repeats itself, and cost where it does not?

    python -m bench.drafting [--model smollm2|gemma] [--threads N] [--repeats 5] [--json FILE]

Every prompt is answered with drafting and without, in turns, by one model; the answers must be
equal. Figures are decoded tokens per second after the first one, medians over the repeats, and the
ratio of the two.
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


def measure(path: Path, threads: int | None, repeats: int, options: dict) -> dict[str, object]:
    """Speeds by prompt, drafted and undrafted in turns."""
    rows: dict[str, dict[str, object]] = {}
    with inferlib.Model.from_pretrained(path, threads=threads) as model:
        for kind, prompts in PROMPTS.items():
            for name, prompt in prompts.items():
                messages = [{"role": "user", "content": prompt}]
                speeds: dict[str, list[float]] = {"auto": [], "off": []}
                answers = {}
                for _ in range(repeats):
                    for speculation, values in speeds.items():
                        answer = model.chat(messages, speculation=speculation, **options)
                        values.append(tokens_per_second(answer))
                        answers[speculation] = answer
                assert answers["auto"].token_ids == answers["off"].token_ids
                drafted, undrafted = (statistics.median(speeds[key]) for key in ("auto", "off"))
                usage = answers["auto"].usage
                rows[f"{kind} {name}"] = {
                    "drafted_tokens_per_second": drafted,
                    "undrafted_tokens_per_second": undrafted,
                    "ratio": drafted / undrafted,
                    "output_tokens": usage.output_tokens,
                    "drafted_tokens": usage.drafted_tokens,
                    "accepted_tokens": usage.accepted_tokens,
                }
    ratios = {
        f"{kind}_ratio": statistics.geometric_mean(
            row["ratio"] for name, row in rows.items() if name.startswith(kind)
        )
        for kind in PROMPTS
    }
    return {**ratios, "prompts": rows}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["smollm2", "gemma"], default="smollm2")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    path = getattr(models, arguments.model)()
    options = {"temperature": 0, "max_tokens": arguments.max_tokens}
    result = {
        "model": path.name,
        "threads": arguments.threads or machine.cores(),
        "read_bandwidth_gb_s": machine.read_bandwidth(arguments.threads),
        **measure(path, arguments.threads, arguments.repeats, options),
        **machine.describe(),
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

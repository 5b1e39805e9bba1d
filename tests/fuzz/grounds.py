"""A folder to play in: a model, rows, plugins, and every kind of path that a config may name by mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.data.tokenizers import tokenizer
from tests.models import tiny_model

HINGE = Path(__file__).resolve().parents[2] / "plugins" / "example" / "prefopt_example.py"
_COLOURS = ("red", "green", "blue", "white", "black", "yellow", "brown", "grey", "pink")


def lay_out(folder: Path) -> None:
    """What every case reads and none writes.

    model: a random Llama with a tokenizer.  pairs.jsonl, labels.jsonl, rankings.jsonl, chats.jsonl: nine good rows.
    plugins: hinge.py is good; raises.py, syntax.py, misspelt.py are not.  a_file, a_folder: what they say.
    """
    words = tokenizer("without_bos", "chatml")
    tiny_model("llama", vocab_size=len(words)).save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")
    pairs = [
        {
            "prompt": f"Tell me about {colour}.",
            "chosen": f" I like {colour} a lot",
            "rejected": f" {colour} is bad",
            "chosen_score": 2.5,
            "rejected_score": 1.0,
        }
        for colour in _COLOURS
    ]
    _write(folder / "pairs.jsonl", pairs)
    _write(
        folder / "labels.jsonl",
        [
            {"prompt": row["prompt"], "completion": row["chosen"], "label": index % 2 == 0}
            for index, row in enumerate(pairs)
        ],
    )
    _write(
        folder / "rankings.jsonl",
        [
            {
                "prompt": row["prompt"],
                "completions": [row["chosen"], row["rejected"], f" {index} or so"],
                "scores": [3, 2.5, -1],
            }
            for index, row in enumerate(pairs)
        ],
    )
    _write(
        folder / "chats.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": row["chosen"]},
                ]
            }
            for row in pairs
        ],
    )
    plugins = folder / "plugins"
    plugins.mkdir()
    good = HINGE.read_text(encoding="utf-8")
    (plugins / "hinge.py").write_text(good, encoding="utf-8")
    (plugins / "raises.py").write_text("raise RuntimeError('not today')\n")
    (plugins / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (plugins / "syntax.py").write_text("def (:\n")
    (plugins / "latin.py").write_bytes(b"# caf\xe9\n")
    (plugins / "misspelt.py").write_text(good.replace("prefopt_register_losses", "prefopt_register_loses"))
    (plugins / "takes_dpo.py").write_text(good.replace('name = "hinge_example"', 'name = "dpo"'))
    (folder / "a_folder").mkdir()
    (folder / "a_file").write_text("nothing\n")
    (folder / "empty.jsonl").write_text("")
    (folder / "binary.parquet").write_bytes(bytes(range(256)))
    (folder / "not_a_model").mkdir()
    (folder / "not_a_model" / "config.json").write_text("{}")
    (folder / "broken_model").mkdir()
    (folder / "broken_model" / "config.json").write_text('{"model_type": "llama"')


def filled_in(value: Any, **places: object) -> Any:
    """The value with `<name>` in its texts replaced by the place of that name."""
    if isinstance(value, dict):
        return {key: filled_in(item, **places) for key, item in value.items()}
    if isinstance(value, list):
        return [filled_in(item, **places) for item in value]
    if isinstance(value, str):
        for name, place in places.items():
            value = value.replace(f"<{name}>", str(place))
    return value


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

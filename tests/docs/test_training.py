"""docs/training.md says what is true."""

from __future__ import annotations

import re
from pathlib import Path

from prefopt.config import load_config
from prefopt.training import output
from prefopt.training.resume import MAY_CHANGE

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_config_is_valid(tmp_path):
    (found,) = re.findall(r"<!-- tested: config -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "pairs.yaml"
    path.write_text(found)
    assert load_config(path).checkpoints.keep_best == "reward_accuracy"


def test_every_file_of_the_output_folder_is_named():
    names = (output.CONFIG, output.METRICS, output.CHECKPOINTS, output.BEST, output.LAST_GOOD, output.LOSS_STATE)
    for name in (*names, output.RUN):
        assert f"`{name}" in PAGE


def test_what_may_change_on_resume_is_named():
    for key in MAY_CHANGE:
        assert f"`{key}`" in PAGE


def test_every_link_into_the_repository_exists():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE):
        assert (Path(__file__).resolve().parents[2] / "docs" / target).exists(), target

from __future__ import annotations

import pytest
import torch

import prefopt
from prefopt.weighted import WeightedSum

REGISTRY = prefopt.load_registry()


def batch():
    generator = torch.Generator().manual_seed(0)
    logps = -torch.rand(4, 3, generator=generator, dtype=torch.float64) * 50
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=logps[0],
        policy_rejected=logps[1],
        reference_chosen=logps[2],
        reference_rejected=logps[3],
        chosen_lengths=torch.tensor([3, 5, 7]),
        rejected_lengths=torch.tensor([2, 2, 9]),
    )


def test_the_terms_of_each_part_keep_their_normalisers():
    dpo, sft = REGISTRY.loss("dpo"), REGISTRY.loss("sft")
    output = WeightedSum(((1.0, dpo), (0.2, sft)))(batch())
    assert set(output.terms) == {"dpo.loss", "sft.nll"}
    assert output.terms["sft.nll"][1].tolist() == [3.0, 5.0, 7.0]
    torch.testing.assert_close(output.losses, dpo(batch()).losses + 0.2 * sft(batch()).losses)


def test_metrics_carry_the_name_of_their_part():
    parts = ((1.0, REGISTRY.loss("dpo")), (0.5, REGISTRY.loss("dpo", beta=0.5)))
    metrics = WeightedSum(parts)(batch()).metrics
    assert {"dpo_1.chosen_reward", "dpo_2.chosen_reward"} <= set(metrics)


def test_needs_are_those_of_any_part_over_rows_all_accept():
    needs = WeightedSum(((1.0, REGISTRY.loss("dpo")), (0.2, REGISTRY.loss("sft")))).needs
    assert needs.rows == {"pairs"}
    assert needs.reference


def test_parts_that_share_no_rows_are_refused():
    with pytest.raises(prefopt.ConfigError, match="kto reads labels; sft reads demonstrations or pairs"):
        WeightedSum(((1.0, REGISTRY.loss("kto")), (1.0, REGISTRY.loss("sft"))))


def test_name_reads_as_a_sum():
    assert WeightedSum(((1.0, REGISTRY.loss("dpo")), (0.2, REGISTRY.loss("sft")))).name == "dpo + 0.2 sft"

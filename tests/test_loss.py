"""A loss as a value: what its hyper-parameters accept, what it declares, what it returns."""

import pydantic
import pytest
import torch

import prefopt


class Gap(prefopt.PairLoss):
    """The difference of the log-probs, times a scale."""

    name = "gap"
    scale: float = prefopt.field(1.0, gt=0, le=10, tune=(0.1, 10))
    num_rounds: int = prefopt.field(1, ge=1)
    flipped: bool = False

    def values(self, batch):
        gap = self.scale * (batch.rejected.policy - batch.chosen.policy)
        return prefopt.LossOutput(gap, metrics={"gap": gap})

    def reward(self, completions):
        return completions.policy


class Bare(prefopt.LabelLoss):
    """The log-prob, without any hyper-parameter."""

    name = "bare"

    def values(self, batch):
        return batch.completions.policy

    def reward(self, completions):
        return completions.policy


def batch(**changed):
    ones = torch.ones(2)
    inputs = {
        "policy_chosen": -3 * ones,
        "policy_rejected": -5 * ones,
        "chosen_lengths": ones,
        "rejected_lengths": ones,
    }
    return prefopt.PreferenceBatch.from_pairs(**inputs, **changed)


@pytest.mark.parametrize("value", [0, 0.0, -1.0, 10.5, 11, float("nan"), float("inf"), -float("inf")])
def test_number_out_of_range_is_refused_with_its_field_and_range(value):
    with pytest.raises(prefopt.ConfigError) as caught:
        Gap(scale=value)
    expected = f"loss gap: scale = {value!r}; it must be a number greater than 0 and at most 10 (default 1.0)"
    assert str(caught.value) == expected


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_number_without_an_upper_bound_is_still_finite(value):
    with pytest.raises(prefopt.ConfigError, match=rf"^loss dpo: beta = {value}; it must be a number greater than 0 \("):
        prefopt.get_loss("dpo", beta=value)


@pytest.mark.parametrize("value", [True, False, "0.1", None, [0.1]], ids=repr)
def test_value_of_another_type_is_refused_with_its_field_and_range(value):
    with pytest.raises(prefopt.ConfigError, match=r"^loss gap: scale = .*; it must be a number greater than 0 and at"):
        Gap(scale=value)


@pytest.mark.parametrize("value", [0, 1.5, "2", True])
def test_count_is_a_whole_number(value):
    with pytest.raises(
        prefopt.ConfigError, match=r"num_rounds = .*; it must be a whole number at least 1 \(default 1\)"
    ):
        Gap(num_rounds=value)


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_switch_takes_true_or_false_alone(value):
    with pytest.raises(prefopt.ConfigError, match=r"loss gap: flipped = .*valid boolean \(default False\)"):
        Gap(flipped=value)


def test_unknown_hyperparameter_is_refused_with_the_nearest_one():
    with pytest.raises(prefopt.ConfigError) as caught:
        Gap(scael=1.0)
    assert "loss gap has no field 'scael'; did you mean 'scale'" in str(caught.value)
    assert "it has: flipped, num_rounds, scale" in str(caught.value)


def test_unknown_hyperparameter_far_from_any_is_refused_with_the_list():
    with pytest.raises(prefopt.ConfigError, match=r"^loss gap has no field 'zzz'; it has: flipped, num_rounds, scale$"):
        Gap(zzz=1)
    with pytest.raises(prefopt.ConfigError, match=r"^loss bare has no field 'zzz'; it has: none$"):
        Bare(zzz=1)


def test_choice_is_refused_with_the_choices():
    with pytest.raises(
        prefopt.ConfigError, match="loss sft: nll = 'tokens'; it should be 'token', 'sequence' or 'sum'"
    ):
        prefopt.get_loss("sft", nll="tokens")


def test_whole_number_is_a_number():
    assert Gap(scale=2).scale == 2.0
    assert isinstance(Gap(scale=2).scale, float)


def test_loss_is_immutable():
    loss = Gap()
    for name in ("scale", "anything"):
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(loss, name, 2.0)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        del loss.scale
    assert loss == Gap()


def test_equal_losses_hash_alike():
    assert len({Gap(), Gap(scale=1), Gap(scale=2)}) == 2


def test_name_and_needs_are_no_hyperparameters():
    assert set(Gap.model_fields) == {"scale", "num_rounds", "flipped"}
    assert Gap.needs.rows == {"pairs"}
    assert Bare.needs.rows == {"labels"}
    assert prefopt.RankingLoss.needs.rows == {"rankings"}


def test_tuning_range_travels_with_the_field():
    assert Gap.model_json_schema()["properties"]["scale"]["tune"] == [0.1, 10]


@pytest.mark.parametrize("kind", [int, float])
def test_hyperparameter_without_a_range_is_refused_where_the_class_is_made(kind):
    with pytest.raises(
        prefopt.PluginError, match=r"loss class Loose: hyper-parameter 'beta' has no range; declare one"
    ):

        class Loose(prefopt.PairLoss):
            beta: kind = kind(1)


def test_loss_without_values_or_reward_cannot_be_made():
    class Half(prefopt.PairLoss):
        name = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_missing_closed_form_says_so():
    with pytest.raises(NotImplementedError, match="Gap gives no closed form"):
        Gap().gradient(batch())


def test_scalar_instead_of_one_value_a_row_is_refused():
    class Reduced(Gap):
        name = "reduced"

        def values(self, batch):
            return batch.chosen.policy.mean()

    with pytest.raises(
        prefopt.PluginError, match=r"loss reduced returned losses of shape \[\] for a batch of 2 rows; .* never reduces"
    ):
        Reduced()(batch())


def test_call_adds_rewards_and_detaches_every_metric():
    policy = -torch.ones(2, requires_grad=True)
    pairs = prefopt.PreferenceBatch.from_pairs(
        policy_chosen=policy, policy_rejected=policy * 2, chosen_lengths=torch.ones(2), rejected_lengths=torch.ones(2)
    )
    output = Gap()(pairs)
    assert set(output.metrics) == {"chosen_reward", "rejected_reward", "gap"}
    assert output.losses.requires_grad
    assert not any(metric.requires_grad for metric in output.metrics.values())


def test_absent_state_is_the_initial_state_and_a_given_one_is_kept():
    class Remembering(Gap):
        name = "remembering"

        def initial_state(self):
            return {"mean": torch.tensor(7.0)}

        def values(self, batch):
            mean = batch.state["mean"]
            return prefopt.LossOutput(batch.chosen.policy + mean, state={"mean": mean + 1})

    fresh = Remembering()(batch())
    assert (fresh.losses.tolist(), fresh.state["mean"].item()) == ([4, 4], 8)
    assert Remembering()(batch(state=fresh.state)).losses.tolist() == [5, 5]


@pytest.mark.parametrize(
    ("need", "sentence"),
    [
        ({"reference": True}, "loss gap needs reference log-probs; 'chosen' has none"),
        ({"scores": True}, "loss gap needs scores; 'chosen' has none"),
        ({"tokens": True}, "loss gap needs per-token log-probs; 'chosen' has none"),
        ({"mismatched": True}, "loss gap needs mismatched completions; the batch has none"),
    ],
)
def test_missing_input_is_refused_by_name(need, sentence):
    class Needy(Gap):
        needs = prefopt.Needs(rows={"pairs"}, **need)

    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Needy()(batch())


def test_loss_that_reads_several_kinds_lists_them_in_order():
    with pytest.raises(ValueError, match=r"^loss sft reads demonstrations or pairs; the batch holds labels$"):
        prefopt.get_loss("sft")(
            prefopt.PreferenceBatch.from_labels(
                policy=-torch.ones(1), lengths=torch.ones(1), desirable=torch.ones(1, dtype=torch.bool)
            )
        )


def test_losses_from_terms_are_the_sum_of_their_values():
    one, two = torch.ones(2), torch.full((2,), 2.0)
    output = prefopt.LossOutput.from_terms(nll=(one, two), ratio=(two, one))
    assert output.losses.tolist() == [3, 3]
    assert output.all_terms() is output.terms


def test_output_without_terms_is_one_term_with_normaliser_one():
    ((name, (values, normaliser)),) = prefopt.LossOutput(-torch.ones(2)).all_terms().items()
    assert (name, values.tolist(), normaliser.tolist()) == ("loss", [-1, -1], [1, 1])


def test_a_term_of_another_shape_is_refused():
    class Reduced(prefopt.PairLoss):
        name = "reduced"

        def values(self, batch):
            losses = batch.chosen.policy
            return prefopt.LossOutput(losses, terms={"all": (losses.sum(), torch.ones_like(losses))})

        def reward(self, completions):
            return completions.policy

    logps = torch.tensor([-1.0, -2.0])
    batch = prefopt.PreferenceBatch.from_pairs(
        policy_chosen=logps, policy_rejected=logps, chosen_lengths=-logps, rejected_lengths=-logps
    )
    with pytest.raises(prefopt.PluginError, match=r"values of term 'all' of shape \[\] for a batch of 2 rows"):
        Reduced()(batch)


def test_a_hyperparameter_named_weight_is_refused():
    with pytest.raises(prefopt.PluginError, match="'weight' would be taken"):

        class Weighted(prefopt.PairLoss):
            name = "weighted"
            weight: float = prefopt.field(1.0, gt=0)


@pytest.mark.parametrize("rates", [1e-6, (1e-6,), [5e-7, 1e-6], (1e-6, 5e-7), (0.0, 1e-6)])
def test_learning_rates_are_a_range(rates):
    with pytest.raises(prefopt.PluginError, match="loss class Odd: learning_rates = .* the lowest and the highest"):
        type("Odd", (prefopt.PairLoss,), {"name": "odd", "learning_rates": rates, "__module__": __name__})


def test_what_a_run_is_held_against_is_no_hyperparameter():
    class Recipe(prefopt.PairLoss):
        name = "recipe"
        learning_rates = (5e-7, 1e-6)
        on_length = "counts words"

        def values(self, batch):
            return batch.chosen.policy

        def reward(self, completions):
            return completions.policy

    assert Recipe.model_fields == {}
    assert Recipe().learning_rates == (5e-7, 1e-6)
    assert prefopt.PairLoss.learning_rates is None
    assert prefopt.PairLoss.on_length == ""

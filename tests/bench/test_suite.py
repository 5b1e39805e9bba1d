import pytest

import prefopt
from prefopt.bench.suite import built_in_suites, load_suite, method_of, to_yaml
from prefopt.errors import ConfigError, UnknownNameError

REGISTRY = prefopt.load_registry()
SUITE = "name: one\ntasks: {label_noise: {noise: [0.1, 0.2]}, rankings: {}}\nmethods: [dpo, ppo]\n"


@pytest.fixture
def loaded(tmp_path):
    def load(text=SUITE, overrides=()):
        path = tmp_path / "suite.yaml"
        path.write_text(text)
        return load_suite(str(path), overrides)

    return load


@pytest.mark.parametrize("name", sorted(built_in_suites()))
def test_every_built_in_suite_is_valid_and_named_like_its_file(name):
    suite = load_suite(name)
    assert suite.name == name
    assert suite.cells(REGISTRY)


def test_the_full_suite_has_every_loss_and_every_exact_task():
    cells = load_suite("full").cells(REGISTRY)
    assert {cell.method for cell in cells} == {*REGISTRY.losses, *REGISTRY.methods}
    assert {cell.task for cell in cells} == set(REGISTRY.tasks) - {"sentiment"}


def test_cells_are_the_product_of_tasks_knobs_methods_and_splits(loaded):
    cells = loaded().cells(REGISTRY)
    assert len(cells) == (2 + 1) * 2 * 2
    assert len({cell.id for cell in cells}) == len(cells)
    assert sorted({cell.knobs["noise"] for cell in cells if cell.task == "label_noise"}) == [0.1, 0.2]
    assert cells[0].knobs["depth"] == 6  # defaults are spelled out


def test_validation_and_held_out_seeds_do_not_meet(loaded):
    seeds = loaded(overrides=["held_out_seeds=1000"]).seeds
    assert not set(seeds["validation"]) & set(seeds["held_out"])


def test_every_method_gets_the_same_number_of_trials(loaded):
    suite = loaded(overrides=["methods=[dpo, simpo, kto, ppo, optimum]"])
    assert {len(cell.trials) for cell in suite.cells(REGISTRY)} == {16}


def test_checkpoints_are_halves_of_the_steps(loaded):
    assert loaded(overrides=["steps=100"]).budget.checkpoints == (12, 25, 50, 100)
    assert loaded(overrides=["steps=2"]).budget.checkpoints == (1, 2)


def test_the_name_of_a_suite_is_no_part_of_a_cells_identity(loaded):
    first, second = loaded(), loaded(SUITE.replace("name: one", "name: two"))
    assert [cell.id for cell in first.cells(REGISTRY)] == [cell.id for cell in second.cells(REGISTRY)]


def test_a_resolved_suite_reads_back(loaded):
    assert loaded(to_yaml(loaded())) == loaded()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SUITE.replace("methods", "method"), "unknown key 'method'; did you mean 'methods'?"),
        (SUITE + "trials: 0\n", "trials = 0"),
        (SUITE + "steps: many\n", "steps = 'many': it must be a whole number"),
        ("name: one\nmethods: [dpo]\n", "'tasks' is missing"),
        (SUITE.replace("name: one", "name: One Two"), "name = 'One Two'"),
        ("[", "not valid YAML"),
        ("- a", "a config is a mapping of keys to values, not list"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said(loaded, text, message):
    with pytest.raises(ConfigError) as error:
        loaded(text)
    assert message in str(error.value)
    assert "suite.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SUITE.replace("label_noise", "label_nose"), "unknown task 'label_nose'; did you mean 'label_noise'?"),
        (SUITE.replace("dpo", "dppo"), "unknown method 'dppo'; did you mean"),
        (SUITE.replace("{noise: [", "{nose: ["), "task label_noise has no knob 'nose'; did you mean 'noise'"),
        (SUITE.replace("[0.1, 0.2]", "0.6"), "task label_noise: noise = 0.6; it must be a number"),
        (SUITE.replace("[0.1, 0.2]", "a lot"), "task label_noise: noise = 'a lot'; it must be a number"),
    ],
)
def test_an_unknown_task_method_or_knob_is_an_error_before_anything_runs(loaded, text, message):
    with pytest.raises((ConfigError, UnknownNameError)) as error:
        loaded(text).cells(REGISTRY)
    assert message in str(error.value)


def test_an_unknown_suite_names_those_there_are():
    with pytest.raises(ConfigError, match="no suite 'quik'; did you mean 'quick'"):
        load_suite("quik")
    with pytest.raises(ConfigError, match="does not exist"):
        load_suite("nowhere/quick.yaml")


def test_an_override_that_is_none_is_an_error(loaded):
    with pytest.raises(ConfigError, match="not of the form key=value"):
        loaded(overrides=["trials"])


def test_a_method_is_a_loss_or_registered_as_such():
    assert method_of("dpo", REGISTRY).loss_class is REGISTRY.losses["dpo"]
    assert method_of("ppo", REGISTRY).name == "ppo"

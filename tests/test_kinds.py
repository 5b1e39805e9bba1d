"""What each kind of thing that plugins bring must declare: every fault of a declaration is one sentence."""

import math

import pytest

import prefopt
from prefopt import Knob, hookspecs
from prefopt.kinds import KINDS, LOSSES, METHODS, TASKS, is_name

NOISE = Knob(0.1, "noise", ge=0, lt=0.5)


def task(**changes):
    """A task class that is in order but for the changes; None takes a declaration away."""
    declared = {"name": "windy", "knobs": {"noise": NOISE}, "build": lambda self, seed, noise: seed, **changes}
    return type("Windy", (prefopt.Task,), {key: value for key, value in declared.items() if value is not None})


def method(**changes):
    declared = {"name": "shy", "tune": {"beta": (0.1, 1)}, "policies": lambda self, trials, worlds, budget: None}
    declared |= changes
    return type("Shy", (prefopt.Method,), {key: value for key, value in declared.items() if value is not None})


def sentence(kind, cls):
    with pytest.raises(prefopt.PluginError) as caught:
        kind.check(cls)
    return str(caught.value)


def test_there_is_a_hook_for_every_kind_and_no_other():
    hooks = {name for name, value in vars(hookspecs).items() if hasattr(value, "prefopt_spec")}
    assert hooks == {kind.hook for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.one)
def test_registry_and_plugin_hold_what_each_kind_brings(kind):
    assert hasattr(prefopt.load_registry(), kind.many)
    assert prefopt.Plugin("mine.py", "1", **{kind.many: ("one", "two")}).names(kind) == ("one", "two")


@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        (TASKS, task()),
        (TASKS, task(knobs=None, build=lambda self, seed: seed)),
        (TASKS, task(build=lambda self, seed, **knobs: seed)),
        (TASKS, task(knobs={"noise": Knob(None, "noise", gt=0)})),
        (METHODS, method()),
        (METHODS, method(tune=None)),
        (METHODS, method(tune={"alpha": (0, 1), "beta": (-1.0, 0.5)})),
        (LOSSES, prefopt.load_registry().loss_class("dpo")),
    ],
)
def test_what_is_in_order_passes(kind, cls):
    kind.check(cls)


@pytest.mark.parametrize(
    ("kind", "cls", "base"),
    [(TASKS, task, "Task"), (METHODS, method, "Method"), (LOSSES, lambda: prefopt.get_loss("dpo"), "Loss")],
)
def test_what_is_no_class_of_the_kind_is_refused(kind, cls, base):
    others = [task(), method(), prefopt.load_registry().loss_class("dpo")]
    wrong = [dict, "windy", None, cls, *(other for other in others if not issubclass(other, kind.base))]
    for given in wrong:
        assert sentence(kind, given) == f"{kind.hook} returned {given!r}, which is no subclass of prefopt.{base}"


@pytest.mark.parametrize(("kind", "make"), [(TASKS, task), (METHODS, method)], ids=["task", "method"])
def test_a_name_is_declared_and_one_lowercase_word(kind, make):
    this = f"{kind.one} class {make().__name__}"
    assert sentence(kind, make(name=None)) == f"{this} has no `name`"
    assert sentence(kind, make(name=3)) == f"{this} has no `name`"
    for name in ("two words", "Windy", "win-dy", "größe", "lambda", "", "3d"):
        fault = f"{this}: name {name!r} must be one lowercase word of letters, digits and _"
        assert sentence(kind, make(name=name)) == fault


def test_abstract_methods_must_be_defined():
    assert sentence(TASKS, task(build=None)) == "task class Windy does not define build"
    assert sentence(METHODS, method(policies=None)) == "method class Shy does not define policies"


@pytest.mark.parametrize(("kind", "make"), [(TASKS, task), (METHODS, method)], ids=["task", "method"])
def test_a_class_that_cannot_be_made_without_arguments_is_refused(kind, make):
    this = f"{kind.one} class {make().__name__}"
    assert sentence(kind, make(__init__=lambda self, size: None)) == (
        f"{this} must be made without arguments: missing a required argument: 'size'"
    )
    kind.check(make(__init__=lambda self, size=3: None))


@pytest.mark.parametrize("knobs", [[NOISE], "noise", 0.1])
def test_knobs_must_be_a_mapping(knobs):
    assert sentence(TASKS, task(knobs=knobs)) == (
        f"task class Windy: knobs is {knobs!r}; it must map names to prefopt.Knob"
    )


@pytest.mark.parametrize("knobs", [{"noise": 0.1}, {"noise": (0, 1)}, {3: NOISE}])
def test_knobs_must_map_names_to_knobs(knobs):
    ((name, knob),) = knobs.items()
    assert sentence(TASKS, task(knobs=knobs)) == (
        f"task class Windy: knobs has {name!r}: {knob!r}; it must map names to prefopt.Knob"
    )


@pytest.mark.parametrize(
    ("knob", "wanted"),
    [
        (Knob(0.7, "noise", ge=0, lt=0.5), "a number at least 0 and less than 0.5"),
        (Knob(0, "noise", gt=0), "a whole number greater than 0"),
        (Knob(True, "noise"), "a whole number"),
        (Knob((1, 2), "noise"), "a number"),
        (Knob("", "noise"), "a name or a path"),
    ],
)
def test_a_knob_must_accept_its_default(knob, wanted):
    fault = f"task class Windy: knob 'noise' has the default {knob.default!r}; it must be {wanted}"
    assert sentence(TASKS, task(knobs={"noise": knob})) == fault


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"build": lambda self, seed: seed}, "got an unexpected keyword argument 'noise'"),
        ({"build": lambda self, seed, noise, size: seed}, "missing a required argument: 'size'"),
        ({"build": lambda self, **knobs: 0}, "too many positional arguments"),
        ({"knobs": {"noise": NOISE, "seed": Knob(0, "seed")}}, "multiple values for argument 'seed'"),
    ],
)
def test_build_must_take_a_seed_and_every_knob(changes, why):
    fault = f"task class Windy: `build` must take a seed and every knob by name: {why}"
    assert sentence(TASKS, task(**changes)) == fault


@pytest.mark.parametrize("tune", [["beta"], (0.1, 1.0), None.__class__])
def test_tune_must_be_a_mapping(tune):
    fault = f"method class Shy: tune is {tune!r}; it must map names to (lowest, highest)"
    assert sentence(METHODS, method(tune=tune)) == fault


@pytest.mark.parametrize(
    "bounds",
    [
        0.1,
        "ab",
        (),
        (0.1,),
        (0.1, 0.2, 0.3),
        (1.0, 0.1),
        (1.0, 1.0),
        (0.1, math.inf),
        (math.nan, 1.0),
        (False, True),
        ("a", "b"),
        (None, 1.0),
        {0.1, 1.0},
    ],
)
def test_tune_must_map_names_to_two_numbers_in_order(bounds):
    assert sentence(METHODS, method(tune={"beta": bounds})) == (
        f"method class Shy: tune has 'beta': {bounds!r}; it must map names to (lowest, highest), two finite numbers "
        "in that order"
    )


def test_a_hyperparameter_to_tune_has_a_name():
    assert sentence(METHODS, method(tune={3: (0.1, 1.0)})).startswith("method class Shy: tune has 3: (0.1, 1.0); it")


@pytest.mark.parametrize("name", ["dpo", "r_dpo", "tdpo1", "a"])
def test_names_are_lowercase_words(name):
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "_dpo", "1dpo", "DPO", "r-dpo", "r dpo", "dpo\n", "größe", "lambda", "is"])
def test_other_words_are_no_names(name):
    assert not is_name(name)

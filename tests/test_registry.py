"""One door for every loss, method and task: entry points, plugin files, and what goes wrong with them.

The plugins are real: a folder with a module and a `.dist-info` on `sys.path` is all that importlib.metadata knows of an
installed distribution.
"""

import importlib.metadata
import re
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import prefopt
from prefopt import PluginError, UnknownNameError, load_registry
from prefopt.kinds import KINDS

ROOT = Path(__file__).parents[1]
OURS = {  # a file that registers nothing is shared by others
    kind: sorted(
        path.stem
        for path in (ROOT / "plugins" / f"prefopt_{kind.many}").glob("[!_]*.py")
        if f"def {kind.hook}" in path.read_text(encoding="utf-8")
    )
    for kind in KINDS
}
BUILT_IN = OURS[KINDS[0]]

LOSS = '''\
import prefopt


class {cls}(prefopt.PairLoss):
    """The gap, {cls}."""

    name = "{name}"
    beta: float = prefopt.field(0.1, gt=0)

    def values(self, batch):
        return self.beta * (batch.rejected.policy - batch.chosen.policy)

    def reward(self, completions):
        return completions.policy
'''
HOOK = """

@prefopt.hookimpl
def prefopt_register_losses():
    return [{}]
"""


def source(*names):
    """The source of a plugin that brings these losses."""
    body = "".join(LOSS.format(cls=name.title(), name=name) for name in names)
    return body + HOOK.format(", ".join(name.title() for name in names))


COOL = source("cool")

# It lacks an import, so that it can follow a loss.
METHOD = '''


class {cls}(prefopt.Method):
    """The reference, {cls}."""

    name = "{name}"
    tune = {{"beta": (0.1, 1.0)}}

    def policies(self, trials, worlds, budget):
        return worlds.logps.expand(len(trials), *worlds.logps.shape).unsqueeze(2)


@prefopt.hookimpl
def prefopt_register_methods():
    return [{cls}]
'''
TASK = '''


class {cls}(prefopt.Task):
    """A world that is its seed, {cls}."""

    name = "{name}"
    knobs = {{"noise": prefopt.Knob(0.1, "the noise", ge=0, lt=0.5)}}

    def build(self, seed, noise):
        return seed, noise


@prefopt.hookimpl
def prefopt_register_tasks():
    return [{cls}]
'''


def method_source(name):
    return "import prefopt\n" + METHOD.format(cls=name.title(), name=name)


def task_source(name):
    return "import prefopt\n" + TASK.format(cls=name.title(), name=name)


ALL_THREE = COOL + METHOD.format(cls="Shy", name="shy") + TASK.format(cls="Windy", name="windy")
SOURCES = {"loss": source, "method": method_source, "task": task_source}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution with these entry points and modules."""
    monkeypatch.syspath_prepend(tmp_path)
    installed = []

    def install(distribution, entry_points, **modules):
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        lines = [f"{name} = {target}" for name, target in entry_points.items()]
        info.joinpath("entry_points.txt").write_text("\n".join(["[prefopt]", *lines, ""]))
        for module, text in modules.items():
            tmp_path.joinpath(f"{module}.py").write_text(text)
            installed.append(module)

    yield install
    for module in installed:
        sys.modules.pop(module, None)


@pytest.fixture
def plugin_file(tmp_path):
    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def reasons(registry):
    return {plugin.name: plugin.error for plugin in registry.broken}


# What is built in ---------------------------------------------------------------------------------------------------


def test_every_entry_point_of_ours_loads():
    registry = load_registry()
    ours = {plugin.name: plugin for plugin in registry.plugins if plugin.name.startswith("prefopt:")}
    assert not reasons(registry)
    assert all(plugin.version == prefopt.__version__ for plugin in ours.values())
    for kind, names in OURS.items():
        for name in names:
            assert f"prefopt:{name}" in ours, f"no entry point {name}: after adding one, run `pip install -e .` again"
            brought = {other: ours[f"prefopt:{name}"].names(other) for other in KINDS}
            assert brought == {other: (name,) if other is kind else () for other in KINDS}


def test_file_class_and_entry_point_share_one_name():
    kinds = {f"prefopt_{kind.many}": kind for kind in KINDS}
    for point in importlib.metadata.distribution("prefopt").entry_points.select(group="prefopt"):
        package, _, module = point.value.partition(".")
        assert module == point.name
        assert [cls.name for cls in getattr(point.load(), kinds[package].hook)()] == [point.name]


def test_ours_without_their_entry_points_are_gone(install):
    """The folder stands before ours on the path, so that this `prefopt` is the one that is installed."""
    install("prefopt", {name: f"prefopt_losses.{name}" for name in BUILT_IN if name != "ipo"})
    registry = load_registry()
    assert set(registry.losses) == set(BUILT_IN) - {"ipo"}
    with pytest.raises(UnknownNameError, match="unknown loss 'ipo'"):
        registry.loss("ipo")


def test_no_entry_points_mean_nothing_at_all(install):
    install("prefopt", {})
    assert load_registry() == prefopt.Registry(losses={}, plugins=(), contested={})


# Third-party plugins -------------------------------------------------------------------------------------------------


def test_third_party_loss_comes_through_the_same_door(install):
    install("prefopt-cool", {"cool": "cool_plugin"}, cool_plugin=COOL)
    registry = load_registry()
    assert registry.loss("cool", beta=0.5).beta == 0.5
    plugin = registry.plugin_of("cool")
    assert (plugin.name, plugin.version, plugin.losses, plugin.error) == ("prefopt-cool:cool", "1.2", ("cool",), None)


def test_methods_and_tasks_come_through_the_same_door(install):
    install("prefopt-cool", {"cool": "cool_plugin"}, cool_plugin=ALL_THREE)
    registry = load_registry()
    assert not registry.broken
    assert registry.loss("cool", beta=0.5).beta == 0.5
    assert registry.methods["shy"].tune == {"beta": (0.1, 1.0)}
    assert registry.task("windy").build(3, **registry.tasks["windy"].settings({})) == (3, 0.1)
    plugin = registry.plugin_of("cool")
    assert (plugin.losses, plugin.methods, plugin.tasks) == (("cool",), ("shy",), ("windy",))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.one)
def test_a_plugin_need_not_bring_a_loss(install, kind):
    install("prefopt-cool", {"cool": "cool_plugin"}, cool_plugin=SOURCES[kind.one]("cool"))
    registry = load_registry()
    assert not registry.broken
    assert [other for other in KINDS if "cool" in getattr(registry, other.many)] == [kind]


def test_every_loss_is_a_method(install):
    install("prefopt-cool", {"cool": "cool_plugin"}, cool_plugin=ALL_THREE)
    registry = load_registry()
    assert registry.method_class("cool") is registry.losses["cool"]
    assert registry.method_class("shy") is registry.methods["shy"]
    assert registry.methods.keys().isdisjoint(registry.losses)


def test_module_may_bring_several_losses(install):
    install("prefopt-cool", {"cool": "cool_plugin"}, cool_plugin=source("cool", "warm"))
    assert load_registry().plugin_of("warm").losses == ("cool", "warm")


@pytest.mark.parametrize("entry_point", ["aaa", "dpo", "zzz"])
def test_second_dpo_takes_the_name_from_both_and_nothing_else(install, entry_point):
    install("prefopt-other", {entry_point: "other_plugin"}, other_plugin=source("dpo", "cool"))
    registry = load_registry()
    assert set(registry.losses) == {*BUILT_IN, "cool"} - {"dpo"}
    assert not registry.broken
    assert {name: set(plugins) for name, plugins in registry.contested.items()} == {
        "dpo": {"prefopt:dpo", f"prefopt-other:{entry_point}"}
    }
    for ask in (registry.loss_class, registry.loss, prefopt.get_loss):
        with pytest.raises(PluginError) as caught:
            ask("dpo")
        first, second = registry.contested["dpo"]
        assert str(caught.value) == f"two plugins bring a loss named 'dpo': {first} and {second}; rename or remove one"
    assert registry.loss("cool", beta=0.5).beta == 0.5


def test_second_task_takes_the_name_from_both_and_from_no_loss(install):
    install("prefopt-a", {"a": "plugin_a"}, plugin_a=COOL + TASK.format(cls="Windy", name="cool"))
    install("prefopt-b", {"b": "plugin_b"}, plugin_b=task_source("cool") + TASK.format(cls="Windy", name="windy"))
    install("prefopt-c", {"c": "plugin_c"}, plugin_c=task_source("cool") + "\n")
    registry = load_registry()
    assert "cool" not in registry.tasks
    assert registry.loss("cool").name == "cool"
    assert registry.task("windy").name == "windy"
    assert not registry.contested
    assert registry.contested_tasks == {"cool": ("prefopt-a:a", "prefopt-c:c")}
    taken = "two plugins bring a task named 'cool': prefopt-a:a and prefopt-c:c; rename or remove one"
    assert registry.left_out == (taken,)
    with pytest.raises(PluginError) as caught:
        registry.task("cool")
    assert str(caught.value) == taken


def test_method_with_the_name_of_a_loss_takes_it_from_both(install):
    install("prefopt-other", {"other": "other_plugin"}, other_plugin=method_source("dpo"))
    registry = load_registry()
    assert not registry.broken
    assert "dpo" not in {*registry.losses, *registry.methods}
    assert registry.contested == {"dpo": ("prefopt:dpo", "prefopt-other:other")}
    assert registry.left_out == (
        "two plugins bring a loss or method named 'dpo': prefopt:dpo and prefopt-other:other; rename or remove one",
    )
    for ask in (registry.loss_class, registry.loss, registry.method_class):
        with pytest.raises(PluginError) as caught:
            ask("dpo")
        assert str(caught.value) == registry.left_out[0]


def test_two_methods_with_one_name_are_contested(install):
    install("prefopt-a", {"a": "plugin_a"}, plugin_a=method_source("shy"))
    install("prefopt-b", {"b": "plugin_b"}, plugin_b=method_source("shy") + METHOD.format(cls="Bold", name="bold"))
    install("prefopt-c", {"c": "plugin_c"}, plugin_c=method_source("shy") + "\n")
    with pytest.raises(PluginError, match="^two plugins bring a method named 'shy': prefopt-a:a and prefopt-c:c; re"):
        load_registry().method_class("shy")


def test_task_may_have_the_name_of_a_loss(install):
    install("prefopt-other", {"other": "other_plugin"}, other_plugin=task_source("dpo"))
    registry = load_registry()
    assert not registry.left_out
    assert (registry.loss("dpo").name, registry.task("dpo").name) == ("dpo", "dpo")


def test_three_plugins_with_one_name_are_all_named(install):
    install("prefopt-a", {"a": "plugin_a"}, plugin_a=COOL)
    install("prefopt-b", {"b": "plugin_b"}, plugin_b=COOL)
    install("prefopt-c", {"c": "plugin_c"}, plugin_c=COOL)
    with pytest.raises(PluginError, match="^3 plugins bring .*prefopt-a:a and prefopt-b:b and prefopt-c:c; rename or"):
        load_registry().loss("cool")


def test_a_name_that_nobody_else_brings_is_not_contested(install):
    install("prefopt-cool", {"cool": "cool_plugin"}, cool_plugin=COOL)
    assert not load_registry().contested


@pytest.mark.parametrize(
    ("entry_points", "losses"),
    [
        ({"cool": "cool_plugin", "warm": "cool_plugin"}, ("cool", "warm")),
        ({"a": "cool_plugin", "b": "cool_plugin"}, ("cool",)),
    ],
)
def test_one_module_under_two_entry_points_is_no_conflict(install, entry_points, losses):
    rest = METHOD.format(cls="Shy", name="shy") + TASK.format(cls="Windy", name="windy")
    install("prefopt-cool", entry_points, cool_plugin=source(*losses) + rest)
    registry = load_registry()
    assert not registry.broken
    assert not registry.left_out
    assert "shy" in registry.methods
    assert "windy" in registry.tasks
    assert set(losses) < set(registry.losses)
    mine = [plugin for plugin in registry.plugins if plugin.name.startswith("prefopt-cool:")]
    assert [plugin.losses for plugin in mine] == [losses, losses]


BROKEN = {
    "missing import": ("import no_such_package_anywhere\n" + COOL, r"ModuleNotFoundError: No module named 'no_such_p"),
    "syntax": ("def (", r"SyntaxError: "),
    "exit": ("raise SystemExit(3)", r"SystemExit: 3"),
    "misspelt hook": (
        COOL.replace("register_losses", "register_loses"),
        r"^unknown hook 'prefopt_register_loses'; did you mean 'prefopt_register_losses'\?$",
    ),
    "foreign hook": (
        COOL.replace("prefopt_register_losses", "zzz"),
        r"^unknown hook 'zzz'; there are: prefopt_register_losses, prefopt_register_methods, prefopt_register_tasks$",
    ),
    "misspelt hook of tasks": (
        task_source("windy").replace("register_tasks", "register_task"),
        r"^unknown hook 'prefopt_register_task'; did you mean 'prefopt_register_tasks'\?$",
    ),
    "misspelt hook of methods beside good ones": (
        ALL_THREE.replace("register_methods", "register_method"),
        r"^unknown hook 'prefopt_register_method'; did you mean 'prefopt_register_methods'\?$",
    ),
    "no hook": (
        LOSS.format(cls="Cool", name="cool"),
        r"^it defines none of prefopt_register_losses, prefopt_register_methods, prefopt_register_tasks$",
    ),
    "second hook unmarked": (
        "def".join(ALL_THREE.rsplit("@prefopt.hookimpl\ndef", 1)),
        r"^prefopt_register_tasks lacks the @prefopt.hookimpl mark$",
    ),
    "task that is none": (
        task_source("windy").replace("[Windy]", "[dict]"),
        r"^prefopt_register_tasks returned <class 'dict'>, which is no subclass of prefopt.Task$",
    ),
    "task without a name": (
        task_source("windy").replace('    name = "windy"\n', ""),
        r"^task class Windy has no `name`$",
    ),
    "task with a bad knob": (
        task_source("windy").replace("prefopt.Knob(0.1", "prefopt.Knob(0.7"),
        r"^task class Windy: knob 'noise' has the default 0.7; it must be a number at least 0 and less than 0.5$",
    ),
    "method with a bad range": (
        method_source("shy").replace("(0.1, 1.0)", "(1.0, 0.1)"),
        r"^method class Shy: tune has 'beta': \(1.0, 0.1\); it must map names to \(lowest, highest\), two finite",
    ),
    "loss among the methods": (
        COOL.replace("register_losses", "register_methods"),
        r"^prefopt_register_methods returned <class '.*Cool'>, which is no subclass of prefopt.Method$",
    ),
    "loss and method with one name": (
        COOL + METHOD.format(cls="Shy", name="cool"),
        r"^it brings a loss and a method named 'cool'$",
    ),
    "two tasks with one name": (
        task_source("windy").replace("[Windy]", "[Windy, Windy]"),
        r"^it brings two tasks named 'windy'$",
    ),
    "unmarked hook": (
        COOL.replace("@prefopt.hookimpl\n", ""),
        r"^prefopt_register_losses lacks the @prefopt.hookimpl mark$",
    ),
    "hook with an argument": (COOL.replace("losses():", "losses(config):"), r"prefopt_register_losses\(config\)"),
    "hook that raises": (COOL.replace("return [Cool]", "raise RuntimeError('boom')"), r"^RuntimeError: boom$"),
    "hook without a list": (COOL.replace("return [Cool]", "return None"), r"NoneType"),
    "instance": (
        COOL.replace("[Cool]", "[Cool()]"),
        r"returned Cool\(beta=0.1\), which is no subclass of prefopt.Loss$",
    ),
    "number without a range that may be absent": (
        COOL.replace("gt=0)", "gt=0)\n    k: int | None = 3"),
        r"^loss class Cool: hyper-parameter 'k' has no range; declare one, as in `k: int \| None = prefopt.field",
    ),
    "optional number without a range": (
        COOL.replace("float = prefopt.field(0.1, gt=0)", "float | None = None"),
        r"^loss class Cool: hyper-parameter 'beta' has no range; declare one, as in `beta: float \| None = ",
    ),
    "no default": (
        COOL.replace(" = prefopt.field(0.1, gt=0)", ""),
        r"^loss class Cool: hyper-parameter 'beta' has no default; a loss can be named alone$",
    ),
    "no needs": (
        COOL.replace("prefopt.PairLoss", "prefopt.Loss"),
        r"^loss class Cool has no `needs`; declare what it reads with prefopt.Needs\(...\)$",
    ),
    "misspelt rows": (
        COOL.replace("    beta", '    needs = prefopt.Needs(rows={"pair"})\n    beta', 1),
        r"^loss class Cool: needs.rows is \['pair'\]; it must be a set of pairs, labels, rankings, demonstrations, as",
    ),
    "rows as one string": (
        COOL.replace("    beta", '    needs = prefopt.Needs(rows="pairs")\n    beta', 1),
        r"^loss class Cool: needs.rows is \['a', 'i', 'p', 'r', 's'\]; it must be a set of pairs",
    ),
    "other class": (
        COOL.replace("[Cool]", "[dict]"),
        r"returned <class 'dict'>, which is no subclass of prefopt.Loss$",
    ),
    "string": (COOL.replace("[Cool]", "['cool']"), r"returned 'cool', which is no subclass of prefopt.Loss$"),
    "name with a dash": (COOL.replace('"cool"', '"cool-er"'), r"class Cool: name 'cool-er' must be one lowercase word"),
    "capital name": (COOL.replace('"cool"', '"Cool"'), r"class Cool: name 'Cool' must be one lowercase word"),
    "name in other letters": (
        COOL.replace('"cool"', '"größe"'),
        r"class Cool: name 'größe' must be one lowercase word",
    ),
    "keyword name": (COOL.replace('"cool"', '"lambda"'), r"class Cool: name 'lambda' must be one lowercase word"),
    "no name": (COOL.replace('    name = "cool"\n', ""), r"^loss class Cool has no `name`$"),
    "no reward": (COOL.replace("def reward", "def reword"), r"^loss class Cool does not define reward$"),
    "no range": (
        COOL.replace("prefopt.field(0.1, gt=0)", "0.1"),
        r"^loss class Cool: hyper-parameter 'beta' has no range; declare one, as in `beta: float = prefopt.field\(0.1,",
    ),
    "same name twice": (COOL.replace("[Cool]", "[Cool, Cool]"), r"^it brings two losses named 'cool'$"),
}
broken_plugins = pytest.mark.parametrize(("text", "reason"), BROKEN.values(), ids=BROKEN)


@broken_plugins
def test_broken_plugin_is_kept_with_its_reason_and_stops_nobody(install, text, reason):
    before = load_registry()
    install("prefopt-bad", {"cool": "bad_plugin"}, bad_plugin=text)
    registry = load_registry()
    assert list(reasons(registry)) == ["prefopt-bad:cool"]
    (plugin,) = registry.broken
    assert not any(plugin.names(kind) for kind in KINDS)
    assert re.search(reason, plugin.error)
    assert "\n" not in plugin.error
    assert all(getattr(registry, kind.many) == getattr(before, kind.many) for kind in KINDS)


def test_unknown_loss_names_the_plugins_that_failed_to_load(install):
    install("prefopt-bad", {"cool": "bad_plugin"}, bad_plugin="import no_such_package_anywhere")
    with pytest.raises(UnknownNameError) as caught:
        load_registry().loss("cool")
    assert str(caught.value) == (
        f"unknown loss 'cool'; available: {', '.join(BUILT_IN)}; failed to load: "
        "prefopt-bad:cool (ModuleNotFoundError: No module named 'no_such_package_anywhere')"
    )


@pytest.mark.parametrize("target", ["no_such_module", "good_plugin:missing"])
def test_entry_point_to_nowhere_is_kept_with_its_reason(install, target):
    install("prefopt-bad", {"cool": target}, good_plugin=COOL)
    assert "missing" in (error := reasons(load_registry())["prefopt-bad:cool"]) or "no_such_module" in error


# Plugin files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_text", [True, False])
def test_plugin_file_brings_its_losses(plugin_file, as_text):
    path = plugin_file(COOL)
    registry = load_registry(files=[str(path) if as_text else path])
    assert registry.loss("cool").name == "cool"
    plugin = registry.plugin_of("cool")
    assert plugin.name == str(path)
    assert plugin.version.startswith("sha256:")
    assert "cool" not in load_registry().losses


def test_plugin_file_brings_methods_and_tasks(plugin_file):
    registry = load_registry(files=[plugin_file(ALL_THREE)])
    plugin = registry.plugin_of("cool")
    assert (plugin.losses, plugin.methods, plugin.tasks) == (("cool",), ("shy",), ("windy",))
    assert (registry.method_class("shy").name, registry.task("windy").name) == ("shy", "windy")


def test_two_plugin_files_bring_both(plugin_file):
    files = [plugin_file(COOL), plugin_file(source("warm"), "yours.py")]
    assert {"cool", "warm"} < set(load_registry(files=files).losses)


def test_version_of_a_plugin_file_is_its_digest(plugin_file):
    def version(text):
        return load_registry(files=[plugin_file(text)]).plugin_of("cool").version

    assert version(COOL) == version(COOL) != version(COOL + "\n# another comment\n")


def test_plugin_file_named_twice_is_read_once(plugin_file, tmp_path, monkeypatch):
    path = plugin_file(COOL)
    monkeypatch.chdir(tmp_path)
    registry = load_registry(files=[path, "mine.py", str(path)])
    assert [plugin.losses for plugin in registry.plugins].count(("cool",)) == 1


def test_two_plugin_files_with_one_name_are_refused(plugin_file):
    files = [plugin_file(COOL), plugin_file(COOL + "\n", "yours.py")]
    with pytest.raises(PluginError, match=r"two plugins bring a loss named 'cool': .*mine\.py and .*yours\.py"):
        load_registry(files=files)


def test_plugin_file_cannot_take_a_name_of_ours(plugin_file):
    with pytest.raises(PluginError, match=r"two plugins bring a loss named 'dpo': prefopt:dpo and .*mine\.py"):
        load_registry(files=[plugin_file(source("dpo"))])


def test_plugin_file_cannot_give_a_method_the_name_of_a_loss(plugin_file):
    with pytest.raises(PluginError) as caught:
        load_registry(files=[path := plugin_file(method_source("dpo"))])
    assert str(caught.value) == (
        f"two plugins bring a loss or method named 'dpo': prefopt:dpo and {path}; rename or remove one"
    )


@pytest.mark.parametrize(("first", "second"), [("method", "loss"), ("method", "method"), ("task", "task")])
def test_two_plugin_files_cannot_share_a_name(plugin_file, first, second):
    files = [plugin_file(SOURCES[first]("shy")), plugin_file(SOURCES[second]("shy") + "\n", "yours.py")]
    what = first if first == second else "loss or method"
    with pytest.raises(PluginError, match=rf"^two plugins bring a {what} named 'shy': .*mine\.py and .*yours\.py; ren"):
        load_registry(files=files)


def test_plugin_file_may_give_a_task_the_name_of_a_loss(plugin_file):
    assert load_registry(files=[plugin_file(task_source("dpo"))]).task("dpo").name == "dpo"


def test_plugin_file_cannot_take_a_contested_name(install, plugin_file):
    install("prefopt-other", {"other": "other_plugin"}, other_plugin=source("dpo"))
    with pytest.raises(
        PluginError, match="^3 plugins bring a loss named 'dpo': prefopt:dpo and prefopt-other:other and"
    ):
        load_registry(files=[plugin_file(source("dpo"))])
    assert "cool" in load_registry(files=[plugin_file(COOL, "yours.py")]).losses


def test_missing_plugin_file_is_refused(tmp_path):
    with pytest.raises(PluginError, match=r"plugin file '.*nowhere\.py' does not exist"):
        load_registry(files=[tmp_path / "nowhere.py"])
    with pytest.raises(PluginError, match="does not exist"):
        load_registry(files=[tmp_path])


def test_plugin_file_that_is_no_python_is_refused(plugin_file):
    with pytest.raises(PluginError, match=r"plugin file '.*mine\.txt' failed to load: it is not a Python file"):
        load_registry(files=[plugin_file(COOL, "mine.txt")])


@pytest.mark.parametrize("relative", [True, False])
def test_plugin_file_that_raises_names_the_line(plugin_file, tmp_path, monkeypatch, relative):
    path = plugin_file("import prefopt\n\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    sentence = r"plugin file '.*mine\.py', line 3 failed to load: ZeroDivisionError: division by zero"
    with pytest.raises(PluginError, match=sentence):
        load_registry(files=["mine.py" if relative else path])
    assert set(sys.modules) == before


def test_plugin_file_with_a_syntax_error_names_the_line(plugin_file):
    with pytest.raises(PluginError, match=r"plugin file '.*mine\.py' failed to load: SyntaxError: .*line 2"):
        load_registry(files=[plugin_file("import prefopt\nx = (\n")])


@broken_plugins
def test_broken_plugin_file_is_a_plugin_error_that_names_the_file(plugin_file, text, reason):
    with pytest.raises(PluginError) as caught:
        load_registry(files=[plugin_file(text)])
    where, _, why = str(caught.value).partition(" failed to load: ")
    assert "mine.py" in where
    assert re.search(reason, why)


# The registry as a value ---------------------------------------------------------------------------------------------


def test_unknown_loss_suggests_nearest_name():
    with pytest.raises(UnknownNameError) as caught:
        prefopt.get_loss("dpoo")
    assert str(caught.value) == f"unknown loss 'dpoo'; did you mean 'dpo'? available: {', '.join(BUILT_IN)}"


def test_unknown_task_suggests_nearest_name(plugin_file):
    registry = load_registry(files=[plugin_file(task_source("windy"))])
    available = ", ".join(sorted(registry.tasks))
    with pytest.raises(UnknownNameError) as caught:
        registry.task("wndy")
    assert str(caught.value) == f"unknown task 'wndy'; did you mean 'windy'? available: {available}"


@pytest.mark.parametrize(("misspelt", "meant"), [("shyy", "shy"), ("dpoo", "dpo")])
def test_unknown_method_suggests_a_method_or_a_loss(plugin_file, misspelt, meant):
    registry = load_registry(files=[plugin_file(method_source("shy"))])
    with pytest.raises(UnknownNameError) as caught:
        registry.method_class(misspelt)
    available = ", ".join(sorted({*registry.losses, *registry.methods}))
    assert str(caught.value) == f"unknown method {misspelt!r}; did you mean {meant!r}? available: {available}"


def test_unknown_task_names_the_plugins_that_failed_to_load(install):
    install("prefopt-bad", {"windy": "bad_plugin"}, bad_plugin="1 / 0")
    with pytest.raises(UnknownNameError, match=r"; failed to load: prefopt-bad:windy \(ZeroDivisionError: division"):
        load_registry().task("windy")


def test_every_task_is_a_new_instance(plugin_file):
    registry = load_registry(files=[plugin_file(task_source("windy"))])
    assert registry.task("windy") is not registry.task("windy")
    assert type(registry.task("windy")) is registry.tasks["windy"]


def test_registry_is_frozen():
    registry = load_registry()
    with pytest.raises(FrozenInstanceError):
        registry.losses = {}
    with pytest.raises(TypeError, match="does not support item assignment"):
        registry.losses["dpo"] = registry.losses["ipo"]
    for of_kind in (registry.methods, registry.tasks):
        with pytest.raises(TypeError, match="does not support item assignment"):
            of_kind["cool"] = registry.losses["dpo"]
    with pytest.raises(FrozenInstanceError):
        registry.plugins[0].error = "broken"


def test_get_loss_equals_the_registry_s_loss():
    assert prefopt.get_loss("dpo", beta=0.3) == load_registry().loss("dpo", beta=0.3)
    assert prefopt.get_loss("dpo", beta=0.3) != load_registry().loss("dpo", beta=0.4)


def test_hyperparameters_are_validated_through_the_registry():
    with pytest.raises(prefopt.ConfigError, match="loss dpo has no field 'bta'; did you mean 'beta'"):
        load_registry().loss("dpo", bta=0.1)


@pytest.mark.parametrize("name", BUILT_IN)
def test_plugin_of_a_loss_is_its_entry_point(name):
    assert load_registry().plugin_of(name).name == f"prefopt:{name}"

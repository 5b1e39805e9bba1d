"""The rules of the house that no type checker knows. Every checker is shown a planted fault as well."""

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

import prefopt
from prefopt.testing.documentation import docstring_faults, doctest_faults

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "prefopt"
LOSS_FILES = sorted((ROOT / "plugins" / "prefopt_losses").glob("[!_]*.py"))
REGISTRY = prefopt.load_registry()

# A room imports only what stands on an earlier line; rooms on one line do not see each other.
ORDER = [
    {"errors", "watcher", "draws", "transport", "logspace"},
    {"batch", "section", "yaml_file"},
    {"loss"},
    {"docstrings", "weighted", "task"},
    {"worlds"},
    {"method"},
    {"hookspecs", "kinds"},
    {"registry", "pages"},
    {"testing", "integrations"},
    {"config"},
    {"objective"},
    {"data"},
    {"engine"},
    {"reference"},
    {"training"},
    {"evaluation"},
    {"preparation"},
    {"advice"},
    {"run", "precompute", "evaluate"},
    {"report"},
    {"plan"},
    {"bench"},
    {"scaffold"},
    {"cli"},
    {"__main__"},
    {"__init__"},
]
FORBIDDEN_IMPORTS = [
    ("prefopt", "prefopt_losses", "the engine knows no loss by name"),
    ("prefopt", "prefopt_tasks", "the engine knows no task by name"),
    ("prefopt.training", "prefopt.registry", "the trainer is handed a loss"),
]
VAGUE = re.compile(r"(^|_)(utils?|helpers?|common|misc)(_|$)")
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
PARALLEL = {"joblib.Parallel", "joblib.delayed"}  # joblib's other half reads and writes pickles


# Checkers: each returns the faults it finds, as sentences ------------------------------------------------------------


def module_of(path, package=ENGINE):
    """Dotted name of a file in a package, as in `prefopt.data.row`."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def imports(tree, module="", is_package=False):
    """Every module or `module.name` that the source imports, at the top or inside a function, dots resolved."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".") if is_package else module.split(".")[:-1]
                stem = here[: len(here) - node.level + 1]
                base = ".".join([*stem, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def rank_of(room):
    return next((rank for rank, rooms in enumerate(ORDER) if room in rooms), None)


def import_order_faults(module, source, is_package=False):
    tree, own = ast.parse(source), room_of(module)
    if rank_of(own) is None:
        return [f"{module}: give {own} a place in ORDER"]
    faults = []
    for target in sorted(imports(tree, module, is_package)):
        if target.split(".")[0] != "prefopt" or room_of(target) == own:
            continue
        other = room_of(target)
        if target == "prefopt" or (target.startswith("prefopt.") and rank_of(other) is None):
            # The package itself stands last; its version and the like are all that a room may ask of it.
            attributes = {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "prefopt"
            }
            asked = attributes if target == "prefopt" else {other}
            faults += [f"{module} asks prefopt for {name}" for name in sorted(asked) if not name.startswith("__")]
        elif rank_of(other) >= rank_of(own):
            faults.append(f"{module} imports {target}, which stands after it")
    return faults


def forbidden_import_faults(module, source, is_package=False):
    return [
        f"{module} imports {target}: {reason}"
        for target in sorted(imports(ast.parse(source), module, is_package))
        for package, banned, reason in FORBIDDEN_IMPORTS
        if f"{module}.".startswith(f"{package}.") and f"{target}.".startswith(f"{banned}.")
    ]


def loss_file_import_faults(name, source):
    public = {f"prefopt.{public}" for public in prefopt.__all__}
    return [
        f"{name} imports {target}"
        for target in sorted(imports(ast.parse(source), name))
        if target.split(".")[0] not in {"torch", *sys.stdlib_module_names} and target not in {"prefopt", *public}
    ]


def file_name_faults(paths):
    return [f"{path} says nothing" for path in paths for part in Path(path).with_suffix("").parts if VAGUE.search(part)]


def unsafe_call_faults(name, source):
    tree, faults = ast.parse(source), []
    safe_loaders = {"yaml.SafeLoader"} | {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and "yaml.SafeLoader" in map(ast.unparse, node.bases)
    }
    named = sorted(imports(tree, name) - PARALLEL)
    faults += [f"{name} imports {target}" for target in named if target.split(".")[0] in PICKLES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys = {
                key.value: value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant)
            }
        elif isinstance(node, ast.Call):
            keys = {keyword.arg: keyword.value for keyword in node.keywords}
        else:
            continue
        true = {key for key, value in keys.items() if isinstance(value, ast.Constant) and value.value is True}
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called == "torch.load" and "weights_only" not in true:
            faults.append(f"{name}:{node.lineno} calls torch.load without weights_only=True")
        loader = ast.unparse(keys.get("Loader") or (node.args[1] if len(node.args) > 1 else node)) if called else ""
        if re.fullmatch(r"yaml\.(unsafe_|full_)?load(_all)?", called) and loader not in safe_loaders:
            faults.append(f"{name}:{node.lineno} calls {called} with a loader that runs code")
        faults += [
            f"{name}:{node.lineno} sets {key}=True" for key in ("trust_remote_code", "allow_pickle") if key in true
        ]
    return faults


def loss_name_faults(name, source, losses):
    """Names of losses among the strings of the source that are no docstrings."""
    tree = ast.parse(source)
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        f"{name}:{node.lineno} names the loss {node.value}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and id(node) not in prose and node.value in losses
    ]


def public_name_faults(package):
    names = package.__all__
    faults = [] if names == sorted(names) else ["__all__ is not sorted"]
    faults += [f"{name} is listed twice" for name in sorted({name for name in names if names.count(name) > 1})]
    for name in names:
        if not hasattr(package, name):
            faults.append(f"{name} does not exist")
        elif not inspect.getdoc(getattr(package, name)):
            faults.append(f"{name} has no docstring")
    return faults


# The house -----------------------------------------------------------------------------------------------------------


def engine_files():
    return [(path, module_of(path), path.name == "__init__.py") for path in sorted(ENGINE.rglob("*.py"))]


def test_imports_run_one_way():
    faults = [
        fault
        for path, module, package in engine_files()
        for fault in import_order_faults(module, path.read_text(), package)
    ]
    assert not faults, "\n".join(faults)


def test_engine_imports_no_loss_and_trainer_no_registry():
    faults = [
        fault
        for path, module, package in engine_files()
        for fault in forbidden_import_faults(module, path.read_text(), package)
    ]
    assert not faults, "\n".join(faults)


def test_engine_names_no_loss():
    faults = [
        fault
        for path, module, _ in engine_files()
        for fault in loss_name_faults(module, path.read_text(), REGISTRY.losses)
    ]
    assert not faults, "\n".join(faults)


def test_loss_files_import_torch_the_standard_library_and_public_names():
    files = [*LOSS_FILES, *(ROOT / "plugins" / "example").glob("prefopt_*.py")]
    faults = [fault for path in files for fault in loss_file_import_faults(path.stem, path.read_text())]
    assert len(files) > 6
    assert not faults, "\n".join(faults)


def test_no_file_has_a_name_that_says_nothing():
    folders = [ENGINE, ROOT / "plugins", ROOT / "tests", ROOT / "benchmarks"]
    faults = file_name_faults(path.relative_to(ROOT) for folder in folders for path in folder.rglob("*.py"))
    assert not faults, "\n".join(faults)


def test_nothing_read_from_disk_or_hub_is_executed():
    files = [*ENGINE.rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    faults = [fault for path in files for fault in unsafe_call_faults(path.relative_to(ROOT), path.read_text())]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", REGISTRY.losses)
def test_loss_docstring_is_complete_and_in_order(name):
    assert not docstring_faults(REGISTRY.losses[name])


@pytest.mark.parametrize("name", REGISTRY.losses)
def test_doctest_of_a_loss_passes(name):
    faults = doctest_faults(REGISTRY.losses[name])
    assert not faults, "\n".join(faults)


def test_public_names_are_sorted_and_documented():
    assert not public_name_faults(prefopt)


# Planted faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("prefopt.batch", "from prefopt.loss import Loss", "stands after"),
        ("prefopt.batch", "from prefopt import loss", "stands after"),
        ("prefopt.batch", "from . import loss", "stands after"),
        ("prefopt.batch", "from .loss import Loss", "stands after"),
        ("prefopt.data.row", "from ..engine.layout import Layout", "stands after"),
        ("prefopt.data.row", "def late():\n    import prefopt.engine.layout", "stands after"),
        ("prefopt.training.trainer", "import prefopt.cli", "stands after"),
        ("prefopt.loss", "from prefopt.weighted import Objective", "stands after"),
        ("prefopt.weighted", "from prefopt.docstrings import summary", "stands after"),
        ("prefopt.registry", "from prefopt.testing import conformance", "stands after"),
        ("prefopt.data.row", "from prefopt import Loss", "asks prefopt for Loss"),
        ("prefopt.data.row", "import prefopt\nprefopt.load_registry()", "asks prefopt for load_registry"),
        ("prefopt.attic", "", "give attic a place"),
    ],
)
def test_import_order_checker_finds(module, source, fault):
    assert any(fault in found for found in import_order_faults(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("prefopt.loss", "from prefopt.batch import PreferenceBatch"),
        ("prefopt.registry", "from prefopt import hookspecs"),
        ("prefopt.data.row", "from .trees import Tree\nfrom ..errors import DataError\nimport torch"),
        ("prefopt.training.trainer", "import prefopt\nprefopt.__version__"),
        ("prefopt.training.trainer", "from prefopt import __version__"),
        ("prefopt.__init__", "from prefopt.cli.app import main"),
    ],
)
def test_import_order_checker_lets_pass(module, source):
    assert not import_order_faults(module, source)


def test_relative_import_in_a_package_resolves_to_the_package():
    assert imports(ast.parse("from . import row"), "prefopt.data", is_package=True) == {"prefopt.data.row"}
    assert imports(ast.parse("from .. import loss"), "prefopt.data.row") == {"prefopt.loss"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("prefopt.loss", "import prefopt_losses.dpo"),
        ("prefopt.cli.train", "from prefopt_losses import dpo"),
        ("prefopt.training.trainer", "from prefopt.registry import load_registry"),
        ("prefopt.training", "from prefopt import registry"),
    ],
)
def test_forbidden_import_checker_finds(module, source):
    assert len(forbidden_import_faults(module, source)) == 1
    assert not forbidden_import_faults("prefopt.cli.train", "from prefopt.registry import load_registry")


@pytest.mark.parametrize(
    "source",
    ["import numpy", "from prefopt.registry import load_registry", "import prefopt.batch", "import transformers"],
)
def test_loss_file_import_checker_finds(source):
    assert len(loss_file_import_faults("cool", source)) == 1
    assert not loss_file_import_faults("cool", "import math, torch.nn\nimport prefopt\nfrom prefopt import PairLoss")


@pytest.mark.parametrize("name", ["prefopt/utils.py", "prefopt/data/row_helpers.py", "prefopt/common/x.py", "misc.py"])
def test_file_name_checker_finds(name):
    assert file_name_faults([name])
    assert not file_name_faults(["prefopt/commonality.py"])


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text)",
        "class Own(yaml.Loader): ...\nyaml.load(text, Own)",
        "yaml.unsafe_load(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "options = {'trust_remote_code': True}",
        "numpy.load(path, allow_pickle=True)",
    ],
)
def test_unsafe_call_checker_finds(source):
    assert len(unsafe_call_faults("x", source)) == 1


def test_unsafe_call_checker_lets_safe_calls_pass():
    source = "class Own(yaml.SafeLoader): ...\nyaml.load(t, Own)\nyaml.load(t, Loader=yaml.SafeLoader)\n"
    source += "torch.load(p, weights_only=True)\nyaml.safe_load(t)\nload(n, trust_remote_code=False)\njson.load(f)"
    assert not unsafe_call_faults("x", source)


def test_loss_name_checker_finds():
    source = '"""dpo in prose"""\ndef f(loss):\n    "dpo"\n    return loss.name == "dpo"'
    assert loss_name_faults("x", source, ["dpo"]) == ["x:4 names the loss dpo"]


DPO = REGISTRY.losses["dpo"]


def documented(text, fields=()):
    """A stand-in for a loss class, of which the checkers read the docstring and the fields."""
    return type("Planted", (), {"__doc__": text, "model_fields": dict.fromkeys(fields)})


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("implicit reward.\n", "implicit reward\n", "first line"),
        ("Args:", "Arguments:", "no section Args:"),
        ("Returns:", "Return:", "no section Returns:"),
        ("Raises:", "Raise:", "no section Raises:"),
        ("Source:", "Sources:", "no section Source:"),
        ("Differs:", "Difference:", "no section Differs:"),
        (">>> ", "", "no doctest"),
        ("beta: strength", "strength", "does not name beta"),
        ("arXiv 2305.18290", "arXiv", "neither an arXiv id nor an https address"),
        ("no.\n", "\n", "Differs: is empty"),
        ("=", "is", "no formula"),
    ],
)
def test_docstring_checker_finds(old, new, fault):
    planted = documented(DPO.__doc__.replace(old, new), DPO.model_fields)
    assert any(fault in found for found in docstring_faults(planted))


def test_docstring_checker_finds_sections_out_of_order():
    swapped = DPO.__doc__.replace("Args:", "?").replace("Returns:", "Args:").replace("?", "Returns:")
    assert docstring_faults(documented(swapped, DPO.model_fields)) == ["Planted: the sections are out of order"]
    assert docstring_faults(documented(None))


def test_doctest_checker_finds_a_wrong_number_and_a_missing_example():
    assert doctest_faults(documented(DPO.__doc__.replace("0.5544", "0.5545")))
    assert doctest_faults(documented("Nothing to run."))
    assert not doctest_faults(documented(">>> 1 + 1\n2\n"))


def test_public_name_checker_finds():
    package = type("package", (), {"__all__": ["b", "a", "a", "gone"], "a": int, "b": type("Bare", (), {})})
    package.b.__doc__ = None
    assert public_name_faults(package) == [
        "__all__ is not sorted",
        "a is listed twice",
        "b has no docstring",
        "gone does not exist",
    ]

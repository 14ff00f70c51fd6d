"""The rooms of kdlib and the arrows between them, as kdlib/README.md draws them.

An arrow from one room to another means: modules of the first may import modules of the second. An
import inside a function counts, too: it hides a circle from Python, and not from a reader.
"""

import ast
from pathlib import Path

import pytest

KDLIB = Path(__file__).parent.parent / "kdlib"

CORE = {
    "losses", "methods", "trainer", "causal", "models", "glue", "chat", "translation", "scores",
    "votes", "hidden", "onpolicy", "quantise", "paths",
}  # fmt: skip
ROOMS = {"engine", "course", "figures", "batch", "corpora", "tools", "profiles"}
ARROWS = {
    "losses": set(),
    "paths": set(),
    "engine": {"losses", "paths"},
    "core": {"losses", "paths", "engine"},
    "corpora": {"losses", "paths", "engine", "core"},
    "course": {"losses", "paths", "engine", "core", "corpora"},
    "figures": {"losses", "paths", "engine", "core", "course"},
    "tools": {"losses", "paths", "engine", "core", "corpora", "course", "figures"},
    "batch": {"losses", "paths", "engine", "core", "corpora", "course", "figures", "tools"},
    "profiles": set(),
}


def modules() -> dict[str, Path]:
    """{dotted name below kdlib: file}, without the two that stand at the door."""
    found = {}
    for file in sorted(KDLIB.rglob("*.py")):
        parts = file.relative_to(KDLIB).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(parts)] = file
    del found[""], found["__main__"]
    return found


def room(module: str) -> str:
    """The room of a module. `losses` and `paths` are rooms of their own: everything may rest on them."""
    first = module.split(".")[0]
    if first in ("losses", "paths"):
        return first
    return "core" if first in CORE else first


def imports(module: str, file: Path, known: set[str]) -> set[str]:
    """The modules of kdlib that any import statement of this one names."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    named = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ["kdlib", *package][: len(package) + 2 - node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            named |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    found = set()
    for name in named:
        parts = name.split(".")
        while parts and ".".join(parts[1:]) not in known:
            parts.pop()
        if len(parts) > 1 and parts[0] == "kdlib":
            found.add(".".join(parts[1:]))
    return found - {module}


KNOWN = modules()
GRAPH = {module: imports(module, file, set(KNOWN)) for module, file in KNOWN.items()}


@pytest.mark.parametrize("module", KNOWN)
def test_a_module_imports_only_where_an_arrow_leads(module):
    here = room(module)
    others = {other for other in GRAPH[module] if room(other) != here}
    wrong = sorted(other for other in others if room(other) not in ARROWS[here])
    assert not wrong, f"{module} ({here}) imports {', '.join(wrong)}: no arrow leads there"


def test_every_module_has_a_room():
    strangers = [m for m in KNOWN if m.split(".")[0] not in CORE | ROOMS]
    assert not strangers, f"no room for {', '.join(strangers)}"


def test_losses_import_torch_alone():
    tree = ast.parse(KNOWN["losses"].read_text(encoding="utf8"))
    named = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    packages = {
        alias.name for node in named if isinstance(node, ast.Import) for alias in node.names
    }
    packages |= {node.module for node in named if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in packages} == {"math", "typing", "torch"}


def test_there_are_no_circles():
    """Take away, again and again, every module that imports nothing that is left."""
    left = {m: {o for o in others if not m.startswith(f"{o}.")} for m, others in GRAPH.items()}
    while free := [m for m, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert not left, "these import each other in circles: " + ", ".join(sorted(left))


def test_the_fence_sees_an_import_inside_a_function(tmp_path):
    """A fence that sees nothing would pass every test above."""
    file = tmp_path / "thief.py"
    file.write_text(
        "def f():\n    from ..course import run\n    from ..batch.slurm import script\n"
    )
    assert imports("engine.thief", file, set(KNOWN)) == {"course", "course.run", "batch.slurm"}

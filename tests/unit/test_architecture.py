"""The code has the structure that docs/architecture.md describes.

The import rules are read from the table of that page, so a new dependency is added there first.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "gpumand"
PAGE = ROOT / "docs" / "architecture.md"
ROOT_FILES = {"__init__.py", "__main__.py", "ports.py", "version.py", "py.typed"}


@dataclass(frozen=True)
class Rule:
    """One row of the table: what a package or a module of the root may import, apart from the standard library."""

    packages: frozenset[str]
    libraries: frozenset[str]


@dataclass(frozen=True)
class Import:
    """One imported name, with the file and line of the import."""

    file: Path
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def rows(text: str, heading: str) -> Iterator[list[str]]:
    """Yield the cells of the rows of the first table below a heading."""
    lines = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].splitlines()
    table = [line for line in lines if line.startswith("| ")]
    yield from ([cell.strip() for cell in line.strip("|").split("|")] for line in table[2:])


def import_rules(text: str) -> dict[str, Rule]:
    """Read the import rules from the text of the page."""
    return {
        quoted(name)[0]: Rule(frozenset(quoted(packages)), frozenset(quoted(libraries)))
        for name, _, packages, libraries in rows(text, "Packages")
    }


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@cache
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(tree: ast.AST, file: Path) -> Iterator[Import]:
    """Yield every import of a module as an absolute name, whatever function or condition it is in.

    ``from a import b`` yields ``a.b``, where ``b`` may be a module or a name in the module ``a``.
    """
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, one.name) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (Import(file, node.lineno, f"{module}.{one.name}") for one in node.names)


def owner(file: Path) -> str:
    """Return the row that a file belongs to: its package, or its own name if it is in the package root."""
    parts = file.relative_to(CODE).with_suffix("").parts
    return parts[0]


def violations(rule: Rule, name: str, found: Iterator[Import]) -> list[str]:
    """Return the imports that a rule does not allow."""
    return [str(one) for one in found if not is_allowed(rule, name, one.target)]


def is_allowed(rule: Rule, name: str, target: str) -> bool:
    top, _, rest = target.partition(".")
    if top != "gpumand":
        return top in sys.stdlib_module_names or top in rule.libraries
    imported = rest.partition(".")[0]
    return imported in ("", name) or imported in rule.packages


def code_files() -> list[Path]:
    return sorted(CODE.rglob("*.py"))


def packages() -> list[str]:
    return sorted(one.parent.name for one in CODE.glob("*/__init__.py"))


# -- the table ---------------------------------------------------------------------------------------------------------


def test_table_lists_every_package_and_module_of_the_root() -> None:
    files = {one.removesuffix(".py") for one in ROOT_FILES if one.endswith(".py")} - {"__init__"}
    assert set(import_rules(page())) == {*packages(), *files}


def test_package_root_contains_only_the_allowed_modules() -> None:
    found = {one.name for one in CODE.iterdir() if one.is_file()}
    assert found == ROOT_FILES


def test_every_folder_with_code_is_a_package() -> None:
    assert not [str(one) for one in code_files() if not (one.parent / "__init__.py").exists()]


@pytest.mark.parametrize("name", import_rules(page()))
def test_package_imports_only_what_its_row_allows(name: str) -> None:
    rule = import_rules(page())[name]
    found = (one for file in code_files() if owner(file) == name for one in imports(parsed(file), file))
    assert not violations(rule, name, found)


def test_package_root_imports_nothing() -> None:
    file = CODE / "__init__.py"
    assert not [str(one) for one in imports(parsed(file), file)]


def test_root_helpers_import_nothing_else_of_gpumand() -> None:
    assert import_rules(page())["root_helpers"] == Rule(frozenset(), frozenset())
    files = [file for file in code_files() if owner(file) == "root_helpers"]
    assert files
    # Imports inside the package are allowed: the code that runs as root is then all of this folder, and nothing else.
    found = [one for file in files for one in imports(parsed(file), file) if one.target.startswith("gpumand")]
    assert not [str(one) for one in found if not one.target.startswith("gpumand.root_helpers.")]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("import gpumand.arbiter", "gpumand.arbiter"),
        ("from gpumand.arbiter.state import ArbiterState", "gpumand.arbiter.state.ArbiterState"),
        ("from ..arbiter import state", "gpumand.arbiter.state"),
        ("from gpumand import arbiter", "gpumand.arbiter"),
        ("import aiohttp.web", "aiohttp.web"),
        ("def late():\n    import gpumand.arbiter", "gpumand.arbiter"),
        ("if TYPE_CHECKING:\n    from gpumand.arbiter import Arbiter", "gpumand.arbiter.Arbiter"),
    ],
)
def test_forbidden_import_is_found_wherever_it_is(source: str, target: str) -> None:
    file = CODE / "domain" / "example.py"
    found = list(imports(ast.parse(source), file))
    assert [one.target for one in found] == [target]
    assert len(violations(Rule(frozenset({"ports"}), frozenset()), "domain", iter(found))) == 1


@pytest.mark.parametrize(
    "source", ["import asyncio", "from gpumand.ports import Clock", "from . import device", "import gpumand"]
)
def test_allowed_import_is_accepted(source: str) -> None:
    found = imports(ast.parse(source), CODE / "domain" / "example.py")
    assert not violations(Rule(frozenset({"ports"}), frozenset()), "domain", found)


# -- cycles ------------------------------------------------------------------------------------------------------------


class _TypeCheckingRemoved(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return node.orelse
        return self.generic_visit(node)


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def dependencies(sources: Mapping[str, tuple[ast.Module, Path]]) -> dict[str, set[str]]:
    """Return which of the given modules each of them imports when it runs, imports inside functions included."""
    found: dict[str, set[str]] = {}
    for name, (tree, file) in sources.items():
        targets = {one.target for one in imports(_TypeCheckingRemoved().visit(tree), file)}
        # A target is a module, or a name inside a module.
        modules = {one if one in sources else one.rpartition(".")[0] for one in targets}
        found[name] = (modules & sources.keys()) - {name}
    return found


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return modules that form a cycle of imports, [] if there is none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph[name]):
            if found := visit(target, [*trail, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def test_modules_of_the_domain_have_no_import_cycle() -> None:
    files = sorted((CODE / "domain").glob("*.py"))
    sources = {module_name(file): (ast.parse(file.read_text(encoding="utf-8")), file) for file in files}
    graph = dependencies(sources)
    assert graph["gpumand.domain.planning"]
    assert not cycle(graph)


def test_cycle_through_a_function_is_found_and_one_for_type_checking_is_not() -> None:
    first = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gpumand.domain.c import C\n"
    first += "from gpumand.domain import b"
    second = "def late():\n    from gpumand.domain.a import A"
    file = CODE / "domain" / "example.py"
    sources = {
        "gpumand.domain.a": (ast.parse(first), file),
        "gpumand.domain.b": (ast.parse(second), file),
        "gpumand.domain.c": (ast.parse("from gpumand.domain import a"), file),
    }
    assert cycle(dependencies(sources)) == ["gpumand.domain.a", "gpumand.domain.b", "gpumand.domain.a"]
    sources["gpumand.domain.b"] = (ast.parse(""), file)
    assert cycle(dependencies(sources)) == []


# -- docstrings of packages --------------------------------------------------------------------------------------------

_NOTHING = re.compile(r"(must not import|imports) (any(thing)? (other package )?of gpumand|any other package|nothing)")


def forbidden_in(docstring: str) -> set[str] | None:
    """Return the packages that a docstring forbids its package to import, None if it states no rule.

    The rule is a sentence with "must not import", "import(s) only" or "depends on ... only". A sentence of the second
    or third form forbids every package that it does not name.
    """
    sentences = re.split(r"(?<=[.:;])\s", " ".join(docstring.replace("`", "").split()))
    known = set(import_rules(page()))
    forbidden: set[str] = set()
    stated = False
    for sentence in sentences:
        named = {one for one in known if re.search(rf"(?<![\w.])(gpumand\.)?{one}\b(?!\.\w)", sentence)}
        if re.search(r"\bmust not import\b", sentence, re.IGNORECASE):
            stated = True
            forbidden |= known if _NOTHING.search(sentence.lower()) else named
        elif re.search(r"\bimports? only\b|\bdepends on .* only\b", sentence, re.IGNORECASE):
            stated = True
            forbidden |= known - named
    return forbidden if stated else None


@pytest.mark.parametrize("name", packages())
def test_docstring_of_a_package_names_what_it_must_not_import(name: str) -> None:
    docstring = ast.get_docstring(parsed(CODE / name / "__init__.py"))
    assert docstring, f"gpumand/{name}/__init__.py has no docstring"
    forbidden = forbidden_in(docstring)
    assert forbidden is not None, f"gpumand/{name}/__init__.py does not say what the package must not import"
    contradiction = forbidden & import_rules(page())[name].packages
    assert not contradiction, f"gpumand/{name}/__init__.py forbids what the table allows: {sorted(contradiction)}"


def test_docstring_rules_are_understood() -> None:
    assert forbidden_in("Reads things. Must not import ``arbiter`` or ``daemon``.") == {"arbiter", "daemon"}
    others = set(import_rules(page())) - {"domain", "ports"}
    assert forbidden_in("Imports only ``gpumand.domain`` and ``ports``.") == others
    assert forbidden_in("Must not import any other package of gpumand.") == set(import_rules(page()))
    assert forbidden_in("Reads things.") is None


# -- names on the page -------------------------------------------------------------------------------------------------


def test_files_that_the_page_names_exist() -> None:
    named = re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.(?:py|toml))`", page())
    assert len(named) > 30
    assert not [one for one in named if not (ROOT / one).exists() and not (CODE / one).exists()]


def members(node: ast.ClassDef) -> set[str]:
    """Return the methods and attributes of a class."""
    names = {one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
    assigned = (one for one in ast.walk(node) if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store))
    return names | {one.attr for one in assigned}


def defined(file: Path) -> set[str]:
    """Return the functions, classes, constants and members of classes that a file defines, as ``Class.member``."""
    names: set[str] = set()
    for node in parsed(file).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{one}" for one in members(node)}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {one.id for one in targets if isinstance(one, ast.Name)}
    return names


@pytest.mark.parametrize(
    ("files", "functions"),
    [(quoted(files), quoted(functions)) for _, files, functions in rows(page(), "From the bus to the reply: Acquire")],
)
def test_functions_of_an_acquire_exist(files: list[str], functions: list[str]) -> None:
    assert files
    assert functions
    for file in files:
        assert set(functions) <= defined(CODE / file)


def test_names_that_the_page_mentions_exist() -> None:
    everything = {name for file in code_files() for name in defined(file)}
    named = {one for one in re.findall(r"`([A-Z]\w+(?:\.\w+)?)`", page()) if one != "FACTS"}
    assert len(named) > 20
    assert sorted(named - everything) == []

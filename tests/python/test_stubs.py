"""The stub of the binary module says what the binary does: the same names, the same signatures, both ways."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import _core

STUB = ast.parse((Path(penstock.__file__).parent / "_core.pyi").read_text(encoding="utf-8"))

# Dictionaries have no class in the binary; the stub names their keys.
ONLY_TYPES = {
    each.name for each in STUB.body if isinstance(each, ast.ClassDef) and "TypedDict" in map(ast.unparse, each.bases)
}
# What every class has, and what the import system sets.
IGNORED = {"__doc__", "__module__", "__weakref__", "__new__", "__dict__"}

Parameters = list[tuple[str, str, bool]]


def is_public(name: str) -> bool:
    return not name.startswith("_") or name == "__version__"


def stub_names() -> set[str]:
    names = {each.name for each in STUB.body if isinstance(each, ast.ClassDef | ast.FunctionDef)}
    return (names | stub_constants().keys()) - ONLY_TYPES


def stub_constants() -> dict[str, str]:
    found = [each for each in STUB.body if isinstance(each, ast.AnnAssign)]
    return {ast.unparse(each.target): ast.unparse(each.annotation) for each in found}


def stub_classes() -> dict[str, ast.ClassDef]:
    return {each.name: each for each in STUB.body if isinstance(each, ast.ClassDef) and each.name not in ONLY_TYPES}


def members(stub: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    functions = [each for each in stub.body if isinstance(each, ast.FunctionDef)]
    return {each.name: each for each in functions if not is_setter(each)}


def is_setter(function: ast.FunctionDef) -> bool:
    """What may be set is the property itself in the binary."""
    return any(isinstance(each, ast.Attribute) and each.attr == "setter" for each in function.decorator_list)


def is_property(function: ast.FunctionDef) -> bool:
    """Its getter, or its setter."""
    return any(ast.unparse(each) in ("property", f"{function.name}.setter") for each in function.decorator_list)


def parameters_of_stub(function: ast.FunctionDef) -> Parameters:
    """Name, kind, and whether there is a default; without self or cls."""
    arguments = function.args
    defaults = len(arguments.args) - len(arguments.defaults)
    found = [(each.arg, "plain", at >= defaults) for at, each in enumerate(arguments.args)]
    found += [
        (each.arg, "keyword", default is not None)
        for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return [each for each in found if each[0] not in ("self", "cls")]


def parameters_of_binary(function: Any) -> Parameters:
    kinds = {
        inspect.Parameter.KEYWORD_ONLY: "keyword",
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "plain",
        inspect.Parameter.POSITIONAL_ONLY: "plain",
    }
    return [
        (each.name, kinds[each.kind], each.default is not inspect.Parameter.empty)
        for each in inspect.signature(function).parameters.values()
        if each.name != "self"
    ]


def test_the_stub_and_the_binary_have_the_same_names() -> None:
    assert stub_names() == {name for name in dir(_core) if is_public(name)}


@pytest.mark.parametrize("name", sorted(stub_classes()))
def test_a_class_has_the_same_members_in_the_stub_and_in_the_binary(name: str) -> None:
    stub, binary = members(stub_classes()[name]), getattr(_core, name)
    assert set(stub) - IGNORED == set(vars(binary)) - IGNORED
    for member, function in stub.items():
        if member == "__new__":
            assert parameters_of_stub(function) == parameters_of_binary(binary), name
        elif member == "__call__":
            # A slot tells nothing of its parameters.
            assert callable(vars(binary)[member])
        elif is_property(function):
            assert inspect.isgetsetdescriptor(vars(binary)[member]), member
        else:
            assert parameters_of_stub(function) == parameters_of_binary(getattr(binary, member)), member


@pytest.mark.parametrize("name", sorted(name for name in stub_names() if inspect.isbuiltin(getattr(_core, name, None))))
def test_a_function_has_the_same_parameters_in_the_stub_and_in_the_binary(name: str) -> None:
    stub = next(each for each in STUB.body if isinstance(each, ast.FunctionDef) and each.name == name)
    assert parameters_of_stub(stub) == parameters_of_binary(getattr(_core, name))


@pytest.mark.parametrize("name", sorted(stub_classes()))
def test_what_the_stub_cannot_make_the_binary_does_not_make_either(name: str) -> None:
    if "__new__" in members(stub_classes()[name]) or issubclass(getattr(_core, name), Exception):
        return
    with pytest.raises(TypeError, match=r"No constructor defined|cannot create"):
        getattr(_core, name)()


@pytest.mark.parametrize("name", sorted(stub_classes()))
def test_final_classes_cannot_be_subclassed(name: str) -> None:
    final = any(isinstance(each, ast.Name) and each.id == "final" for each in stub_classes()[name].decorator_list)
    if final:
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Sub", (getattr(_core, name),), {})
    else:
        assert type("Sub", (getattr(_core, name),), {})


def test_the_stub_says_what_the_constants_are() -> None:
    types = stub_constants()
    assert types == {"__version__": "Final[str]", "DEBUG_BUILD": "Final[bool]"}
    assert {name: f"Final[{type(getattr(_core, name)).__name__}]" for name in types} == types


def test_everything_in_the_stub_is_documented() -> None:
    documented = [each for each in ast.walk(STUB) if isinstance(each, ast.ClassDef | ast.FunctionDef)]
    assert [each.name for each in documented if ast.get_docstring(each) is None] == []

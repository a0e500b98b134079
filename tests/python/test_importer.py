"""`module:attribute` becomes the application, or one clear line."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock import AppImportError
from penstock.importer import add_app_dir, load_app

_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module of the user's and return its name, which no other test has."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(source: str, name: str = "") -> str:
        name = name or f"users_module_{next(_numbers)}"
        path = tmp_path / (name.replace(".", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return name

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(spec: str, *, factory: bool = False) -> AppImportError:
    with pytest.raises(AppImportError) as caught:
        load_app(spec, factory=factory)
    assert "\n" not in str(caught.value)
    return caught.value


APP = "async def app(scope, receive, send): ...\n"


def test_an_attribute_of_a_module_is_loaded(module: Callable[..., str]):
    name = module(APP)
    assert load_app(f"{name}:app") is sys.modules[name].app


def test_an_attribute_of_an_attribute_is_loaded(module: Callable[..., str]):
    name = module("class site:\n    @staticmethod\n    async def app(scope, receive, send): ...\n")
    assert load_app(f"{name}:site.app").__name__ == "app"


def test_a_module_of_a_package_is_loaded(module: Callable[..., str]):
    module("", "shop_package.__init__")
    assert load_app(f"{module(APP, 'shop_package.web')}:app").__module__ == "shop_package.web"


def test_an_application_itself_is_taken_as_it_is():
    async def app(scope: object, receive: object, send: object) -> None: ...

    assert load_app(app) is app


@pytest.mark.parametrize("attribute", ["app", "application"])
def test_without_an_attribute_the_usual_ones_are_tried_and_told(
    module: Callable[..., str], attribute: str, caplog: pytest.LogCaptureFixture
):
    name = module(f"async def {attribute}(scope, receive, send): ...\n")
    with caplog.at_level("INFO", "penstock.error"):
        assert load_app(name).__name__ == attribute
    assert caplog.messages == [f"{name} names no attribute: using {name}:{attribute}"]


def test_without_an_attribute_and_the_usual_ones_the_callables_are_listed(module: Callable[..., str]):
    name = module("from os import getcwd\nasync def web(scope, receive, send): ...\n")
    assert str(refusal(name)) == (
        f"{name} has neither app nor application: name the application's attribute, as in {name}:NAME; "
        "its callables are web"
    )


@pytest.mark.parametrize("spec", ["", ":app", "main:", "main:app:more", "a b:app", "main:1", "..main:app"])
def test_what_is_no_module_and_attribute_is_refused(spec: str):
    assert str(refusal(spec)).startswith(f"expected module:attribute, such as main:app, got {spec!r}")


@pytest.mark.parametrize(
    ("spec", "meant"), [("main.py:app", "main:app"), ("./shop/web.py:app", "shop.web:app"), ("shop/web", "shop.web")]
)
def test_a_path_is_answered_with_the_module_that_was_meant(spec: str, meant: str):
    assert str(refusal(spec)).endswith(f"try {meant}")


def test_a_call_is_answered_with_the_factory_flag():
    assert "add --factory" in str(refusal("main:create()"))


def test_a_missing_module_is_named_with_the_nearest_one_and_no_traceback(module: Callable[..., str], tmp_path: Path):
    module(APP, "storefront")
    error = refusal("storefrnt:app")
    assert str(error) == f"no module named storefrnt in {tmp_path}; did you mean storefront?"
    assert error.details is None


def test_a_missing_module_that_resembles_none_asks_for_the_directory(module: Callable[..., str]):
    module(APP, "storefront")
    assert str(refusal("zzz_qqq:app")).endswith("is --app-dir right?")


def test_a_missing_module_of_a_package_is_looked_for_in_the_package(module: Callable[..., str]):
    module("", "depot.__init__")
    module(APP, "depot.website")
    assert str(refusal("depot.websit:app")) == "no module named depot.websit in package depot; did you mean website?"


def test_a_module_is_not_mistaken_for_a_package(module: Callable[..., str]):
    name = module(APP)
    assert str(refusal(f"{name}.app:x")) == (
        f"no module named {name}.app: {name} is a module, not a package; an attribute goes after a colon"
    )


def test_an_import_that_fails_inside_shows_the_users_own_frames_only(module: Callable[..., str]):
    name = module("def prepare():\n    import a_library_that_is_not_there\nprepare()\n")
    error = refusal(f"{name}:app")
    assert str(error) == (f"importing {name} raised ModuleNotFoundError: No module named 'a_library_that_is_not_there'")
    assert error.details is not None
    assert error.details.startswith("Traceback (most recent call last):")
    assert f'{name}.py", line 3, in <module>' in error.details
    assert "in prepare" in error.details
    assert "importlib" not in error.details
    assert "penstock" not in error.details


def test_a_module_that_raises_shows_where_and_its_causes(module: Callable[..., str]):
    name = module(
        "try:\n    {}['region']\nexcept KeyError as error:\n    raise RuntimeError('no region\\nat all') from error\n"
    )
    error = refusal(f"{name}:app")
    assert str(error) == f"importing {name} raised RuntimeError: no region"
    assert error.details is not None
    assert "KeyError: 'region'" in error.details
    assert "direct cause" in error.details


def test_a_syntax_error_is_told_with_file_line_and_text(module: Callable[..., str], tmp_path: Path):
    name = module("x = 1\ndef app(scope:\n    pass\n")
    error = refusal(f"{name}:app")
    assert str(error).startswith(f"syntax error in {tmp_path / name}.py:2: ")
    assert str(error).endswith(": def app(scope:")
    assert error.details is None


def test_a_wrong_attribute_is_answered_with_the_nearest(module: Callable[..., str]):
    name = module("async def application(scope, receive, send): ...\n")
    assert str(refusal(f"{name}:aplication")) == f"{name} has no attribute aplication; did you mean application?"


def test_a_wrong_attribute_that_resembles_none_is_answered_with_the_callables(module: Callable[..., str]):
    name = module("".join(f"async def handler_{n}(scope, receive, send): ...\n" for n in range(10)))
    assert str(refusal(f"{name}:zzz")) == (
        f"{name} has no attribute zzz; its callables are " + ", ".join(f"handler_{n}" for n in range(8)) + " and 2 more"
    )


def test_a_wrong_attribute_of_an_attribute_names_the_way_to_it(module: Callable[..., str]):
    name = module("class site:\n    async def web(scope, receive, send): ...\n")
    assert str(refusal(f"{name}:site.wev")) == f"{name}:site has no attribute wev; did you mean web?"


def test_a_property_that_raises_shows_the_users_traceback(module: Callable[..., str]):
    name = module("class Site:\n    @property\n    def app(self):\n        raise LookupError('gone')\nsite = Site()\n")
    error = refusal(f"{name}:site.app")
    assert str(error) == f"reading app of {name}:site raised LookupError: gone"
    assert "line 4, in app" in (error.details or "")


@pytest.mark.parametrize(
    ("value", "kind"), [("None", "None"), ("{}", "an object of type dict"), ("'x'", "an object of type str")]
)
def test_what_cannot_be_called_is_no_application(module: Callable[..., str], value: str, kind: str):
    name = module(f"app = {value}\n")
    assert str(refusal(f"{name}:app")) == f"{name}:app is not an application: expected a callable, got {kind}"


def test_a_factory_s_result_is_the_application(module: Callable[..., str]):
    name = module("def create(debug=False):\n    async def made(scope, receive, send): ...\n    return made\n")
    assert load_app(f"{name}:create", factory=True).__name__ == "made"


def test_a_factory_that_is_not_called_one_is_recognised(module: Callable[..., str]):
    name = module("def create():\n    return None\n")
    assert str(refusal(f"{name}:create")).endswith("if it makes the application, add --factory")


def test_a_factory_that_needs_arguments_is_refused(module: Callable[..., str]):
    name = module("def create(settings, *, debug): ...\n")
    error = refusal(f"{name}:create", factory=True)
    assert str(error) == f"--factory: {name}:create must take no arguments, but needs settings, debug"


def test_a_factory_that_raises_shows_the_users_traceback(module: Callable[..., str]):
    name = module("def create():\n    raise OSError('no database')\n")
    error = refusal(f"{name}:create", factory=True)
    assert str(error) == f"factory {name}:create raised OSError: no database"
    assert "line 2, in create" in (error.details or "")
    assert "importer" not in (error.details or "")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("create = 3\n", "--factory: expected {}:create to be a function, got an object of type int"),
        (
            "def create():\n    return 3\n",
            "{}:create is not an application: expected a callable, got an object of type int",
        ),
    ],
)
def test_a_factory_must_be_called_and_give_what_can_be(module: Callable[..., str], source: str, complaint: str):
    name = module(source)
    assert str(refusal(f"{name}:create", factory=True)) == complaint.format(name)


def test_a_module_may_leave_as_it_likes(module: Callable[..., str]):
    name = module("raise SystemExit('not configured')\n")
    with pytest.raises(SystemExit, match="not configured"):
        load_app(f"{name}:app")


def test_the_app_dir_goes_first_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", ["elsewhere"])
    add_app_dir(str(tmp_path))
    add_app_dir(str(tmp_path))
    assert sys.path == [str(tmp_path), "elsewhere"]


def test_an_app_dir_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(AppImportError, match="--app-dir: expected a directory"):
        add_app_dir(str(tmp_path / "nowhere"))

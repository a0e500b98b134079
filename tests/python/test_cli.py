"""The `penstock` command: whatever a user can put right is one line on stderr and an exit status."""

from __future__ import annotations

import inspect
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import clean_environment

import penstock as package
from penstock import ServerConfig
from penstock.config import SETTINGS

Run = Callable[..., subprocess.CompletedProcess[str]]
WriteApp = Callable[..., Path]

USAGE, IMPORT, ADDRESS = 2, 4, 5


def refused(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line that it ended with, without `penstock: error: `."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("penstock: error: ")
    return line.removeprefix("penstock: error: ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["serve"], "expected APP, got nothing (see penstock serve --help)"),
        (["serve", "main:app", "other"], "got unexpected extra argument (other) (see penstock serve --help)"),
        (["serve", "--prot", "1", "x:y"], "unknown option --prot; did you mean --port? (see penstock serve --help)"),
        (["serve", "--no-acces-log", "x:y"], "unknown option --no-acces-log; did you mean --no-access-log? (see"),
        (["serve", "--qqq", "x:y"], "unknown option --qqq (see penstock serve --help)"),
        (["--verson"], "unknown option --verson; did you mean --version? (see penstock --help)"),
        (["sevre", "x:y"], "unknown command sevre; did you mean serve? (see penstock --help)"),
        (["zzz"], "unknown command zzz; the commands are serve"),
        (["main:app"], "unknown command main:app; to serve an application: penstock serve main:app"),
        (["serve", "x:y", "--port"], "option '--port' requires an argument"),
        (["serve", "x:y", "--port", "http"], "--port: expected a whole number from 0 to 65535, got 'http'"),
        (["serve", "x:y", "--port", "70000"], "--port: expected a whole number from 0 to 65535, got '70000'"),
        (["serve", "x:y", "--lifespan", "maybe"], "--lifespan: expected one of auto, on, off, got 'maybe'"),
        (["serve", "x:y", "--log-level", "loud"], "--log-level: expected one of critical, error, warning, info"),
        (["serve", "x:y", "--poller", "kqueue9"], "--poller: expected one of "),
        (["serve", "x:y", "--timeout-keep-alive", "5s"], "--timeout-keep-alive: expected a number of seconds from"),
        (["serve", "x:y", "--root-path", "api"], "--root-path: expected a path that begins with a slash"),
        (["serve", "x:y", "--uds", "a", "--port", "8000"], "--uds and --port both say where to listen"),
        (["serve", "x:y", "--uds", "a", "--fd", "3"], "--uds and --fd both say where to listen"),
        (["serve", "x:y", "--fd", "3", "--host", "127.0.0.1"], "--fd and --host both say where to listen"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line(penstock: Run, arguments: list[str], complaint: str):
    assert refused(penstock(*arguments), USAGE).startswith(complaint)


@pytest.mark.parametrize(
    ("environment", "arguments", "complaint"),
    [
        ({"PENSTOCK_PORT": "x"}, [], "PENSTOCK_PORT: expected a whole number from 0 to 65535, got 'x'"),
        ({"PENSTOCK_FACTORY": "x"}, [], "PENSTOCK_FACTORY: expected true or false, got 'x'"),
        ({"PENSTOCK_UDS": "a"}, ["--port", "1"], "PENSTOCK_UDS and --port both say where to listen"),
    ],
)
def test_a_wrong_variable_is_named(penstock: Run, environment: dict[str, str], arguments: list[str], complaint: str):
    assert refused(penstock("serve", *arguments, "x:y", env=environment), USAGE).startswith(complaint)


def test_the_command_line_goes_before_the_environment(penstock: Run, write_app: WriteApp, taken_port: int):
    write_app()
    done = penstock("serve", "main:app", "--port", str(taken_port), env={"PENSTOCK_PORT": "not even a number"})
    assert f"127.0.0.1:{taken_port} is already in use" in refused(done, ADDRESS)


@pytest.mark.parametrize(
    ("app", "complaint"),
    [
        ("mian:app", "no module named mian in "),
        ("main:ap", "main has no attribute ap; did you mean app?"),
        ("main:number", "main:number is not an application: expected a callable, got an object of type int"),
        ("main.py:app", "expected module:attribute, such as main:app, got 'main.py:app'"),
        ("main:create", "main:create takes no arguments: if it makes the application, add --factory"),
        ("broken:app", "syntax error in "),
    ],
)
def test_an_application_that_is_not_there_is_answered_in_one_line(
    penstock: Run, write_app: WriteApp, app: str, complaint: str
):
    write_app("number = 3\ndef create(): ...\nasync def app(scope, receive, send): ...\n")
    write_app("def app(:\n", name="broken.py")
    assert refused(penstock("serve", "--port", "0", app), IMPORT).startswith(complaint)


def test_an_error_of_the_application_s_own_shows_its_frames_above_the_line(penstock: Run, write_app: WriteApp):
    write_app("def configure():\n    raise LookupError('REGION is not set')\nconfigure()\n")
    done = penstock("serve", "--port", "0", "main:app")
    assert done.returncode == IMPORT
    lines = done.stderr.splitlines()
    assert lines[-1] == "penstock: error: importing main raised LookupError: REGION is not set"
    assert lines[0] == "Traceback (most recent call last):"
    files = [line.strip() for line in lines if line.strip().startswith("File ")]
    assert [file.split('"')[1].rsplit("/", 1)[1] for file in files] == ["main.py", "main.py"]


def test_a_missing_app_dir_is_answered_in_one_line(penstock: Run):
    done = penstock("serve", "--app-dir", "nowhere", "main:app")
    assert refused(done, IMPORT) == "--app-dir: expected a directory, got 'nowhere', which is none"


def test_a_taken_port_is_answered_in_one_line(penstock: Run, write_app: WriteApp, taken_port: int):
    write_app()
    complaint = refused(penstock("serve", "main:app", "--port", str(taken_port)), ADDRESS)
    assert f"ss -ltnp 'sport = :{taken_port}'" in complaint


def test_a_foreign_address_is_answered_in_one_line(penstock: Run, write_app: WriteApp):
    write_app()
    assert "not an address of this machine" in refused(penstock("serve", "main:app", "--host", "192.0.2.1"), ADDRESS)


def test_a_descriptor_that_does_not_listen_is_answered_in_one_line(penstock: Run, write_app: WriteApp):
    write_app()
    assert "is not a socket" in refused(penstock("serve", "main:app", "--fd", "0"), ADDRESS)


def test_a_unix_socket_path_that_is_too_long_is_answered_in_one_line(penstock: Run, write_app: WriteApp):
    write_app()
    assert "--uds: expected a path of at most" in refused(penstock("serve", "main:app", "--uds", "x" * 200), ADDRESS)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_option_in_its_group(penstock: Run, flag: str):
    done = penstock("serve", flag)
    assert (done.returncode, done.stderr) == (0, "")
    for known in SETTINGS.values():
        assert f"\n{known.group}:\n" in done.stdout
        assert f"--[no-]{known.flag[2:]}" in done.stdout if known.off_flag else known.flag in done.stdout


def test_the_bare_command_shows_its_help(penstock: Run):
    done = penstock()
    assert (done.returncode, done.stderr) == (0, "")
    assert "serve" in done.stdout


def test_the_version_names_penstock_and_its_python(penstock: Run):
    done = penstock("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"penstock {package.__version__} (")


def test_the_script_is_the_module(tmp_path: Path):
    script = Path(sys.executable).with_name("penstock")
    outputs = [
        subprocess.run([*command, "serve", "--help"], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
        for command in ([str(script)], [sys.executable, "-m", "penstock"])
    ]
    assert outputs[0] == outputs[1]


def test_help_imports_neither_the_server_nor_asyncio(tmp_path: Path):
    program = "import sys, penstock.cli as c; c.main(['serve', '-h']); print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=clean_environment()
    )
    imported = set(done.stderr.split())
    assert "penstock.config" in imported
    assert not imported & {"asyncio", "penstock._core", "penstock.server", "penstock.listener"}


def test_a_server_starts_without_what_only_some_need():
    """Each costs every start as long as many applications take."""
    code = "import sys, penstock.server; print(*{'importlib.metadata', 'email', 'http.client'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_run_has_the_settings_as_keyword_arguments():
    parameters = list(inspect.signature(package.run).parameters.values())
    assert parameters[0].name == "app"
    assert {each.name: each.default for each in parameters[1:]} == {
        name: known.default for name, known in SETTINGS.items()
    }
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters[1:])


def test_run_refuses_a_wrong_setting_before_anything_else():
    with pytest.raises(package.ConfigError, match="--port: expected a whole number"):
        package.run("no_such_module:app", port=-1)


def test_run_raises_what_the_command_line_prints(taken_port: int):
    async def app(scope: object, receive: object, send: object) -> None: ...

    with pytest.raises(package.AddressInUse):
        package.run(app, port=taken_port, log_level="critical")


def test_every_public_name_can_be_had():
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


def test_a_config_is_what_the_server_is_given():
    assert ServerConfig().host == SETTINGS["host"].default
    assert socket.inet_aton(ServerConfig().host)

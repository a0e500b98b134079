"""Options of uvicorn and gunicorn: every one of them is known here, and does what its line in the table says."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import Server
from gunicorn import config as gunicorn

from penstock.cli import foreign
from penstock.cli.options import Choices, SettingOption, choices_from
from penstock.cli.serve import command
from penstock.config import SETTINGS

Run = Callable[..., subprocess.CompletedProcess[str]]

OURS = {
    flag for each in command.params if isinstance(each, click.Option) for flag in (*each.opts, *each.secondary_opts)
}
UVICORN: list[click.Parameter] = importlib.import_module("uvicorn.main").main.params


def choices(*arguments: str, environment: dict[str, str] | None = None) -> Choices:
    context = command.make_context("serve", list(arguments), resilient_parsing=False)
    return choices_from(context.params, {} if environment is None else environment)


def values(found: Choices) -> dict[str, object]:
    assert [str(error) for error in found.all_errors()] == []
    return {name: given.value for name, given in found.given.items()}


def test_every_option_of_uvicorn_is_known():
    theirs = {flag for each in UVICORN if isinstance(each, click.Option) for flag in (*each.opts, *each.secondary_opts)}
    assert theirs - OURS - {"--version"} == set()


def test_every_option_of_gunicorn_is_known():
    theirs = {flag for each in gunicorn.KNOWN_SETTINGS for flag in each.cli or ()}
    assert theirs - OURS == set()


@pytest.mark.parametrize(
    ("server", "theirs"),
    [
        ("uvicorn", [flag for each in UVICORN if isinstance(each, click.Option) for flag in each.opts]),
        ("gunicorn", [flag for each in gunicorn.KNOWN_SETTINGS for flag in each.cli or ()]),
    ],
)
def test_the_options_that_need_no_line_are_listed(server: str, theirs: list[str]):
    own = {each.flag for each in SETTINGS.values()} | {"-c", "--config", "--check-config", "--print-config"}
    assert list(foreign.SAME[server]) == [flag for flag in theirs if flag in own]


def test_every_variable_of_gunicorn_is_known():
    known = {*SETTINGS, *foreign.BY_VARIABLE, *foreign.HOOKS, "wsgi_app", "config", "print_config", "check_config"}
    assert {str(each.name) for each in gunicorn.KNOWN_SETTINGS} - known == set()


def test_no_option_has_two_meanings():
    own = {flag for each in SETTINGS.values() for flag in (each.flag, each.off_flag)}
    assert not own & set(foreign.BY_FLAG)
    assert len(foreign.BY_FLAG) == sum(len(each.flags) for each in foreign.TABLE)
    assert len(foreign.BY_VARIABLE) == sum(each.variable is not None for each in foreign.TABLE)


@pytest.mark.parametrize("known", foreign.TABLE, ids=lambda known: known.name)
def test_an_option_of_another_server_does_what_its_line_says(known: foreign.Foreign):
    assert known.flags or known.variable
    for flag in known.flags:
        found = choices(flag, *(["256"] if known.takes_value and known.setting not in SAMPLES else []), *sample(known))
        told = [str(error) for error in found.errors]
        if known.is_refused:
            assert told == [f"{flag}: {known.word}"]
        elif known.setting is None:
            assert (told, found.notes) == ([], [f"{flag} has no effect: {known.word}"])
        else:
            assert told == []
            assert found.given[known.setting].called == flag


SAMPLES: dict[str | None, str] = {
    "bind": "127.0.0.1:1",
    "lifespan": "on",
    "forwarded_allow_ips": "10.0.0.1",
    "access_logfile": "-",
    "umask": "027",
}


def sample(known: foreign.Foreign) -> list[str]:
    return [SAMPLES[known.setting]] if known.takes_value and known.setting in SAMPLES else []


def test_values_are_put_in_our_terms():
    found = choices("-b", "127.0.0.1:81", "-b", "unix:/run/a", "--keep-alive", "2", "--limit-request-line", "0")
    assert values(found) == {
        "bind": ("127.0.0.1:81", "unix:/run/a"),
        "timeout_keep_alive_s": 2,
        "limit_target_size": 1048576,
    }
    assert values(choices("--interface", "asgi3", "--threads", "3")) == {"interface": "asgi", "threads": 3}
    assert values(choices("--h11-max-incomplete-event-size", "4096")) == {"limit_head_size": 4096}


def test_a_header_may_hold_what_separates_other_values():
    found = choices("--header", "strict-transport-security: max-age=1; includeSubDomains", "--header", "x-a:1")
    assert values(found) == {"header": ("strict-transport-security: max-age=1; includeSubDomains", "x-a:1")}
    found = choices(environment={"PENSTOCK_HEADER": "x-a: 1;2\nx-b: 3", "PENSTOCK_BIND": "a:1,unix:/b"})
    assert values(found) == {"header": ("x-a: 1;2", "x-b: 3"), "bind": ("a:1", "unix:/b")}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--keep-alive", "2", "--timeout-keep-alive", "3"],
            "--timeout-keep-alive and --keep-alive are the same setting",
        ),
        (["-b", "::1:80"], "-b: expected HOST:PORT, unix:PATH or fd://N"),
        (["--bind", "localhost:http"], "--bind: expected HOST:PORT, unix:PATH or fd://N"),
        (["-b", "localhost:80", "--uds", "/run/a"], "--uds and -b both say where to listen: give one of them"),
        (["--header", "content-length: 3"], "--header: expected NAME:VALUE, a header that frames no message"),
        (["--header", "x-a: 1\r\nx-b: 2"], "--header: expected NAME:VALUE"),
        (["--ssl-keyfile", "key.pem"], "--ssl-keyfile: TLS ends before Penstock: have nginx or HAProxy end it"),
        (["--reload", "-w", "2"], "--reload serves in one process that starts anew: leave -w out"),
        (["-D"], "-D: servers are kept by a service manager"),
        (["--log-config", "no.ini"], "--log-config: cannot read no.ini: no such file or directory"),
        (["--env-file", "no.env"], "--env-file: cannot read no.env: no such file or directory"),
        (["--chdir", "nowhere"], "--chdir: cannot go to nowhere: no such file or directory"),
        (["--error-logfile", "no/log"], "--error-logfile: cannot write no/log: no such file or directory"),
        (["-c", "no.py"], "--config: cannot read no.py: no such file or directory"),
        (["--keepalive", "2"], "unknown option --keepalive; did you mean --keep-alive? (see penstock serve --help)"),
    ],
)
def test_what_cannot_be_taken_is_answered_in_one_line(penstock: Run, arguments: list[str], complaint: str):
    done = penstock("serve", *arguments, "main:app")
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"penstock: error: {complaint}")


def test_what_has_no_effect_is_told_and_the_server_runs(serve: Callable[..., Server]):
    server = serve(
        HEADERS_APP, "-k", "uvicorn.workers.UvicornWorker", "--loop", "uvloop", env={"GUNICORN_CMD_ARGS": "-w 4"}
    )
    assert b"200 OK" in server.get()
    server.wait_for_log("WARNING:  -k has no effect: there is one kind of worker")
    server.wait_for_log("WARNING:  --loop has no effect: ")
    server.wait_for_log("WARNING:  GUNICORN_CMD_ARGS is not read: give its options to penstock serve")


HEADERS_APP = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
"""


def test_headers_are_added_to_every_response(serve: Callable[..., Server]):
    server = serve(HEADERS_APP, "--header", "X-Frame-Options: DENY", "--header", "server:me", "--header", "x-b:")
    for answer in (server.get(), server.exchange(b"NONSENSE\r\n\r\n")):
        head = answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
        assert {b"x-frame-options: deny", b"server: me", b"x-b: "} <= set(head)
        assert b"server: penstock" not in head


def test_several_places_are_listened_at(serve: Callable[..., Server], tmp_path: Path):
    server = serve(HEADERS_APP, "--bind", "127.0.0.1:0", "--bind", f"unix:{tmp_path}/a.sock")
    server.wait_for_log("running on unix:")
    for line in server.log.splitlines():
        if "running on" in line:
            assert b"200 OK" in Server.get(server)
    assert (tmp_path / "a.sock").is_socket()
    server.stop()
    assert not (tmp_path / "a.sock").exists()


# ---- gunicorn.conf.py ------------------------------------------------------------------------------------------------


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Choices]:
    """What a gunicorn.conf.py of this content, and further arguments, come to."""
    monkeypatch.chdir(tmp_path)

    def read(content: str, *arguments: str, environment: dict[str, str] | None = None) -> Choices:
        Path("gunicorn.conf.py").write_text(content, encoding="utf-8")
        return choices("-c", "gunicorn.conf.py", *arguments, environment=environment)

    return read


def test_a_file_s_variables_are_settings_by_gunicorn_s_names_and_by_ours(conf: Callable[..., Choices]):
    found = conf(
        "import os\ncores = 2\nbind = ['0.0.0.0:80', 'unix:/run/a']\nkeepalive = 2\ngraceful_timeout = 4 * cores\n"
        "loglevel = 'WARNING'\nwsgi_app = 'shop:app'\nlimit_concurrency = 10\nworker_class = 'gevent'\n"
        "workers = cores * 2 + 1\nuser = 1000\numask = 0o027\ntimeout = 0\n"
        "static = ['/assets=dist']\nkeyfile = None\ndaemon = False\nkeep_alve = 3\n"
        "def post_fork(server, worker): pass\n"
    )
    assert {name: str(value) for name, value in values(found).items()} == {
        "bind": "('0.0.0.0:80', 'unix:/run/a')",
        "timeout_keep_alive_s": "2",
        "timeout_graceful_shutdown_s": "8",
        "log_level": "warning",
        "limit_concurrency": "10",
        "workers": "5",
        "user": "1000",
        "umask": "23",
        "timeout_worker_s": "0",
        "static": str(found.given["static"].value),
    }
    assert found.app == "shop:app"
    assert found.notes == [
        f"worker_class in gunicorn.conf.py {foreign.BY_VARIABLE['worker_class'].note}",
        f"post_fork in gunicorn.conf.py has no effect: {foreign.HOOKS['post_fork']}",
        "gunicorn.conf.py has what is no setting: cores, keep_alve (did you mean keepalive?)",
    ]


def test_the_command_line_and_the_environment_go_before_the_file(conf: Callable[..., Choices]):
    content = "bind = 'a:1, b:2'\nkeepalive = 2\nbacklog = 3\n"
    assert values(conf(content))["bind"] == ("a:1", "b:2")
    found = values(conf(content, "--port", "9", "--keep-alive", "5", environment={"PENSTOCK_BACKLOG": "7"}))
    assert found == {"port": 9, "timeout_keep_alive_s": 5, "backlog": 7}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            "keepalive = 'often'",
            "keepalive in gunicorn.conf.py: expected a number of seconds from 0 to 86400, got 'often'",
        ),
        ("backlog = 1.5", "backlog in gunicorn.conf.py: expected a whole number from 1 to 65535, got 1.5"),
        ("bind = 8000", "bind in gunicorn.conf.py: expected HOST:PORT"),
        ("bind = ['a:1', 3]", "bind in gunicorn.conf.py: expected HOST:PORT"),
        ("certfile = 'x'", "certfile in gunicorn.conf.py: TLS ends before Penstock"),
        ("raise OSError('no')", "--config: cannot read gunicorn.conf.py: no"),
        ("a = 1 /", "--config: syntax error in gunicorn.conf.py:1: invalid syntax: a = 1 /"),
        ("a = 1 / 0", "--config: gunicorn.conf.py raised ZeroDivisionError: division by zero"),
        ("uds = 'a'\nport = 3", "uds in gunicorn.conf.py and port in gunicorn.conf.py both say where to listen"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_by_its_name_there(
    conf: Callable[..., Choices], content: str, complaint: str
):
    errors = [str(error) for error in conf(content).all_errors()]
    assert len(errors) == 1
    assert errors[0].startswith(complaint), errors


def test_a_file_beside_the_command_that_is_not_named_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert choices().notes == []
    Path("gunicorn.conf.py").touch()
    assert choices().notes == ["gunicorn.conf.py is here, and is read only with -c gunicorn.conf.py"]


# ---- what is in effect, and whether it is right ----------------------------------------------------------------------


def test_print_config_tells_each_setting_and_where_it_came_from(penstock: Run, tmp_path: Path):
    (tmp_path / "c.py").write_text("keepalive = 2\nerrorlog = 'here'\n", encoding="utf-8")
    (tmp_path / "e.env").write_text("export PENSTOCK_BACKLOG='77'  # a comment\nPENSTOCK_PORT=1\n", encoding="utf-8")
    arguments = ["-c", "c.py", "--env-file", "e.env", "--limit-request-fields", "9", "--no-date-header"]
    done = penstock("serve", "--print-config", *arguments, env={"PENSTOCK_PORT": "81"})
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(" = ") for line in done.stdout.splitlines() if " = " in line)
    assert set(lines) == set(SETTINGS)
    told = {name: tuple(part.strip() for part in line.split("  # ")) for name, line in lines.items()}
    assert {name: line for name, line in told.items() if line[1] != "default"} == {
        "port": ("81", "PENSTOCK_PORT"),
        "backlog": ("77", "PENSTOCK_BACKLOG"),
        "timeout_keep_alive_s": ("2", "keepalive in c.py"),
        "env_file": ('"e.env"', "--env-file"),
        "limit_headers": ("9", "--limit-request-fields"),
        "date_header": ("false", "--no-date-header"),
        "error_logfile": ('"here"', "errorlog in c.py"),
    }


def test_print_config_is_read_by_toml(penstock: Run):
    import tomllib

    found = tomllib.loads(penstock("serve", "--print-config", "--root-path", "/ü").stdout)
    assert found["root_path"] == "/ü"
    assert found["limit_headers"] == SETTINGS["limit_headers"].default


def test_check_config_says_ok_and_opens_and_starts_nothing(
    penstock: Run, write_app: Any, taken_port: int, tmp_path: Path
):
    write_app("print('imported')\nasync def app(scope, receive, send): raise RuntimeError(scope['type'])\n")
    where = ["-b", f"127.0.0.1:{taken_port}", "-b", "127.0.0.1:0", "-b", f"unix:{tmp_path}/new.sock"]
    done = penstock("serve", "--check-config", *where, "main:app")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "imported\npenstock: main:app can be served\n"
    assert not (tmp_path / "new.sock").exists()


def test_check_config_says_every_mistake_and_ends_with_the_first_one_s_status(penstock: Run, write_app: Any):
    write_app("import nothing_of_this_name\n")
    done = penstock("serve", "--check-config", "--port", "x", "--backlog", "0", "-D", "--uds", "a", "main:app")
    assert [line.split(": ")[2] for line in done.stderr.splitlines()] == ["--port", "--backlog", "-D"]
    assert done.returncode == 2
    done = penstock("serve", "--check-config", "--host", "192.0.2.1", "--log-config", "x.json", "main:app")
    lines = [line for line in done.stderr.splitlines() if line.startswith("penstock: error: ")]
    assert [line.removeprefix("penstock: error: ").split()[0] for line in lines] == [
        "--log-config:",
        "192.0.2.1",
        "importing",
    ]
    assert done.returncode == 2
    done = penstock("serve", "--check-config", "main:app")
    assert done.returncode == 4


def test_an_env_file_reaches_the_application_and_changes_nothing_that_is_set(
    serve: Callable[..., Server], tmp_path: Path
):
    (tmp_path / ".env").write_text('WHO="the file"\nWHERE=there\n', encoding="utf-8")
    source = """
    import os
    text = f"{os.environ['WHO']} {os.environ['WHERE']}".encode()
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": text})
    """
    server = serve(source, "--env-file", ".env", env={"WHERE": "here"})
    assert server.get().endswith(b"the file here\r\n0\r\n\r\n") or server.get().endswith(b"the file here")


def test_every_option_of_ours_is_in_the_command():
    assert {each.setting.name for each in command.params if isinstance(each, SettingOption)} == set(SETTINGS)

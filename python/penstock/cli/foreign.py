"""The options of uvicorn and gunicorn that have another name here, and what becomes of each.

An option is either another name for a setting of ours, perhaps with its value put in our terms; or it is taken
without effect, which is told; or it is refused, with what to use instead. Options that are called the same here mean
the same and need no line. `docs/from-uvicorn.md` and `docs/from-gunicorn.md` are made from this table, and a test holds
it against the servers' own lists of options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import click

from ..config import SETTINGS

UVICORN, GUNICORN = "uvicorn", "gunicorn"


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """One option of another server."""

    flags: tuple[str, ...]
    servers: tuple[str, ...]
    # What it is called in gunicorn.conf.py, if it can be there.
    variable: str | None = None
    takes_value: bool = True
    # The setting that it gives, and its value in the setting's terms.
    setting: str | None = None
    turn: Callable[[Any], object] | None = None
    # What a person is told: for a setting how the value is turned, else why nothing happens, or what to do instead.
    word: str = ""
    is_refused: bool = False

    @property
    def name(self) -> str:
        """What it is called first."""
        return self.flags[0] if self.flags else self.variable or ""

    @property
    def note(self) -> str:
        return f"has no effect: {self.word}"


def _same(*flags: str, setting: str, of: str, variable: str | None = None) -> Foreign:
    assert setting in SETTINGS, setting
    return Foreign(flags=flags, servers=(of,), setting=setting, variable=variable, takes_value=_takes_value(setting))


def _turned(
    *flags: str, setting: str, of: str, turn: Callable[[Any], object], word: str, variable: str | None = None,
    takes_value: bool = True,
) -> Foreign:  # fmt: skip
    assert setting in SETTINGS, setting
    return Foreign(
        flags=flags, servers=(of,), setting=setting, turn=turn, word=word, variable=variable, takes_value=takes_value
    )


def _without_effect(*flags: str, of: str, word: str, variable: str | None = None, takes_value: bool = True) -> Foreign:
    return Foreign(flags=flags, servers=(of,), word=word, variable=variable, takes_value=takes_value)


def _refused(*flags: str, of: str, word: str, variable: str | None = None, takes_value: bool = True) -> Foreign:
    return Foreign(flags=flags, servers=(of,), word=word, variable=variable, takes_value=takes_value, is_refused=True)


def _takes_value(setting: str) -> bool:
    return SETTINGS[setting].off_flag is None


_TLS = "TLS ends before Penstock: have nginx or HAProxy end it, as docs/deploy shows"
_WEBSOCKETS = "Penstock serves HTTP, and no WebSockets that could be tuned"
_HTTP2 = "clients speak HTTP/1.1 with Penstock: let a proxy that speaks HTTP/2 stand before it, as docs/deploy shows"
_STRICT = "requests that are not well formed are refused, without exception"
_SYSLOG = "describe a SysLogHandler in a file for --log-config, or let systemd's journal take what is written"
_HOOK = "hooks of gunicorn's processes are not called; start-up and shutdown belong in the application's lifespan"
_DIRTY = "there are no such processes here: run what takes long in a task queue, or in the application's own pool"


TABLE: tuple[Foreign, ...] = (
    _turned("--h11-max-incomplete-event-size", of=UVICORN, setting="limit_head_size", turn=str, word="the same number"),
    _same("--timeout-worker-healthcheck", of=UVICORN, setting="timeout_worker_s"),
    _without_effect("--loop", of=UVICORN, word="the application runs on Penstock's own event loop"),
    _without_effect("--http", of=UVICORN, word="there is one HTTP parser"),
    _without_effect("--ws", of=UVICORN, word=_WEBSOCKETS),
    _refused("--ws-max-size", of=UVICORN, word=_WEBSOCKETS),
    _refused("--ws-max-queue", of=UVICORN, word=_WEBSOCKETS),
    _refused("--ws-ping-interval", of=UVICORN, word=_WEBSOCKETS),
    _refused("--ws-ping-timeout", of=UVICORN, word=_WEBSOCKETS),
    _refused("--ws-per-message-deflate", of=UVICORN, word=_WEBSOCKETS),
    _refused("--http2", of=UVICORN, word=_HTTP2, takes_value=False),
    _without_effect(
        "--reset-contextvars", of=UVICORN, word="every request has a fresh context anyway", takes_value=False
    ),
    _refused("--ssl-keyfile", of=UVICORN, word=_TLS),
    _refused("--ssl-certfile", of=UVICORN, word=_TLS),
    _refused("--ssl-keyfile-password", of=UVICORN, word=_TLS),
    _refused("--ssl-version", of=UVICORN, word=_TLS, variable="ssl_version"),
    _refused("--ssl-cert-reqs", of=UVICORN, word=_TLS),
    _refused("--ssl-ca-certs", of=UVICORN, word=_TLS),
    _refused("--ssl-ciphers", of=UVICORN, word=_TLS),
    # Of gunicorn, in the order of its own documentation.
    _same("-b", of=GUNICORN, setting="bind"),
    _same("-w", of=GUNICORN, setting="workers"),
    _same("--max-requests", of=GUNICORN, setting="limit_max_requests", variable="max_requests"),
    _same("--max-requests-jitter", of=GUNICORN, setting="limit_max_requests_jitter", variable="max_requests_jitter"),
    _same("-t", "--timeout", of=GUNICORN, setting="timeout_worker_s", variable="timeout"),
    _same(of=GUNICORN, setting="preload", variable="preload_app"),
    _same("-p", of=GUNICORN, setting="pid", variable="pidfile"),
    _turned("-u", of=GUNICORN, variable="user", setting="user", turn=str, word="the same"),
    _turned("-g", of=GUNICORN, variable="group", setting="group", turn=str, word="the same"),
    _same("-m", of=GUNICORN, setting="umask"),
    _same("--control-socket", of=GUNICORN, setting="control", variable="control_socket"),
    _without_effect(
        "--control-socket-mode",
        of=GUNICORN,
        variable="control_socket_mode",
        word="only its owner may open the control socket",
    ),
    _without_effect(
        "--no-control-socket",
        of=GUNICORN,
        variable="control_socket_disable",
        takes_value=False,
        word="there is a control socket only with --control",
    ),
    _without_effect(
        "-k",
        "--worker-class",
        of=GUNICORN,
        variable="worker_class",
        word="there is one kind of worker; whether the application is ASGI or WSGI is seen from it",
    ),
    _without_effect(
        "--worker-connections",
        of=GUNICORN,
        variable="worker_connections",
        word="connections are as many as there are descriptors; --limit-connections bounds them, "
        "--limit-concurrency the requests under way",
    ),
    _same("--graceful-timeout", of=GUNICORN, setting="timeout_graceful_shutdown_s", variable="graceful_timeout"),
    _same("--keep-alive", of=GUNICORN, setting="timeout_keep_alive_s", variable="keepalive"),
    _turned(
        "--limit-request-line",
        of=GUNICORN,
        variable="limit_request_line",
        setting="limit_target_size",
        turn=lambda value: _zero_is(value, "1048576"),
        word="the same number; 0 is the largest there is",
    ),
    _same("--limit-request-fields", of=GUNICORN, setting="limit_headers", variable="limit_request_fields"),
    _without_effect(
        "--limit-request-field_size",
        of=GUNICORN,
        variable="limit_request_field_size",
        word="--limit-head-size bounds all header lines together",
    ),
    _without_effect(
        "--reload-engine", of=GUNICORN, variable="reload_engine", word="the kernel tells of changes, wherever it can"
    ),
    _same("--reload-extra-file", of=GUNICORN, setting="reload_include", variable="reload_extra_files"),
    _refused("--spew", of=GUNICORN, variable="spew", word="run the server under python -m trace", takes_value=False),
    _without_effect(
        "--no-sendfile",
        of=GUNICORN,
        variable="sendfile",
        takes_value=False,
        word="large files are sent by the kernel wherever it can",
    ),
    _refused(
        "--reuse-port",
        of=GUNICORN,
        variable="reuse_port",
        takes_value=False,
        word="workers share one listener, or have one each with --accept reuseport",
    ),
    _refused(
        "-D",
        "--daemon",
        of=GUNICORN,
        variable="daemon",
        takes_value=False,
        word="servers are kept by a service manager: deploy/systemd has a unit",
    ),
    _refused(
        "-e",
        "--env",
        of=GUNICORN,
        variable="raw_env",
        word="put it before the command, as in NAME=VALUE penstock serve, or in a file for --env-file",
    ),
    _without_effect("--worker-tmp-dir", of=GUNICORN, variable="worker_tmp_dir", word="heartbeats need no files here"),
    _without_effect(
        "--initgroups",
        of=GUNICORN,
        variable="initgroups",
        word="the user's groups are always taken",
        takes_value=False,
    ),
    _without_effect(of=GUNICORN, variable="tmp_upload_dir", word="bodies are streamed to the application"),
    _without_effect(
        of=GUNICORN,
        variable="secure_scheme_headers",
        word="the scheme comes from X-Forwarded-Proto, if the peer is one of --forwarded-allow-ips",
    ),
    _same(of=GUNICORN, setting="access_logfile", variable="accesslog"),
    _same(of=GUNICORN, setting="access_logformat", variable="access_log_format"),
    _same("--log-file", of=GUNICORN, setting="error_logfile", variable="errorlog"),
    _same(of=GUNICORN, setting="log_level", variable="loglevel"),
    _same(of=GUNICORN, setting="log_config", variable="logconfig"),
    _same("--log-config-json", of=GUNICORN, setting="log_config", variable="logconfig_json"),
    _refused(of=GUNICORN, variable="logconfig_dict", word="put it into a JSON file for --log-config"),
    _without_effect(
        "--capture-output",
        of=GUNICORN,
        variable="capture_output",
        takes_value=False,
        word="what the application prints goes where standard output goes",
    ),
    _refused("--logger-class", of=GUNICORN, variable="logger_class", word="set up Python's logging with --log-config"),
    _without_effect(
        "--disable-redirect-access-to-syslog",
        of=GUNICORN,
        variable="disable_redirect_access_to_syslog",
        takes_value=False,
        word="nothing is sent to syslog",
    ),
    _refused("--log-syslog-to", of=GUNICORN, variable="syslog_addr", word=_SYSLOG),
    _refused("--log-syslog", of=GUNICORN, variable="syslog", word=_SYSLOG, takes_value=False),
    _refused("--log-syslog-prefix", of=GUNICORN, variable="syslog_prefix", word=_SYSLOG),
    _refused("--log-syslog-facility", of=GUNICORN, variable="syslog_facility", word=_SYSLOG),
    _without_effect(
        "-R",
        "--enable-stdio-inheritance",
        of=GUNICORN,
        variable="enable_stdio_inheritance",
        takes_value=False,
        word="standard output is always inherited",
    ),
    _refused("--statsd-host", of=GUNICORN, variable="statsd_host", word="count in a middleware of the application"),
    _without_effect("--statsd-prefix", of=GUNICORN, variable="statsd_prefix", word="nothing is sent to statsd"),
    _without_effect("--dogstatsd-tags", of=GUNICORN, variable="dogstatsd_tags", word="nothing is sent to statsd"),
    _without_effect(
        "--enable-backlog-metric",
        of=GUNICORN,
        variable="enable_backlog_metric",
        takes_value=False,
        word="nothing is sent to statsd; ss -lnt shows the backlog",
    ),
    _without_effect("-n", "--name", of=GUNICORN, variable="proc_name", word="processes keep their command line"),
    _without_effect(of=GUNICORN, variable="default_proc_name", word="processes keep their command line"),
    _refused(
        "--pythonpath", of=GUNICORN, variable="pythonpath", word="give one directory to --app-dir, more to PYTHONPATH"
    ),
    _refused(
        "--paste",
        "--paster",
        of=GUNICORN,
        variable="paste",
        word="make the application in a module of its own, with paste.deploy.loadapp, and name that",
    ),
    _refused("--paste-global", of=GUNICORN, variable="raw_paste_global_conf", word="give it to paste.deploy.loadapp"),
    _same("--proxy-allow-from", of=GUNICORN, setting="forwarded_allow_ips", variable="proxy_allow_ips"),
    _without_effect("--protocol", of=GUNICORN, variable="protocol", word="HTTP is what is spoken"),
    _without_effect("--uwsgi-allow-from", of=GUNICORN, variable="uwsgi_allow_ips", word="HTTP is what is spoken"),
    _refused("--keyfile", of=GUNICORN, variable="keyfile", word=_TLS),
    _refused("--certfile", of=GUNICORN, variable="certfile", word=_TLS),
    _refused("--cert-reqs", of=GUNICORN, variable="cert_reqs", word=_TLS),
    _refused("--ca-certs", of=GUNICORN, variable="ca_certs", word=_TLS),
    _refused("--ciphers", of=GUNICORN, variable="ciphers", word=_TLS),
    _refused("--suppress-ragged-eofs", of=GUNICORN, variable="suppress_ragged_eofs", word=_TLS, takes_value=False),
    _refused(
        "--do-handshake-on-connect", of=GUNICORN, variable="do_handshake_on_connect", word=_TLS, takes_value=False
    ),
    _without_effect("--http-protocols", of=GUNICORN, variable="http_protocols", word=_HTTP2),
    _without_effect("--http2-cleartext", of=GUNICORN, variable="http2_cleartext", word=_HTTP2),
    _without_effect(
        "--http2-max-concurrent-streams", of=GUNICORN, variable="http2_max_concurrent_streams", word=_HTTP2
    ),
    _without_effect("--http2-initial-window-size", of=GUNICORN, variable="http2_initial_window_size", word=_HTTP2),
    _without_effect("--http2-max-frame-size", of=GUNICORN, variable="http2_max_frame_size", word=_HTTP2),
    _without_effect("--http2-max-header-list-size", of=GUNICORN, variable="http2_max_header_list_size", word=_HTTP2),
    _refused(
        "--permit-obsolete-folding", of=GUNICORN, variable="permit_obsolete_folding", word=_STRICT, takes_value=False
    ),
    _refused("--strip-header-spaces", of=GUNICORN, variable="strip_header_spaces", word=_STRICT, takes_value=False),
    _without_effect(
        "--permit-unconventional-http-method",
        of=GUNICORN,
        variable="permit_unconventional_http_method",
        takes_value=False,
        word="every method that is a token is passed on",
    ),
    _refused(
        "--permit-unconventional-http-version",
        of=GUNICORN,
        variable="permit_unconventional_http_version",
        takes_value=False,
        word=_STRICT,
    ),
    _refused("--casefold-http-method", of=GUNICORN, variable="casefold_http_method", word=_STRICT, takes_value=False),
    _without_effect(
        "--forwarder-headers",
        of=GUNICORN,
        variable="forwarder_headers",
        word="of a proxy X-Forwarded-For and X-Forwarded-Proto are believed; see --forwarded-allow-ips",
    ),
    _without_effect("--header-map", of=GUNICORN, variable="header_map", word="ASGI has every header by its own name"),
    _without_effect("--asgi-loop", of=GUNICORN, variable="asgi_loop", word="there is one event loop, Penstock's"),
    _same("--asgi-lifespan", of=GUNICORN, setting="lifespan", variable="asgi_lifespan"),
    _without_effect(
        "--asgi-disconnect-grace-period",
        of=GUNICORN,
        variable="asgi_disconnect_grace_period",
        word="a disconnect cancels nothing, unless --cancel-on-disconnect asks for it",
    ),
    _without_effect(
        "--websocket-max-message-size", of=GUNICORN, variable="websocket_max_message_size", word=_WEBSOCKETS
    ),
    _without_effect("--http-parser", of=GUNICORN, variable="http_parser", word="there is one HTTP parser"),
    _refused("--dirty-app", of=GUNICORN, variable="dirty_apps", word=_DIRTY),
    _without_effect("--dirty-workers", of=GUNICORN, variable="dirty_workers", word=_DIRTY),
    _without_effect("--dirty-timeout", of=GUNICORN, variable="dirty_timeout", word=_DIRTY),
    _without_effect("--dirty-threads", of=GUNICORN, variable="dirty_threads", word=_DIRTY),
    _without_effect("--dirty-graceful-timeout", of=GUNICORN, variable="dirty_graceful_timeout", word=_DIRTY),
)

# Hooks of gunicorn.conf.py: functions, which may do anything there.
_HOOK_NAMES = """
on_starting on_reload when_ready pre_fork post_fork post_worker_init worker_int worker_abort pre_exec pre_request
post_request child_exit worker_exit nworkers_changed on_exit on_dirty_starting dirty_post_fork dirty_worker_init
dirty_worker_exit
"""
HOOKS = dict.fromkeys(_HOOK_NAMES.split(), _HOOK) | {"ssl_context": _TLS}

_SAME_AS_UVICORN = """
--host --port --uds --fd --reload --reload-dir --reload-include --reload-exclude --reload-delay --workers --lifespan
--interface --env-file --log-config --log-level --access-log --use-colors --proxy-headers --server-header
--date-header --forwarded-allow-ips --root-path --limit-concurrency --backlog --limit-max-requests
--limit-max-requests-jitter --timeout-keep-alive --timeout-graceful-shutdown --header --app-dir --factory
"""
_SAME_AS_GUNICORN = """
-c --config --bind --backlog --workers --threads --reload --check-config --print-config --preload --chdir --pid --user
--group --umask --forwarded-allow-ips --access-logfile --access-logformat --error-logfile --log-level --log-config
--proxy-protocol --root-path
"""
# Options of theirs that are settings here by the same name, with the same meaning.
SAME: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {UVICORN: tuple(_SAME_AS_UVICORN.split()), GUNICORN: tuple(_SAME_AS_GUNICORN.split())}
)

BY_FLAG: Mapping[str, Foreign] = MappingProxyType({flag: each for each in TABLE for flag in each.flags})
BY_VARIABLE: Mapping[str, Foreign] = MappingProxyType({each.variable: each for each in TABLE if each.variable})


def _zero_is(value: object, instead: str) -> object:
    return instead if str(value) == "0" else value


def other_names(setting: str) -> Iterable[str]:
    """What else a setting may be called on the command line."""
    return (flag for each in TABLE if each.setting == setting and each.turn is None for flag in each.flags)


class ForeignOption(click.Option):
    """One name of another server's option. It is not shown: help is about what there is."""

    def __init__(self, flag: str, known: Foreign) -> None:
        super().__init__(
            [flag, self.parameter_name(flag)],
            default=None,
            hidden=True,
            is_flag=not known.takes_value,
            multiple=known.takes_value,
            flag_value=None if known.takes_value else True,
        )
        self.flag, self.known = flag, known

    @staticmethod
    def parameter_name(flag: str) -> str:
        return "other_" + flag.strip("-").replace("-", "_")


def options() -> list[click.Parameter]:
    return [ForeignOption(flag, known) for flag, known in BY_FLAG.items()]

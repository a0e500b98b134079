"""What a machine is to do: how many connections, of which kind, opened how fast.

A profile fills in what was not said. Its figures are stated, not hidden: each formula shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigError
from .machine import Machine

# No more are opened a second than this by a CPU: accepting costs the kernel about 20 us, both ends' packets told.
OPENED_PER_CPU = 25_000


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A kind of work. `buffered` is what a connection has in the kernel's buffers, averaged over all, at the peak."""

    name: str
    meaning: str
    connections: int
    lifetime_s: int
    buffered: int
    mbit: float
    rtt_ms: float
    many_idle: bool


PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="gateway",
            meaning="very many connections, nearly all idle: push, IoT, chat, games. All come back within a minute "
            "of a restart.",
            connections=1_000_000,
            lifetime_s=60,
            buffered=4096,
            mbit=10,
            rtt_ms=100,
            many_idle=True,
        ),
        Profile(
            name="web",
            meaning="requests and responses from browsers or a proxy; a connection lives for seconds.",
            connections=50_000,
            lifetime_s=10,
            buffered=32_768,
            mbit=100,
            rtt_ms=100,
            many_idle=False,
        ),
        Profile(
            name="bulk",
            meaning="few connections that must fill a fast, long path: backups, replication, downloads.",
            connections=500,
            lifetime_s=600,
            buffered=4 << 20,
            mbit=10_000,
            rtt_ms=20,
            many_idle=False,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """`mbit` and `rtt_ms` are those of the fastest single connection; `outgoing` are opened by this machine itself."""

    profile: Profile
    connections: int
    outgoing: int
    workers: int
    opened_per_s: int
    mbit: float
    rtt_ms: float

    @property
    def sockets(self) -> int:
        return self.connections + self.outgoing

    @property
    def window(self) -> int:
        """Bytes on their way on a path that is full: bandwidth x round trip."""
        return round(self.mbit * 1e6 / 8 * self.rtt_ms / 1e3)


def goal_for(
    machine: Machine,
    profile: str,
    *,
    connections: int | None = None,
    outgoing: int = 0,
    workers: int | None = None,
    opened_per_s: int | None = None,
    mbit: float | None = None,
    rtt_ms: float | None = None,
) -> Goal:
    """The goal, completed by its profile and the machine. Raises `ConfigError` for a profile that there is none of."""
    if profile not in PROFILES:
        raise ConfigError(f"profile: expected one of {', '.join(PROFILES)}, got {profile!r}")
    kind = PROFILES[profile]
    wanted = kind.connections if connections is None else connections
    fastest = OPENED_PER_CPU * machine.cpus
    return Goal(
        profile=kind,
        connections=wanted,
        outgoing=outgoing,
        workers=workers or machine.cpus,
        opened_per_s=opened_per_s or max(1, min(wanted // kind.lifetime_s, fastest)),
        mbit=mbit or kind.mbit,
        rtt_ms=rtt_ms or kind.rtt_ms,
    )

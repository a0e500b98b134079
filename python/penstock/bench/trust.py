"""Whose certificates a load takes, as curl does: those of this machine's authorities, of a file's, or anybody's."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError

# A bundle of all the authorities that browsers trust has a quarter of this.
MOST_BYTES = 1 << 20
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s+[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


@dataclass(frozen=True, kw_only=True)
class Trust:
    """`cacert` is a file of certificates (PEM), trusted in place of the machine's; `insecure` takes any."""

    cacert: Path | None = None
    insecure: bool = False

    def authorities(self) -> list[bytes] | None:
        """Certificates in DER, and None for anybody's. Raises `ConfigError` if there are none."""
        if self.insecure:
            return None
        if self.cacert is None:
            return _of_this_machine()
        try:
            found = list(_certificates(self.cacert))
        except (OSError, ValueError) as error:
            raise ConfigError(f"--cacert: {self.cacert}: {getattr(error, 'strerror', None) or error}") from error
        if not found:
            raise ConfigError(f"--cacert: expected certificates in PEM, found none in {self.cacert}")
        return found


THIS_MACHINE = Trust()


def _of_this_machine() -> list[bytes]:
    """Where OpenSSL looks, SSL_CERT_FILE and SSL_CERT_DIR included: a bundle, and a directory of files.

    Python's own context reads the directory only while it verifies, and has nothing to hand over before.
    """
    paths = ssl.get_default_verify_paths()
    files = [Path(paths.cafile)] if paths.cafile else []
    files += sorted(Path(paths.capath).iterdir()) if paths.capath else []
    found: dict[bytes, None] = {}  # each once: a directory has links to what it has as well
    for file in files:
        try:
            found.update(dict.fromkeys(_certificates(file)))
        except (OSError, ValueError):
            continue
    if not found:
        looked = paths.openssl_cafile, paths.openssl_capath
        raise ConfigError(
            f"expected certificates of authorities in {' or '.join(looked)}, found none: install them (Debian: apt-get "
            "install ca-certificates), name a file with --cacert, or take any with --insecure"
        )
    return list(found)


def _certificates(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        text = opened.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES} bytes of certificates")
    for found in _CERTIFICATE.finditer(text.decode("ascii", "replace")):
        yield ssl.PEM_cert_to_DER_cert(found[0])

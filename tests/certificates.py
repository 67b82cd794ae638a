"""Certificates of the tests' own, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def self_signed(
    folder: Path,
    name: str = "test",
    *,
    names: str = "IP:127.0.0.1",
    days: int = 2,
    together: bool = False,
) -> tuple[Path, Path]:
    """A certificate and its key. `names`: whom it is for, as openssl writes it; `days` below 0:
    it has expired; `together`: the key stands in the certificate's file too."""
    key, request, pem = (folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
    extensions = folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName={names}\n")
    new = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    new += ["-nodes", "-subj", f"/O=The House/CN={name}", "-keyout", str(key), "-out", str(request)]
    sign = ["openssl", "x509", "-req", "-in", str(request), "-signkey", str(key)]
    sign += ["-days", str(days), "-extfile", str(extensions), "-out", str(pem)]
    for command in (new, sign):
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    if together:
        pem.write_text(key.read_text() + pem.read_text())
    return pem, key

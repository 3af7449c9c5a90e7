"""Secrets in files, for `settings`: what an orchestrator mounts, and no variable that a listing of processes shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, get_args

from pydantic import SecretStr
from pydantic_settings import EnvSettingsSource

_SECRET_BYTES: Final = 65_536
"""Of a file with a secret: options of Kafka's client with certificates in them are the largest."""


class Environment(EnvSettingsSource):
    """Variables, and of each secret the file that `METERHOUSE_<NAME>_FILE` names: its text without the last line's end.
    Raises ValueError, which names variables and files and never a secret."""

    def __call__(self) -> dict[str, Any]:
        found = super().__call__()
        for name, field in self.settings_cls.model_fields.items():
            file = self.env_vars.get(f"{self.env_prefix}{name}_file".lower())
            if file is None or SecretStr not in get_args(field.annotation):
                continue
            variable = f"METERHOUSE_{name.upper()}"
            if name in found:
                raise ValueError(f"set {variable} or {variable}_FILE, not both")
            found[name] = _secret_of(Path(file), f"{variable}_FILE")
        return found


def _secret_of(file: Path, variable: str) -> str:
    try:
        with file.open("rb") as opened:
            text = opened.read(_SECRET_BYTES + 1).decode()
    except OSError as trouble:
        raise ValueError(f"{variable}: {file} cannot be read ({trouble.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"{variable}: {file} is no text in UTF-8") from None
    if len(text) > _SECRET_BYTES or not (secret := text.rstrip("\r\n")):
        raise ValueError(
            f"{variable}: {file} is empty or has more than {_SECRET_BYTES:,} bytes: write the secret into it"
        )
    return secret

"""Settings: command line over environment (`ERRORBAR_…`) over `errorbar.toml` over defaults."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from service.connection_limits import ConnectionLimits
from service.errors import InvalidSettings, cut, nearest
from service.logs import LogFormat, LogLevel
from service.scheduling.keeper import Keeping
from service.scheduling.limits import Limits
from service.tls import Version

PREFIX = "ERRORBAR_"
FILE = "errorbar.toml"
BUNDLED_MODELS = Path(__file__).parent.parent / "models" / "repository"


class Settings(BaseSettings):
    """Every setting of the server. The description is the help text and the documentation."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, toml_file=FILE, extra="forbid", frozen=True)

    models: Path = Field(BUNDLED_MODELS, description="Folder of models: <name>/<version>/model.toml.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where models run; auto is cuda where there is.")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of one pass; by default torch's own choice, or a worker's share of cores.")
    workers: int = Field(
        1, ge=1, le=256, description="Processes that share the port, each with all models; more than 1 on Linux only.")
    grace_s: float = Field(
        30.0, gt=0, le=3600, description="Seconds to finish what is in flight after SIGTERM, rounded up to whole ones.")
    body_bytes: int = Field(Limits.body_bytes, gt=0, description="Largest request body, bytes.")
    rows: int = Field(Limits.rows, gt=0, description="Most rows in a request.")
    samples: int = Field(Limits.samples, ge=2, description="Most samples a request may ask for.")
    rows_by_samples: int = Field(Limits.rows_by_samples, gt=0, description="Most rows × samples in a request.")
    returned_numbers: int = Field(Limits.returned_numbers, gt=0, description="Most numbers of returned samples.")
    queue_s: float = Field(Limits.queue_s, gt=0, description="Most seconds of work that may wait.")
    waiting_bytes: int = Field(
        Limits.waiting_bytes, gt=0, description="Most bytes of request bodies in memory at once.")
    answer_numbers: int = Field(Limits.answer_numbers, gt=0, description="Most numbers in an answer, samples aside.")
    hang_s: float = Field(
        Limits.hang_s, gt=0, description="Seconds after which a model that has not returned counts as hanging; then "
                                         "the process ends.")
    keys: Path | None = Field(None, description="File of API keys; without one everyone may ask. See `errorbar keys`.")
    admin_host: str = Field("127.0.0.1", description="Address of the administrators' port.")
    admin_port: int | None = Field(
        None, ge=0, le=65535,
        description="A port of their own for metrics and for loading models; without it they are at `port`.")
    tls_certificate: Path | None = Field(None, description="PEM file of the server's certificate and its chain.")
    tls_key: Path | None = Field(None, description="PEM file of the certificate's private key, without a password.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of the authorities that must have signed a client's certificate.")
    tls_minimum: Version = Field("1.2", description="Lowest version of TLS.")
    connections: int = Field(1000, gt=0, description="Most connections at once, of each port.")
    header_bytes: int = Field(32 << 10, ge=1024, description="Largest address and headers of a request, bytes.")
    headers: int = Field(100, ge=10, description="Most headers of a request.")
    head_s: float = Field(10.0, gt=0, le=3600, description="Seconds for the headers of a request to come whole.")
    body_s: float = Field(60.0, gt=0, le=3600, description="Seconds for the body of a request to come whole.")
    unread_s: float = Field(30.0, gt=0, le=3600, description="Seconds until an answer that nobody reads is given up.")
    keep_alive_s: float = Field(5.0, gt=0, le=3600, description="Seconds that a connection waits for its next request.")
    log_format: LogFormat = Field("text", description="How the log is written: text, or JSON, one object a line.")
    log_level: LogLevel = Field("info", description="What is logged: debug, info, warning or error, and worse.")
    log_requests: bool | Literal["errors"] = Field(
        False, description="Whether each request is logged; errors logs those that were not answered with success.")
    log_models: bool = Field(True, description="Whether the log may name models.")

    reload_s: float = Field(
        Keeping.reload_s, ge=0, le=86_400, description="Seconds between two looks at the folder of models; 0: never.")
    lazy: bool = Field(Keeping.lazy, description="Load a model when it is first asked for, not at the start.")
    model_bytes: int | None = Field(
        Keeping.model_bytes, gt=0, description="Most bytes of weights in memory; the least recently used model leaves.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.admin_port is not None and self.admin_port == self.port != 0:
            raise ValueError("admin_port: another port than `port` expected")
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def keeping(self) -> Keeping:
        return Keeping(self.reload_s, self.lazy, self.model_bytes)

    @property
    def limits(self) -> Limits:
        return Limits(**{limit.name: getattr(self, limit.name) for limit in fields(Limits)})

    @property
    def connection_limits(self) -> ConnectionLimits:
        return ConnectionLimits(
            self.connections, self.header_bytes, self.headers, self.head_s, self.body_s, self.keep_alive_s,
            self.unread_s,
        )


class _Settled(Settings):
    model_config = SettingsConfigDict(toml_file=None)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def settled(values: Mapping[str, Any]) -> Settings:
    """The settings that another process of this server read: whatever has been written into the file since, a worker
    that is replaced serves as the others do."""
    return _Settled(**values)


def read_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force. `overrides` come from the command line; None values are left out. InvalidSettings names
    the setting and where it stands: an unknown name is refused everywhere, since a typo would otherwise change
    nothing."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise InvalidSettings(f"{cut(name)}: not a setting{nearest(name, known)}")
    if Path(FILE).exists() and not Path(FILE).is_file():
        raise InvalidSettings(f"{FILE}: a file expected, got a folder or a device")
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    try:
        return Settings(**given)
    except OSError as e:
        raise InvalidSettings(f"{FILE}: cannot be read: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InvalidSettings(f"{FILE}: not TOML: {e}") from e
    except ValidationError as e:
        first = e.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        hint = nearest(name, Settings.model_fields) if first["type"] == "extra_forbidden" else ""
        where = f"{_where(name, given)}: " if name else ""
        raise InvalidSettings(f"{where}{first['msg']}{hint}") from e


def _where(name: str, given: Mapping[str, Any]) -> str:
    """A setting as whoever set it wrote it."""
    if name in given:
        return f"--{name.replace('_', '-')}"
    variable = next((v for v in os.environ if v.upper() == f"{PREFIX}{name.upper()}"), None)
    return variable or f"{FILE}: {cut(name)}"

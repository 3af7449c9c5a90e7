"""The part of wiring that leads out of the house: who signs tokens, who is told of alerts, where traces go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings

if TYPE_CHECKING:
    from meterhouse.api.auth.code_flow import CodeFlow
    from meterhouse.api.auth.oidc import OidcTokens
    from meterhouse.api.auth.sessions import Sessions
    from meterhouse.api.tracing import Tracing
    from meterhouse.streams.channels import Channel


class TracesMissing(Exception):
    """Traces are asked for, and what sends them is not installed; the message says what to do."""


def tokens_of(settings: Settings) -> OidcTokens | None:
    """Whoever checks the issuer's tokens, where there is one."""
    if settings.oidc_issuer is None or settings.oidc_audience is None:  # settings with the one have the other
        return None
    from meterhouse.api.auth.oidc import OidcSettings, OidcTokens

    return OidcTokens(
        OidcSettings(
            issuer=settings.oidc_issuer,
            audience=settings.oidc_audience,
            jwks_url=settings.oidc_jwks_url,
            algorithms=tuple(settings.oidc_algorithms.split()),
            clock_skew_s=settings.oidc_clock_skew_s,
            role_claim=settings.oidc_role_claim,
            grants_claim=settings.oidc_grants_claim,
        )
    )


def sessions_of(settings: Settings) -> Sessions:
    from meterhouse.api.auth.sessions import Sessions

    return Sessions(_text(settings.session_secret), now_us)


def code_flow_of(settings: Settings, tokens: OidcTokens | None) -> CodeFlow | None:
    """How people sign in at the issuer, where this server is a client of it."""
    if tokens is None or settings.oidc_issuer is None or settings.oidc_client_id is None:
        return None
    from meterhouse.api.auth.attempts import Attempts
    from meterhouse.api.auth.code_flow import Client, CodeFlow

    client = Client(
        settings.oidc_client_id, _text(settings.oidc_client_secret), settings.public_url or "", settings.oidc_scopes
    )
    return CodeFlow(settings.oidc_issuer, client, tokens, Attempts(_text(settings.session_secret), now_us))


def _text(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def channels_of(settings: Settings) -> list[Channel]:
    """Each channel that is configured; none: the log. Raises ChannelMissing."""
    from meterhouse.streams.alertmanager import Alertmanager
    from meterhouse.streams.channels import LogLine, Webhook

    channels: list[Channel] = []
    if settings.webhook_url:
        secret = settings.webhook_secret.get_secret_value().encode() if settings.webhook_secret else None
        channels.append(Webhook(settings.webhook_url, secret, clock=now_us))
    if settings.alertmanager_url:
        channels.append(Alertmanager(settings.alertmanager_url))
    if settings.apprise_urls:
        from meterhouse.streams.apprise_channel import apprise_channels

        channels += apprise_channels(settings.apprise_urls.get_secret_value().split())
    return channels or [LogLine()]


def tracing_of(settings: Settings) -> Tracing | None:
    """None: nobody asked for traces. Raises TracesMissing."""
    if settings.traces_url is None:
        return None
    try:
        from meterhouse.api.tracing import Tracing, sending_to
    except ImportError as missing:
        raise TracesMissing(
            "METERHOUSE_TRACES_URL is set and what sends traces is not installed: pip install 'meterhouse[traces]'"
        ) from missing
    return Tracing(sending_to(settings.traces_url), settings.traces_share, now_us)

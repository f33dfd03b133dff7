"""Signing in, keeping the credential fresh, and attaching it to calls: for grpc and grpc.aio."""

from interceptors.client.aio.credentials import AioCredentials
from interceptors.client.channels import aio_channel, channel
from interceptors.client.sources import CallerToken, ClientSecret, FixedToken, PasswordLogin, RefreshTokenLogin
from interceptors.client.sync.credentials import Credentials

__all__ = [
    "AioCredentials",
    "CallerToken",
    "ClientSecret",
    "Credentials",
    "FixedToken",
    "PasswordLogin",
    "RefreshTokenLogin",
    "aio_channel",
    "channel",
]

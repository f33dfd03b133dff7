"""Signs in, renews the credential, and attaches it to calls of grpc and grpc.aio."""

from interceptors.client.aio.channel import aio_channel
from interceptors.client.aio.credentials import AioCredentials
from interceptors.client.sources import CallerToken, ClientSecret, FixedToken, PasswordLogin, RefreshTokenLogin
from interceptors.client.sync.channel import channel
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

"""A client of imageserve: pictures in, labels or vectors out, sent again while there is time.

It needs ``httpx2`` (``pip install 'imageserve[client]'``) and nothing of the server.
"""

from imageserve.client.asynchronous import AsyncClient
from imageserve.client.errors import (
    BadPicture,
    BadRequest,
    ClientError,
    Forbidden,
    ModelFailed,
    NotImageserve,
    RateLimited,
    ServerFailed,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnknownModel,
    Unreachable,
    Unreadable,
)
from imageserve.client.pictures import Picture
from imageserve.client.results import Outcome, Prediction, Result
from imageserve.client.synchronous import Client
from imageserve.client.wire import Options

__all__ = [
    "AsyncClient",
    "BadPicture",
    "BadRequest",
    "Client",
    "ClientError",
    "Forbidden",
    "ModelFailed",
    "NotImageserve",
    "Options",
    "Outcome",
    "Picture",
    "Prediction",
    "RateLimited",
    "Result",
    "ServerFailed",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnknownModel",
    "Unreachable",
    "Unreadable",
]

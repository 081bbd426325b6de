"""POST /predict: a body or a form of pictures in, labels or vectors out."""

from collections.abc import Mapping
from functools import partial

from werkzeug.wrappers import Request

from imageserve.predictions import LABELS
from imageserve.web.answers import as_bytes, as_json
from imageserve.web.calls import BYTES, JSON, Reply, json_reply, reply_of
from imageserve.web.classify import Answers, Environ, Order
from imageserve.web.greenlets import Turn
from imageserve.web.options import ClassifyOptions
from imageserve.web.parameters import read_options
from imageserve.web.upload import UploadAccount, UploadLimits, UploadReader


class PredictDoor:
    """See `Door`."""

    name = "predict"

    def __init__(self, limits: UploadLimits) -> None:
        self._reader = UploadReader(limits)

    def options(self, environ: Environ, head: ClassifyOptions) -> ClassifyOptions:
        """Read the query."""
        return read_options(_query(environ), head)

    def read(self, environ: Environ, account: UploadAccount, options: ClassifyOptions) -> Order:
        """Read the pictures of a body or of a form."""
        upload = self._reader.read(environ, account)
        reply = partial(_reply, output=options.output, environ=environ)
        return Order(upload.pictures, upload.bytes, options, reply)


def _query(environ: Environ) -> Mapping[str, str]:
    return Request(dict(environ)).args if environ.get("QUERY_STRING") else {}


def _reply(answers: Answers, output: str, environ: Environ) -> Reply:
    pause = Turn().give
    if output == LABELS:
        return json_reply(as_json(answers, output, pause))
    accepted = Request(dict(environ)).accept_mimetypes
    if accepted.best_match([JSON, BYTES], default=JSON) == BYTES and (found := as_bytes(answers)):
        body, shape = found
        reply = reply_of(body, BYTES)
        reply.headers.append(("X-Shape", shape))
    else:
        reply = json_reply(as_json(answers, output, pause))
    reply.headers.append(("Vary", "Accept"))
    return reply

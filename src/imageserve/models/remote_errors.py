"""What went wrong at a server, in a sentence that says what to do.

The library tells it on a page that holds the whole address, with the signature in it. So nothing
of that page is repeated but the server's status and the innermost reason.
"""

import re
from dataclasses import dataclass

_STATUS = re.compile(r"non-2xx status code: (\d{3}[A-Za-z -]*)")
_INNERMOST = re.compile(r'(?:message|error|source): "([^"]{1,200})"')
_METADATA = "169.254.169.254"
"""Where the clouds hand out credentials to their machines."""

_REASONS = {
    ("NoSuchBucket", "ContainerNotFound"): "there is no such bucket: correct the address",
    ("BadScheme",): "it is, or leads to, an address without TLS: for an object store "
    "AWS_ALLOW_HTTP=true (GOOGLE_ALLOW_HTTP, AZURE_ALLOW_HTTP) allows it",
    ("MissingAccount",): "the storage account is not named: set AZURE_STORAGE_ACCOUNT_NAME",
    ("MissingContentLength",): "the server does not say how long the file is: use one that does "
    "(Content-Length)",
    ("UnknownIssuer", "InvalidCertificate", "invalid peer certificate"): "the server's certificate "
    "is not trusted: name your certificate authority's file in SSL_CERT_FILE",
    (
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
    ): "the store does not accept these credentials: correct or renew them",
    (_METADATA,): "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
    "(gs: GOOGLE_SERVICE_ACCOUNT, az: AZURE_STORAGE_ACCOUNT_KEY), or for a public bucket "
    "AWS_SKIP_SIGNATURE=true (GOOGLE_SKIP_SIGNATURE, AZURE_SKIP_SIGNATURE)",
}
"""By what the library's page says."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request has failed."""

    reason: str
    status: int | None
    """Of the answer, None where there was none."""
    is_transient: bool
    """Whether another try may succeed."""


def fault_of(error: Exception) -> Fault:
    """Read an error of obstore."""
    text = str(error)
    match = _STATUS.search(text)
    status = int(match[1][:3]) if match else None
    if status == 404 or isinstance(error, FileNotFoundError):
        status = 404
    for signs, reason in _REASONS.items():
        if any(sign in text for sign in signs):
            return Fault(reason, None if _METADATA in signs else status, is_transient=False)
    if status is None:
        return Fault(_of_connection(text), None, is_transient=True)
    return Fault(
        _of_status(status, match[1].strip() if match else "404"),
        status,
        is_transient=status in (408, 425, 429) or status >= 500,
    )


def _of_status(status: int, shown: str) -> str:
    if status == 404:
        return "does not exist (404): correct the address"
    if status in (401, 403):
        return f"the server refuses it ({shown}): give credentials that may read it"
    return f"the server answers {shown}: try again later"


def _of_connection(text: str) -> str:
    innermost = _INNERMOST.findall(text)
    why = re.sub(r"\?\S+", "", innermost[-1] if innermost else text.split("\n", 1)[0])
    return (
        f"the connection failed ({why}): check the address, the network, HTTPS_PROXY and NO_PROXY"
    )

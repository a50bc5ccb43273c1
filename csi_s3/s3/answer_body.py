"""The body of an answer, within a limit for its kind.

Memory grows with what arrives, never with what `Content-Length` says; but for an object's bytes,
whose number was asked for and is in the volume's budget.
"""

import aiohttp

from csi_s3.errors import IntegrityError

# A page has 1000 keys of 1024 bytes, which are up to 6 bytes each in XML, and their other fields.
# The answer to a deletion of 1000 keys can be as long.
PAGE_BYTES = 8 << 20
XML_BYTES = 1 << 20
IN_PLACE_FROM_BYTES = 1 << 20


class AnswerTooLongError(IntegrityError):
    """More than the limit; another attempt would have the same answer."""


async def read_body(
    response: aiohttp.ClientResponse, *, kind: str, object_bytes: int, most_bytes: int
) -> bytes | bytearray:
    """Read the whole body of an answer.

    kind, most_bytes: of the request (`signing.Request`). object_bytes: how many of an object's
        bytes were asked for.

    A refusal's body is cut: its status says enough. So is an object's, one byte behind what was
    asked for: `Request.check` says what that means. What is behind a cut is not read, and the
    connection is closed.

    Raises:
        AnswerTooLongError: it has more than most_bytes.
        aiohttp.ClientError: it broke off.

    """
    is_refusal = response.status >= 300  # noqa: PLR2004
    if kind == "GET" and not is_refusal:
        return await _read_object(response, object_bytes)
    limit = XML_BYTES if is_refusal else most_bytes
    body = await read_at_most(response, limit)
    if len(body) > limit:
        if is_refusal:
            return body[:limit]
        raise AnswerTooLongError(
            f"{kind}: the answer has more than {limit} bytes",
            "the store does not follow the S3 API: check `endpoint-url`, and report it to the"
            " store's vendor",
        )
    return body


async def read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes | bytearray:
    """The body; of one that is longer a byte more than the limit, and its connection is closed."""
    body: bytes | bytearray = b""
    while piece := await response.content.readany():
        if len(body) + len(piece) > limit:
            response.close()
            return body + piece[: limit + 1 - len(body)]
        if body:  # a list of pieces would take more, if these are small
            body = body if isinstance(body, bytearray) else bytearray(body)
            body += piece
        else:
            body = piece
    return body


async def _read_object(response: aiohttp.ClientResponse, limit: int) -> bytes | bytearray:
    """A large body is copied once, into place; aiohttp would copy it twice."""
    size = min(response.content_length or 0, limit)
    if size < IN_PLACE_FROM_BYTES:
        return await read_at_most(response, limit)
    body, at = bytearray(size), 0
    while True:
        piece, _ = await response.content.readchunk()
        if not piece:
            return body if at == size else body[:at]
        if at + len(piece) > size:
            response.close()
            return body + piece[:1]
        body[at : at + len(piece)] = piece
        at += len(piece)

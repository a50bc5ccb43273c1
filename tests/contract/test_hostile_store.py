"""Whatever a store answers costs one volume an error and little memory, and the volume works on.

Each attack answers every kind of request, over real sockets, to a client in a process of its own.
"""

import asyncio
import gzip
import itertools
import json
import os
import sys
from contextlib import asynccontextmanager
from errno import ENOMEM

import pytest

from tests.contract.conftest import SECRET
from tests.hostile_store import ETAG, KINDS, hostile_store

MIB = 1 << 20
MOST_BYTES = 64 * MIB
WITHIN_S = 120.0
FOREIGN = b"ForeignSecret"  # what a service that is no store may answer; no error shows it
OK = b"HTTP/1.1 200 OK\r\n"
PIECE = FOREIGN + bytes(64 << 10)
SILENT_S = 2.0  # the deadline of an attempt where the store is silent or slow


class Client:
    """The process of `tests.hostile_client`."""

    def __init__(self, process):
        self._process = process

    async def send(self, *kinds, room_bytes=None):
        """Requests at once: the outcome of each, and by how many bytes the process grew."""
        question = {"kinds": kinds, "room_bytes": room_bytes}
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        async with asyncio.timeout(WITHIN_S):
            line = await self._process.stdout.readline()
        answer = json.loads(line)
        return answer["outcomes"], answer["grown_bytes"]


@asynccontextmanager
async def client_of(endpoint, *more, total_s=60.0, get_bytes=8 * MIB):
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.hostile_client", endpoint, str(total_s), str(get_bytes), *more,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment,
        limit=8 * MIB,
    )  # fmt: skip
    try:
        yield Client(process)
    finally:
        process.stdin.close()
        async with asyncio.timeout(WITHIN_S):
            await process.wait()


def check(kind, outcome, *, fails):
    """An error that a program can be given, unless this attack leaves the answer usable."""
    assert "bug" not in outcome, (kind, outcome["bug"])
    if not outcome:
        assert not fails, f"{kind}: taken for an answer"
        return
    assert outcome["is_clean"], (kind, outcome["texts"])
    assert FOREIGN.decode() not in outcome["texts"], (kind, outcome["texts"])


async def write_all(writer, *pieces):
    for piece in pieces:
        writer.write(piece)
        await writer.drain()


def sends(*pieces):
    """An attack: these bytes, then the end of the connection."""
    return lambda writer: write_all(writer, *pieces)


def sends_without_end(head, piece):
    return lambda writer: write_all(writer, head, *itertools.repeat(piece, 1 << 20))


def whole(status, body, *headers):
    """It ends the connection, as the store does: another request on it would fail by itself."""
    ends = (b"Content-Length: %d" % len(body), b"Connection: close")
    lines = b"\r\n".join((b"HTTP/1.1 " + status, *ends, *headers))
    return sends(lines + b"\r\n\r\n", body)


async def endless_chunks(writer):
    await write_all(writer, OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        await write_all(writer, b"%x\r\n%b\r\n" % (len(PIECE), PIECE))


async def endless_small_chunks(writer):
    await write_all(writer, OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        await write_all(writer, b"80\r\n%b\r\n" % (b"0123456789abcdef" * 8) * 100)


def entities():
    lines = b"".join(b'<!ENTITY e%d "%b">' % (n + 1, b"&e%d;" % n * 10) for n in range(9))
    return b'<!DOCTYPE x [<!ENTITY e0 "0123456789">%b]><R a="&e9;">&e9;</R>' % lines


ODD = b"\xff\xfe\x01\x7f"
ERROR = b"<Error><Code>AccessDenied</Code><Message>%b</Message></Error>"
ODD_HEADERS = [
    b"%b: a%bb" % (name, ODD)
    for name in (b"x-amz-request-id", b"x-amz-checksum-crc32c", b"ETag", b"Server", b"Content-Type")
]
ATTACKS = {
    "lengths": {
        "huge length": sends(OK + b"Content-Length: 5368709120\r\n\r\nabc"),
        "huge length of a refusal": sends(
            b"HTTP/1.1 403 No\r\nContent-Length: 5368709120\r\n\r\n" + FOREIGN
        ),
        "longest length": sends(OK + b"Content-Length: 18446744073709551615\r\n\r\nabc"),
        "length of many digits": sends(OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc"),
        "negative length": sends(OK + b"Content-Length: -5\r\n\r\n" + FOREIGN),
        "two lengths": sends(OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n" + FOREIGN),
        "length and chunks": sends(
            OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + FOREIGN
        ),
        "huge chunk": sends(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 16 + b"\r\nabc"),
    },
    "bodies without end": {
        "endless body": sends_without_end(OK + b"\r\n", PIECE),
        "endless chunks": endless_chunks,
        "endless small chunks": endless_small_chunks,
        "endless refusal": sends_without_end(b"HTTP/1.1 403 No\r\n\r\n", PIECE),
    },
    "heads without end": {
        "endless line": sends_without_end(b"HTTP/1.1 200 ", FOREIGN * 1000),
        "endless header": sends_without_end(OK + b"X-Long: ", FOREIGN * 1000),
        "endless headers": sends_without_end(OK, b"X-Many: %b\r\n" % FOREIGN * 100),
        "endless trailers": sends_without_end(
            OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Many: %b\r\n" % FOREIGN * 100
        ),
    },
    "texts and numbers": {
        "odd bytes in headers": whole(b"200 OK", b"", *ODD_HEADERS),
        "odd bytes in headers of a refusal": whole(b"403 No", b"", *ODD_HEADERS),
        "odd bytes in a text": whole(b"403 No", ERROR % (b"a\xc2\x85\xe2\x80\xaeb\nc" * 100)),
        "long text": whole(b"403 No", ERROR % (b"x" * 800_000)),
        "long text and code": whole(
            b"200 OK", b"<Error><Code>%b</Code></Error>" % (b"NoSuchKey" * 20_000)
        ),
        "wild date": whole(
            b"200 OK",
            b"<ListBucketResult><Contents><Key>k</Key><Size>1</Size><LastModified>%b</LastModified>"
            b"</Contents></ListBucketResult>" % (b"2026-01-01x" * 50_000),
        ),
        "wild numbers": whole(
            b"200 OK",
            b"<ListBucketResult><Contents><Key>k</Key><Size>-1</Size></Contents></ListBucketResult>",
            b"ETag: " + ETAG,
            b"Content-Range: bytes 0-%b/%b" % (b"9" * 5000, b"9" * 2000),
            b"Last-Modified: Mon, 01 Jan 99999999 00:00:00 GMT",
            b"x-amz-tagging-count: many",
        ),
    },
    "compression and XML": {
        "compression bomb": whole(
            b"200 OK", gzip.compress(bytes(256 * MIB), 1), b"Content-Encoding: gzip"
        ),
        "compressed transfer": sends(
            OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        ),
        "entities": whole(b"200 OK", entities()),
        "deep XML": whole(b"200 OK", b"<a>" * 200_000),
        "wide XML": whole(b"200 OK", b"<R>" + b"<a/>" * 2_000_000 + b"</R>"),
        "attributes": whole(
            b"200 OK", b"<R %b/>" % b" ".join(b"a%d=''" % n for n in range(700_000))
        ),
        "XML in UTF-16": whole(b"200 OK", ("<R>" + "<a/>" * 900_000 + "</R>").encode("utf-16")),
        "deep JSON": whole(b"200 OK", b"[" * 900_000),
        "odd keys": whole(
            b"200 OK",
            b'{"AccessKeyId": "a\\nb", "SecretAccessKey": "\\ud800", "Token": ["t"]}',
        ),
    },
    "other protocols": {
        "another protocol": sends(b"SSH-2.0-" + FOREIGN + b"\r\n"),
        "a page": whole(b"200 OK", b"<html>%b</html>" % FOREIGN, b"Content-Type: text/html"),
        "redirects": whole(b"302 Found", b"", b"Location: http://127.0.0.1:9/" + FOREIGN),
        "other region": whole(b"301 Moved", b"", b"x-amz-bucket-region: a/../b"),
        "switching protocols": sends(
            b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n" + FOREIGN
        ),
    },
    "ends": {
        "early close": sends(),
        "close in the status line": sends(b"HTTP/1.1 2"),
        "close in a header": sends(OK + b"Content-"),
        "close in the body": sends(OK + b"Content-Length: 10\r\n\r\n<List"),
        "close in a chunk": sends(OK + b"Transfer-Encoding: chunked\r\n\r\na\r\n<Lis"),
    },
}


FILES = {"odd bytes in headers", "wild numbers"}  # an answer to GET, and the bytes of a file


@pytest.mark.parametrize("attacks", ATTACKS.values(), ids=ATTACKS)
async def test_an_attack_costs_an_error_and_little_memory(attacks):
    """Promise: Whatever a store answers, a request costs its own volume an error and 64 MiB at most
    besides the bytes that were asked for, and the next request works.
    """
    async with hostile_store() as store, client_of(store.endpoint) as client:
        outcomes, _ = await client.send(*KINDS)  # imports, connections
        assert outcomes == {kind: {} for kind in KINDS}
        for name, attack in attacks.items():
            for kind in KINDS:
                store.attack, store.attacked = attack, frozenset({kind})
                outcomes, grown_bytes = await client.send(kind)
                fails = kind == "LIST" or (kind == "GET" and name not in FILES)
                check(f"{name}, {kind}", outcomes[kind], fails=fails)
                assert grown_bytes < MOST_BYTES, (name, kind, grown_bytes >> 20)
            store.attack = None
            outcomes, _ = await client.send(*KINDS)
            assert outcomes == {kind: {} for kind in KINDS}, name


def drips(head, piece=b"x", *, pause_s=0.02):
    async def attack(writer):
        await write_all(writer, head)
        while True:
            await write_all(writer, piece)
            await asyncio.sleep(pause_s)

    return attack


def falls_silent(*pieces):
    async def attack(writer):
        await write_all(writer, *pieces)
        await asyncio.sleep(WITHIN_S)

    return attack


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
SLOW = {
    "silent": falls_silent(),
    "silent in the head": falls_silent(OK + b"Content-"),
    "silent in the body": falls_silent(OK + b"Content-Length: 10\r\n\r\n<Lis"),
    "huge length and silent": falls_silent(OK + b"Content-Length: 5368709120\r\n\r\nabc"),
    "drips in the head": drips(b"HTTP/1.1 200 "),
    "drips in the body": drips(OK + b"Content-Length: 1000000\r\n\r\n"),
    "drips chunks": drips(CHUNKED, b"1\r\n \r\n"),
    "endless 100-continue": drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause_s=0),
    "endless chunk extension": drips(CHUNKED + b"3;", b"a=" + FOREIGN * 1000, pause_s=0),
}
SLOW_KINDS = tuple(kind for kind in KINDS if kind not in {"STS", "ABORT"})


@pytest.mark.parametrize("attack", SLOW.values(), ids=SLOW)
async def test_an_answer_that_does_not_come_to_an_end_is_given_up(attack):
    async with (
        hostile_store() as store,
        client_of(store.endpoint, total_s=SILENT_S, get_bytes=1 << 16) as client,
    ):
        outcomes, _ = await client.send(*SLOW_KINDS)
        assert outcomes == {kind: {} for kind in SLOW_KINDS}
        store.attack, store.attacked = attack, frozenset(SLOW_KINDS) - {"CREATE-UPLOAD"}
        asked = [kind for kind in SLOW_KINDS if kind not in {"CREATE-UPLOAD", "HEAD"}]
        outcomes, grown_bytes = await client.send(*asked)
        for kind in asked:
            check(kind, outcomes[kind], fails=True)
        assert grown_bytes < MOST_BYTES
        store.attack = None
        outcomes, _ = await client.send(*asked)
        assert outcomes == {kind: {} for kind in asked}


async def test_tls_that_stalls_is_given_up(authority):
    async with (
        hostile_store() as store,  # it never answers the handshake
        client_of(store.endpoint.replace("http:", "https:"), total_s=SILENT_S) as client,
    ):
        outcomes, _ = await client.send("LIST")
        assert outcomes["LIST"]["error"] == "StoreTimeoutError"
    async with (
        hostile_store(authority.context) as store,
        client_of(store.endpoint, authority.bundle, total_s=SILENT_S) as client,
    ):
        outcomes, _ = await client.send("LIST")
        assert outcomes == {"LIST": {}}
        store.attacked = frozenset({"LIST"})
        for attack in (SLOW["silent"], SLOW["silent in the body"], sends(OK + b"Content-L")):
            store.attack = attack
            outcomes, _ = await client.send("LIST")
            check("LIST", outcomes["LIST"], fails=True)
        store.attack = None
        outcomes, _ = await client.send("LIST")
        assert outcomes == {"LIST": {}}


def partial(body, content_range, etag=ETAG):
    headers = (b"ETag: " + etag, b"Content-Range: bytes " + content_range)
    return whole(b"206 Partial Content", body, *headers)


WRONG = {
    "a range elsewhere": ("GET", partial(b"data", b"5-8/9"), "IntegrityError"),
    "no range": ("GET", partial(b"data", b"*/9"), "IntegrityError"),
    "less than the range": ("GET", partial(b"dat", b"0-3/4"), "IntegrityError"),
    "more than the range": ("GET", partial(b"data" * (4 * MIB), b"0-3/4"), "IntegrityError"),
    "the whole object": (
        "GET",
        whole(b"200 OK", b"data" * (4 * MIB), b"ETag: " + ETAG),
        "NotImplementedByStoreError",
    ),
    "another version": (
        "GET-VERSION",
        partial(b"data", b"0-3/4", b'"other"'),
        "ObjectChangedError",
    ),
    "another checksum": (
        "PUT",
        whole(b"200 OK", b"", b"ETag: " + ETAG, b"x-amz-checksum-crc32c: AAAAAA=="),
        "IntegrityError",
    ),
    "no version": ("PUT", whole(b"200 OK", b""), "IntegrityError"),
}


async def test_a_wrong_answer_is_an_error():
    async with hostile_store() as store, client_of(store.endpoint) as client:
        for name, (kind, attack, error) in WRONG.items():
            store.attack, store.attacked = attack, frozenset({kind.removesuffix("-VERSION")})
            outcomes, grown_bytes = await client.send(kind)
            check(f"{name}, {kind}", outcomes[kind], fails=True)
            assert outcomes[kind]["error"] == error, name
            assert grown_bytes < MOST_BYTES, (name, grown_bytes >> 20)


def page(token, entries=b""):
    truncated = b"<IsTruncated>true</IsTruncated><NextContinuationToken>%b</NextContinuationToken>"
    return b"<ListBucketResult>%b%b</ListBucketResult>" % (truncated % token, entries)


@pytest.mark.parametrize("cycle", [1, 2, 7])
async def test_a_store_that_repeats_its_tokens_is_not_asked_without_end(cycle):
    tokens = itertools.cycle(b"token-%d" % n for n in range(cycle))

    async def attack(writer):
        await whole(b"200 OK", page(next(tokens)))(writer)

    async with hostile_store() as store, client_of(store.endpoint) as client:
        store.attack, store.attacked = attack, frozenset({"LIST"})
        outcomes, _ = await client.send("PAGES")
        assert outcomes["PAGES"]["error"] == "IntegrityError"
        assert "continuation token" in outcomes["PAGES"]["texts"]
        assert len(store.asked) < 4 * cycle + 2


async def test_the_longest_page_of_an_honest_store_is_read():
    """Keys of 1024 bytes, each of which takes six in XML, and all that stores say of an object."""
    owner = b"<Owner><ID>%b</ID><DisplayName>%b</DisplayName></Owner>" % (b"f" * 64, b"n" * 255)
    checksum = b"<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL</ChecksumType>"
    restore = (
        b"<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
        b"<RestoreExpiryDate>2026-01-02T03:04:05.678Z</RestoreExpiryDate></RestoreStatus>"
    )
    etag = b"<ETag>&quot;%b-10000&quot;</ETag><Size>5497558138880</Size>" % (b"0" * 32)
    kind = b"<StorageClass>INTELLIGENT_TIERING</StorageClass><Type>Normal</Type>"
    date = b"<LastModified>2026-01-02T03:04:05.678Z</LastModified>"
    entries = b"".join(
        b"<Contents><Key>%b%04d</Key>%b</Contents>"
        % (b"&quot;" * 1020, n, date + etag + kind + owner + checksum + restore)
        for n in range(1000)
    )
    async with hostile_store() as store, client_of(store.endpoint) as client:
        store.attacked = frozenset({"LIST"})
        store.attack = whole(b"200 OK", page(b"t" * 1500, entries))
        outcomes, grown_bytes = await client.send("LIST")
        assert outcomes == {"LIST": {}}
        assert grown_bytes < MOST_BYTES
        asked = len(store.asked)
        outcomes, _ = await client.send("LIST")
        assert outcomes == {"LIST": {}}
        assert len(store.asked) == asked + 1, "that its pages are long is known by now"


async def test_a_process_without_memory_for_an_answer_refuses_that_request_alone():
    async with (
        hostile_store() as store,
        client_of(store.endpoint, get_bytes=256 * MIB) as client,
    ):
        await client.send("LIST")
        store.attacked = frozenset({"GET"})
        store.attack = sends(OK + b"Content-Length: 268435456\r\n\r\n" + FOREIGN)
        outcomes, _ = await client.send("GET", room_bytes=96 * MIB)
        check("GET", outcomes["GET"], fails=True)
        assert (outcomes["GET"]["error"], outcomes["GET"]["errno"]) == ("OutOfMemoryError", ENOMEM)
        store.attack = None
        outcomes, _ = await client.send("GET", "LIST")
        assert outcomes == {"GET": {}, "LIST": {}}


async def test_metadata_that_is_not_utf_8_is_preserved_with_its_bytes_escaped():
    r"""Promise: A change preserves metadata that is not UTF-8 with the odd bytes as `\xNN`."""
    async with hostile_store() as store, client_of(store.endpoint) as client:
        store.attacked = frozenset({"HEAD"})
        store.attack = sends(
            OK + b"Content-Length: 4\r\nETag: %b\r\nx-amz-meta-by: Ren\xe9\r\n\r\n" % ETAG
        )
        outcomes, _ = await client.send("GET-TAGS")  # a change
        assert outcomes == {"GET-TAGS": {}}
        assert "x-amz-meta-by: Ren\\xe9" in store.heads[-1]


async def test_many_pages_that_are_too_long_are_not_in_memory_at_once():
    async with hostile_store() as store, client_of(store.endpoint) as client:
        await client.send("LIST")
        store.attacked = frozenset({"LIST"})
        store.attack = whole(b"200 OK", b"<R>" + b"<a/>" * (MIB - 10) + b"</R>")
        outcomes, grown_bytes = await client.send(*["LIST"] * 32)
        check("LIST", outcomes["LIST"], fails=True)
        assert grown_bytes < 2 * MOST_BYTES, grown_bytes >> 20

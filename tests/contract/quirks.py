"""Where a store differs from what `s3.store` promises, and why that is the store's doing.

A test that meets a quirk asserts the other behaviour, so a quirk that is gone fails the suite.
"""

QUIRKS: dict[str, dict[str, str]] = {
    "memory": {},
    "moto": {
        "batch deletes ignore ETags": "DeleteObjects never looks at them",
        "a copy ignores the source's If-Match": "CopyObject and UploadPartCopy never look at it",
        "complete ignores If-Match": "only If-None-Match is implemented",
        "a part for an aborted upload breaks the server": "KeyError in the handler, HTTP 500",
        "signatures are not checked": "any key pair is let in",
        "regions are not checked": "any region in the signature is let in",
        "anonymous reads go by ACL": "a bucket policy makes its handler fail, HTTP 500",
        "server-side encryption is answered": "the header is echoed",
    },
    "minio": {
        "batch deletes ignore ETags": "DeleteObjects never looks at them",
        "an object hides keys below it": "its listing takes the object's directory for the object",
        "pages of one name end early": "its cursor loses what follows a prefix when max-keys is 1",
        "delete ignores If-Match": "DeleteObject never looks at it",
        "server-side encryption is refused": "no KMS is configured, HTTP 501",
    },
    "versitygw": {
        "batch deletes ignore ETags": "DeleteObjects never looks at them",
        "an object bars keys below it": "a POSIX file cannot have files below it (409)",
        "a marker holds no bytes": "a POSIX directory has none (400)",
    },
}

QUIRKS["minio-versioned"] = QUIRKS["minio"]

REFUSED = "refused"
LISTED_OTHERWISE = "put and read under its name, but listed under another"
NOT_COPIED = "everything but a copy"

_POSIX_PATHS = ["/lead", "x//y", "./d", "sub/./d", "sub/../d"]

# moto: werkzeug's routes match no line end. MinIO: refuses components that are empty, "." or "..".
# versitygw: cleans paths; lists control characters as U+FFFD; takes a quoted ?versionId= in a key
# for a version.
ODD_KEYS: dict[str, dict[str, str]] = {
    "memory": {},
    "moto": {"n\nl": REFUSED},
    "minio": {
        "/lead": LISTED_OTHERWISE,
        **dict.fromkeys(["//", "x//y", "./d", "sub/./d", "sub/../d", ".."], REFUSED),
    },
    "versitygw": {
        **dict.fromkeys(["//", ".."], REFUSED),
        **dict.fromkeys([*_POSIX_PATHS, "ctl\x01x", "esc\x1b[0m"], LISTED_OTHERWISE),
        "a?versionId=null": NOT_COPIED,
    },
}
ODD_KEYS["minio-versioned"] = ODD_KEYS["minio"]

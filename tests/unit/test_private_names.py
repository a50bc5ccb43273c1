"""Names of libraries that the code uses although they are private: there, and bounded above."""

import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pyfuse3.asyncio
import pytest
from aiobotocore.credentials import AioRefreshableCredentials
from aiobotocore.session import AioSession

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))


@pytest.mark.parametrize("library", ["aiobotocore", "aiohttp", "pyfuse3"])
def test_a_library_whose_private_names_are_used_stays_below_its_next_minor_release(library):
    (line,) = [d for d in PROJECT["project"]["dependencies"] if re.match(rf"{library}\b", d)]
    least, most = re.fullmatch(rf"{library}>=(\d+\.\d+),<(\d+\.\d+)", line).groups()
    major, minor = map(int, least.split("."))
    assert most == f"{major}.{minor + 1}"


@pytest.mark.parametrize("name", ["Lock", "_Nursery", "open_nursery", "wait_readable"])
def test_pyfuse3_has_the_hooks_that_a_session_replaces(name):
    assert callable(getattr(pyfuse3.asyncio, name))


async def test_aiohttp_has_the_switch_for_its_own_retries():
    async with aiohttp.ClientSession() as session:
        assert session._retry_connection is True


async def test_aiobotocore_tells_when_credentials_expire_and_which_providers_it_has():
    expires = datetime(2026, 1, 1, tzinfo=UTC)
    credentials = AioRefreshableCredentials(
        "key", "secret", "token", expires, refresh_using=None, method="a-role"
    )
    assert credentials._expiry_time == expires
    chain = AioSession().get_component("credential_provider")
    assert {"assume-role", "sso", "config-file"} <= {p.METHOD for p in chain.providers}

"""Tokens as they were first issued: Ed25519 is deterministic, so any change of form shows here."""

from __future__ import annotations

import pytest

from ostnode.identity.tokens import (
    encode_text,
    mint_access,
    mint_grant,
    mint_login,
    mint_session,
)
from tests.support.identity_tokens import (
    ALICE,
    BUCKET,
    GENERAL,
    GRANT,
    INDEX,
    LOGIN,
    READ,
    SESSION,
)

VECTORS = {
    "access": (
        mint_access(GENERAL, READ),
        "0oRYMqMBMgRYINUb-"
        "U7zkfjeE7B1_GW_RtjVtWeJ8rNDBXGPcoECn2ccEGpvc3QtYXQrY3d0oFhzpgN4IDYzNmM3NTczNzQ2NTcyMmQ2M"
        "zZjNzU3Mzc0NjU3MjJkBBplU_NYBhplU_EAB1AwMTIzNDU2Nzg5YWJjZGVmCKEBowEBIAYhWCDddWBA_dUUXiv5g"
        "y0mTdCA5LPnMBa99ldLTNh-qml_XglkcmVhZFhA2ys9dzBorymg8illDyIeg_WQlYW7NmZGoMPVJnuBBHBSn320h"
        "3VRn7u8e4z59iPJgdbN39-MCtEffpNFprEBAg",
    ),
    "grant": (
        mint_grant(INDEX, GRANT),
        "0oRYNaMBMgRYIM1kaqrHBelgo6uKLgeQH2PfkEKMdBi72HhQi_zx0PXYEG1vc3QtZ3JhbnQrY3d0oFkBBqsCeEAz"
        "ODA4OGU0YzJhZTgyZjVjNDVjNjgwOGE2MWE2NDkwZDNjNjEyY2UxZGEyMzU3MTQ0NjZmYzc0OGZiYzRjYmJiA3hA"
        "Yjg2NTkxYzE2Yzk3NjA3ZWQ3MTY0NTI0ZWMxNjg5MzQzNGIzYmVmMmU1ZmJjYjc4ZTBiMzFhMDVlNjQ5ODA5NAQa"
        "ZVP_EAYaZVPxAAdQZ3JhbnRpZC1ncmFudGlkLToAAQAAWCCxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGxsbGx"
        "sToAAQABSG93bmVyLWlkOgABAAIaAExLQDoAAQADGgAQAAA6AAEABxoATEtAOgABAAgbAAYKJBgeQABYQAx_TOgc"
        "BfHgv6ZNbb89jd8LGNZADjIVUQymbX43I3Hb6MBmHbItNLWGPo5AjCjFURiKG8m2Q0ySNYDsjbl7CgI",
    ),
    "login": (
        mint_login(ALICE, LOGIN),
        "0oRYNaMBMgRYIDgIjkwq6C9cRcaAimGmSQ08YSzh2iNXFEZvx0j7xMu7EG1vc3QtbG9naW4rY3d0oFhipAN4QGI4"
        "NjU5MWMxNmM5NzYwN2VkNzE2NDUyNGVjMTY4OTM0MzRiM2JlZjJlNWZiY2I3OGUwYjMxYTA1ZTY0OTgwOTQGGmVT"
        "8QAHUDAxMjM0NTY3ODlhYmNkZWY6AAEACWBYQM2PVz9B8sf510sdFpmTizw6Fj4__FRNAqG_JGtbiz2ncYInMS-"
        "W08BNEB1YeNSxcDaSKF42bY9W_dITU_3xtQE",
    ),
    "session": (
        mint_session(BUCKET, SESSION),
        "0oRYN6MBMgRYILhlkcFsl2B-"
        "1xZFJOwWiTQ0s77y5fvLeOCzGgXmSYCUEG9vc3Qtc2Vzc2lvbitjd3SgWKSkAnhAMzgwODhlNGMyYWU4MmY1YzQ1"
        "YzY4MDhhNjFhNjQ5MGQzYzYxMmNlMWRhMjM1NzE0NDY2ZmM3NDhmYmM0Y2JiYgN4QGI4NjU5MWMxNmM5NzYwN2Vk"
        "NzE2NDUyNGVjMTY4OTM0MzRiM2JlZjJlNWZiY2I3OGUwYjMxYTA1ZTY0OTgwOTQEGmVT9IQ6AAEACXFodHRwczov"
        "L2NoYXQudGVzdFhACfb_TS0-2_9MVxkLHDbf2wTmKoTd_-EwfM-"
        "XtuKhfaI9Twr5A8w1o5Sm8XlHpL4Xe2XF_2LY1oOqELz5NLWkAA",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_a_statement_has_these_bytes_for_ever(name: str) -> None:
    minted, text = VECTORS[name]
    assert encode_text(minted) == text

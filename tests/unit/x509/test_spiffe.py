from __future__ import annotations

import pytest

from handclasp.certificate_service.x509.spiffe import claims_trust_domain, user_spiffe_id

DOMAIN = "handclasp.example"


@pytest.mark.parametrize(
    "uri",
    [
        user_spiffe_id(DOMAIN, "alice"),
        "spiffe://handclasp.example",
        "spiffe://handclasp.example/",
        "spiffe://handclasp.example/workload",
        "SPIFFE://Handclasp.EXAMPLE/user/alice",
        "spiffe://handclasp.example./user/alice",
        "spiffe://handclasp.example../user/alice",
        "spiffe://handclasp.example:443/user/alice",
        "spiffe://x@handclasp.example/user/alice",
        "spiffe://handclasp.example@evil.example/user/alice",
        "spiffe://handclasp%2Eexample/user/alice",
        "spiffe://handclasp%252eexample/user/alice",
        "%73piffe://handclasp.example/user/alice",
        "spiffe%3A//handclasp.example/user/alice",
        "spiffe:handclasp.example/user/alice",
        "spiffe:/handclasp.example/user/alice",
        "spiffe:///handclasp.example/user/alice",
        "spiffe:\\\\handclasp.example\\user\\alice",
        "spiffe://handclasp.example?user=alice",
        "spiffe://handclasp.example#alice",
        " spiffe://handclasp.example/user/alice",
        "spiffe://hand\tclasp.example\n/user/alice",
        "spiffe://handclasp.example%00/user/alice",
        "spiffe://%EF%BD%88andclasp.example/user/alice",
        "spiffe://" + "%20" * 3000 + "handclasp.example/user/alice",
        "spiffe://handclasp.example/" + "%CC%95%CC%80" * 5000,
    ],
)
def test_every_spelling_of_the_trust_domain_is_a_claim(uri: str) -> None:
    assert claims_trust_domain(uri, DOMAIN)
    assert claims_trust_domain(uri, DOMAIN.upper())


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe:",
        "spiffe://",
        "spiffe://other.example/user/alice",
        "spiffe://handclasp.example.other/user/alice",
        "spiffe://xhandclasp.example/user/alice",
        "spiffe://other.example/handclasp.example",
        "spiffe://other.example/spiffe://handclasp.example",
        "https://handclasp.example/user/alice",
        "urn:handclasp.example",
        "handclasp.example",
    ],
)
def test_other_uris_are_none(uri: str) -> None:
    assert not claims_trust_domain(uri, DOMAIN)

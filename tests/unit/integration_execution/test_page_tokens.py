"""Page tokens can be used by whom they were made for, as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handclasp.errors import InvalidArgument
from handclasp.integration_execution.page_tokens import PageTokens


def test_a_token_opens_for_its_holder() -> None:
    tokens = PageTokens()
    assert tokens.open(tokens.seal("orders.summarize", "ab12"), "ab12") == "orders.summarize"


def test_a_token_of_another_holder_or_process_is_refused() -> None:
    tokens = PageTokens()
    for token, holder in ((tokens.seal("x", "ab12"), "cd34"), (PageTokens().seal("x", "ab12"), "ab12")):
        with pytest.raises(InvalidArgument):
            tokens.open(token, holder)


@given(st.text())
def test_forged_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        PageTokens().open(token, "ab12")
    assert caught.value.reason == "PAGE_TOKEN_INVALID"

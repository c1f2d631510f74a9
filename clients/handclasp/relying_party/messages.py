"""Between the messages of a watch and what is known here."""

from __future__ import annotations

from handclasp.authorization.v1 import authorization_service_pb2 as messages
from handclasp.relying_party.knowledge import Change, Effect, Position

_EFFECTS = {
    messages.Change.EFFECT_GIVEN: Effect.GIVEN,
    messages.Change.EFFECT_ALTERED: Effect.ALTERED,
    messages.Change.EFFECT_WITHDRAWN: Effect.WITHDRAWN,
    messages.Change.EFFECT_CREDENTIALS: Effect.CREDENTIALS,
}


def to_position(message: messages.Position) -> Position:
    return Position(message.revision, message.mark)


def from_position(position: Position | None) -> messages.Position | None:
    return None if position is None else messages.Position(revision=position.revision, mark=position.mark)


def to_change(message: messages.Change) -> Change:
    """Effects that this code does not know, of a newer service, are taken as ALTERED: it is asked anew then."""
    return Change(message.name, frozenset(_EFFECTS.get(effect, Effect.ALTERED) for effect in message.effects))

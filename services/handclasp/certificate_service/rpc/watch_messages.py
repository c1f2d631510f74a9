"""The watch of relying parties: protobuf to domain and back."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from handclasp.authorization.v1 import authorization_service_pb2 as pb
from handclasp.certificate_service.domain.changes import Effect, Position
from handclasp.certificate_service.rpc.fields import EnumTable
from handclasp.certificate_service.use_cases.watch_authorization import Changes, Message, Pong, Reset, Welcome

_EFFECTS = EnumTable(pb.Change.Effect, "EFFECT_", Effect)


def to_position(message: pb.Position) -> Position:
    return Position(message.revision, message.mark)


def from_message(message: Message) -> pb.WatchAuthorizationResponse:
    match message:
        case Welcome():
            return pb.WatchAuthorizationResponse(
                welcome=pb.WatchAuthorizationResponse.Welcome(
                    ping_interval=_duration(message.ping_interval), lease=_duration(message.lease)
                )
            )
        case Reset():
            return pb.WatchAuthorizationResponse(
                reset=pb.WatchAuthorizationResponse.Reset(
                    position=_position(message.position), history_lost=message.history_lost
                )
            )
        case Changes():
            changes = [
                pb.Change(name=name, effects=[_EFFECTS.to_proto(effect) for effect in sorted(effects)])
                for name, effects in message.effects.items()
            ]
            return pb.WatchAuthorizationResponse(
                changes=pb.WatchAuthorizationResponse.Changes(position=_position(message.position), changes=changes)
            )
        case Pong():
            return pb.WatchAuthorizationResponse(
                pong=pb.WatchAuthorizationResponse.Pong(
                    number=message.number, revision=message.revision, lease=_duration(message.lease)
                )
            )


def _position(position: Position) -> pb.Position:
    return pb.Position(revision=position.revision, mark=position.mark)


def _duration(seconds: float) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message

"""For gRPC servers that have the certificate service decide who may call what: docs/relying-parties.md."""

from handclasp.authorization.v1.permission_pb2 import PERMISSION_EXECUTE_INTEGRATIONS, PERMISSION_VIEW_EXECUTIONS
from handclasp.relying_party.authorizer import Authorizer
from handclasp.relying_party.decisions import Allowed
from handclasp.relying_party.interceptor import AuthorizationInterceptor, Requirement
from handclasp.relying_party.party import Options, RelyingParty
from handclasp.relying_party.renewal import RenewalTimes

EXECUTE_INTEGRATIONS = PERMISSION_EXECUTE_INTEGRATIONS
VIEW_EXECUTIONS = PERMISSION_VIEW_EXECUTIONS

__all__ = [
    "EXECUTE_INTEGRATIONS",
    "VIEW_EXECUTIONS",
    "Allowed",
    "AuthorizationInterceptor",
    "Authorizer",
    "Options",
    "RelyingParty",
    "RenewalTimes",
    "Requirement",
]

"""Gives back what it is given: to try out certificates, grants and clients."""

from handclasp.authoring import JsonObject, integration


@integration(name="echo", version="1.0.0", timeout=10)
async def echo(value: JsonObject) -> JsonObject:
    """Returns its input, which may be any JSON object. As JSON text, numbers come back digit for digit."""
    return value

"""What authors of integrations import.

    from handclasp.authoring import integration

    @integration(name="greetings.hello", version="1.0.0", description="Greets somebody.")
    async def hello(request: Person) -> Greeting:
        return Greeting(text=f"Hello, {request.name}")

The execution server finds integrations through the entry-point group `handclasp.integrations`, and in the files of its
integrations folder.
"""

from handclasp.authoring.integration import NAME_PATTERN, VERSION_PATTERN, Integration, integration
from handclasp.authoring.json_object import ExactFloat, JsonObject

__all__ = ["NAME_PATTERN", "VERSION_PATTERN", "ExactFloat", "Integration", "JsonObject", "integration"]

"""The base of every stage's configuration: frozen, complete, and strict about unknown keys."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class StageConfig(BaseModel):
    """A stage's settings. Every field that changes the output is here, and nothing else (no paths, no workers)."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def as_json(self) -> dict[str, Any]:
        """The complete configuration as plain JSON values: what a manifest records and hashes."""
        return self.model_dump(mode="json")

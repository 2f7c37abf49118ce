"""What every section of the config has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of the config. Unknown keys are errors: a mistyped option must never be silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

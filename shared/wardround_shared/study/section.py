"""What all sections of a study file have in common."""

from pydantic import BaseModel, ConfigDict


def _hyphenated(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


class Section(BaseModel):
    """A frozen section: hyphenated keys, no unknown key, no NaN or infinity."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=_hyphenated,
        validate_by_name=False,
        validate_by_alias=True,
        allow_inf_nan=False,
        strict=False,
    )

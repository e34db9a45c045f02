"""What a key of params.yaml may hold where a number or a word does not do, and what holds for all of them."""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from tasks.secrets import keyed

NO_LOGIN = (
    "holds a login, a token or a signature, which would be committed and published. Leave it out: stores "
    "take their keys from the environment, such as AWS_SECRET_ACCESS_KEY"
)


class Section(BaseModel):
    """A block of params.yaml: frozen, and strict about names and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _keyless(value: str) -> str:
    if keyed(value):
        raise ValueError(NO_LOGIN)
    return value


Keyless = Annotated[str, AfterValidator(_keyless)]


def as_names(value: Any) -> Any:
    """Blocks by class, whose names are texts: YAML reads a class called 3 as a number."""
    return {str(key): each for key, each in value.items()} if isinstance(value, dict) else value


Colour = Annotated[str, Field(pattern="^#?[0-9a-fA-F]{6}$")]


class Mask(Section):
    """How the pixels of a paired mask become ids, which count from 0; one of the four is given.

    ids: they are ids, so many (a PNG of indices, or with a palette). values, colours: a pixel's id is the
    place of its value, or of its colour (RRGGBB), in this list. threshold: greys from it on are 1, others 0.
    """

    ids: int | None = Field(None, ge=2, le=256)
    values: list[Annotated[int, Field(ge=0, lt=2**16)]] | None = Field(None, min_length=2, max_length=256)
    colours: list[Colour] | None = Field(None, min_length=2, max_length=256)
    threshold: int | None = Field(None, ge=1, le=255)

    @model_validator(mode="after")
    def _one(self) -> "Mask":
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("give one of ids, values, colours and threshold")
        colours = [colour.removeprefix("#").lower() for colour in self.colours or ()]
        for listed in (self.values or [], colours):
            if len(set(listed)) < len(listed):
                raise ValueError("lists something twice")
        return self

    @property
    def count(self) -> int:
        """How many ids there are."""
        return self.ids or len(self.values or self.colours or (0, 1))


class Limit(Section):
    """Where a measure's limit lies: at a share of held-out real images, or a value; for some classes another.

    slack: how many times as far out as the share says, for what generators do a little of without harm.
    """

    share: float | None = Field(None, ge=0.0, le=1.0)
    slack: float = Field(1.0, ge=1.0)
    value: float | None = Field(None)
    classes: dict[str, float] = {}

    _named = field_validator("classes", mode="before")(as_names)

    @model_validator(mode="after")
    def _one(self) -> "Limit":
        if self.share is not None and self.value is not None:
            raise ValueError("give share or value, not both")
        if self.share is None and self.value is None and not self.classes:
            raise ValueError("give share, value or classes")
        return self


def _as_limit(found: Any) -> Any:
    """A bare number is a share."""
    return {"share": found} if isinstance(found, int | float) else found


Reason = Annotated[Limit | None, BeforeValidator(_as_limit)]

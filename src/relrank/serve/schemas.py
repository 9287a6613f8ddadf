"""Request and response bodies, as in the OpenAPI description."""

# pydantic evaluates the annotations, so this file does not postpone them.

from typing import Annotated, Any, Literal, Optional, Self, cast

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from relrank.serve.candidate_filters import Between, Condition, Has, LogicalCondition

Id = Annotated[StrictInt, Field(ge=-(2**63), le=2**64 - 1)] | Annotated[StrictStr, Field(max_length=1000)]
"""An outside id in a request."""


class _Response(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


Weights = Annotated[
    dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None,
    Field(description="Relation weights that differ from the fitted ones, if the run's weights are adjustable."),
]


class Item(_Response):
    """An item."""

    item: int | str
    title: str | None


class DescribedItem(Item):
    """An item and what helps to recognise it."""

    attributes: dict[str, list[str | int | float]] = Field(
        description="Up to four short attributes, such as author or year, by relation or column: up to three values "
        "each, those of most items first. Empty if the request opts out."
    )


class RankedItem(DescribedItem):
    """An item of a ranked list."""

    score: float
    place: int = Field(description="Rank in the list, from 1.")


class SimilarItem(DescribedItem):
    """An item and its similarity."""

    score: float


class HistoryItem(DescribedItem):
    """An item of a history."""

    part: Literal["train", "valid", "test"]


class RelationInfo(_Response):
    """A relation of a run."""

    name: str
    source: str
    target: str
    edges: int
    weight: float | None


class Example(_Response):
    """A typical user, and some of their training items, oldest first."""

    user: int | str
    items: list[Item]


class RunInfo(_Response):
    """A run that is served."""

    name: str
    model: str
    arm: str
    protocol: str
    n_users: int
    n_items: int
    n_cold_items: int = Field(description="Items without interactions that can be recommended.")
    user: str
    item: str
    relations: list[RelationInfo]
    weights_adjustable: bool
    weight_unit: str | None = Field(description="What the relation weights count, if they are adjustable.")
    weight_meaning: str | None = Field(description="What a weight does, and what happens when it changes.")
    attributes: list[str] = Field(description="Relations and columns whose values items in lists have.")
    example: Example | None = Field(description="A history to begin with; None without training interactions.")
    filters: list[str] = Field(description="Relations that filters may name.")
    columns: list[str] = Field(
        description="Columns that filters may name: those of the item table, and TYPE.COLUMN of linked nodes."
    )


class RunsResponse(_Response):
    """The runs that are served; the first is the default."""

    runs: list[RunInfo]


class RecommendResponse(_Response):
    """A page of a ranked list."""

    run: str
    user: int | str | None
    k: int
    offset: int
    total: int = Field(description="Items of the whole list.")
    next_offset: int | None = Field(description="Of the next page; None after the last one.")
    fallback: Literal["popularity"] | None = Field(
        description="What the list is ranked by if the model has no information: no history, or equal scores."
    )
    exact: bool = Field(
        description="Whether scores are the model's own; not where a session shifts those of a fixed user vector."
    )
    missing_relations: list[str] = Field(
        description="Relations of users that the model uses and a bare history does not have."
    )
    unknown_items: list[int | str] = Field(description="Unknown items of the request that were skipped.")
    items: list[RankedItem]


class SimilarResponse(_Response):
    """The items most similar to one."""

    run: str
    item: int | str
    title: str | None
    items: list[SimilarItem]


class ItemsResponse(_Response):
    """Items by title."""

    items: list[DescribedItem]


class UsersResponse(_Response):
    """Users by id."""

    users: list[int | str]


class FilterValue(_Response):
    """A value of a filter, and the number of items that match it."""

    value: int | str
    items: int


class FilterValuesResponse(_Response):
    """Values of a filter."""

    relation: str
    values: list[FilterValue]


class HistoryResponse(_Response):
    """The interactions of a user."""

    user: int | str
    items: list[HistoryItem]


class PathNode(_Response):
    """A node on a path between two items."""

    type: str
    id: int | str
    name: str | None


class ReasonPath(_Response):
    """A path from the history to the item, and the item's rank and score after removing it."""

    via: Item
    relation: str
    through: list[PathNode]
    strength: float
    rank_after_removal: float
    score_after_removal: float
    rank_without_link: float | None
    score_without_link: float | None
    exact: bool
    sentence: str


class ExplainResponse(_Response):
    """Why an item is recommended."""

    run: str
    item: Item
    rank: float = Field(description="Rank in the served list.")
    score: float
    fallback: Literal["popularity"] | None = Field(description="As in the list; then there are no reasons.")
    used_fold_in: bool = Field(
        description="Whether the effects of removals come from folding the history in, since the user vector is "
        "fixed. Rank and score are still those of the list."
    )
    unknown_items: list[int | str] = Field(description="Unknown items of the request that were skipped.")
    reasons: list[ReasonPath]


class ReloadError(_Response):
    """A run that could not be reloaded; the previous one is still served."""

    run: str
    message: str


class HealthResponse(_Response):
    """State of the server."""

    status: Literal["ok", "draining"]
    runs: list[str]
    reload_errors: list[ReloadError]
    uptime_seconds: float


class ErrorDetail(_Response):
    """What is wrong with a request, and where."""

    message: str
    where: str
    expected: str
    found: str


class ErrorResponse(_Response):
    """The body of every error."""

    error: ErrorDetail


class Filter(_Request):
    """A relation and value, a column and value or bounds, or conditions joined by all, any and not."""

    relation: StrictStr | None = None
    column: StrictStr | None = Field(
        None, description="Of the item table, or TYPE.COLUMN. A missing value matches no condition."
    )
    value: Id | StrictBool | StrictFloat | None = None
    min: Annotated[float, Field(allow_inf_nan=False)] | None = Field(None, description="For a column of numbers.")
    max: Annotated[float, Field(allow_inf_nan=False)] | None = None
    all: list["Filter"] | None = Field(None, min_length=1, description="All of these.", fail_fast=True)
    any: list["Filter"] | None = Field(None, min_length=1, description="At least one of these.", fail_fast=True)
    not_: Optional["Filter"] = Field(None, alias="not", description="Not this.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [name for name in ("relation", "column", "all", "any", "not_") if getattr(self, name) is not None]
        bounds = self.min is not None or self.max is not None
        fits = len(kinds) == 1
        if fits and kinds[0] == "relation":
            fits = self.value is not None and not bounds
        elif fits and kinds[0] == "column":
            fits = (self.value is not None) != bounds
        else:
            fits = fits and self.value is None and not bounds
        if not fits:
            raise ValueError(
                "one of: relation and value; column and value; column with min or max or both; all; any; not"
            )
        return self

    def condition(self) -> Condition:
        """The condition for ``Service``."""
        if self.relation is not None or (self.column is not None and self.value is not None):
            kind: Literal["relation", "column"] = "column" if self.relation is None else "relation"
            return Has(str(self.relation or self.column), cast("Id", self.value), kind)
        if self.column is not None:
            return Between(self.column, self.min, self.max)
        if self.not_ is not None:
            return LogicalCondition("not", (self.not_.condition(),))
        parts = tuple(part.condition() for part in self.all or self.any or ())
        return LogicalCondition("all" if self.all is not None else "any", parts)


HISTORY = "Ids of items, oldest first; with a user those of the current session, in addition to the user's own."
USER = "Id of a known user."
RUN = "Name of a run; the first by default."
K = "Length of the page, in items."
OFFSET = "Items before the page."
EXCLUDE_SEEN = "Leave out the user's interactions of any part of the split, and the items of the history."
WITH = "Only items that match every condition."
EXCLUDE = "Ids of items to leave out."
ATTRIBUTES = "Whether items have their attributes."
SKIP = "Leave out unknown items and list them in the response, instead of an error."


class RecommendRequest(_Request):
    """Whom to recommend to, and which page."""

    history: list[Id] | None = Field(None, description=HISTORY, fail_fast=True)
    user: Id | None = Field(None, description=USER)
    skip_unknown: Annotated[bool, Field(strict=True, description=SKIP)] = False
    k: Annotated[int, Field(ge=1, strict=True, description=K)] = 10
    offset: Annotated[int, Field(ge=0, strict=True, description=OFFSET)] = 0
    exclude_seen: Annotated[bool, Field(strict=True, description=EXCLUDE_SEEN)] = True
    attributes: Annotated[bool, Field(strict=True, description=ATTRIBUTES)] = True
    with_: list[Filter] = Field([], alias="with", description=WITH, fail_fast=True)
    exclude: list[Id] = Field([], description=EXCLUDE, fail_fast=True)
    weights: Weights = None
    run: StrictStr | None = Field(None, description=RUN)


class ExplainRequest(_Request):
    """An item to explain, and to whom."""

    item: Id
    history: list[Id] | None = Field(None, description=HISTORY, fail_fast=True)
    user: Id | None = Field(None, description=USER)
    skip_unknown: Annotated[bool, Field(strict=True, description=SKIP)] = False
    n: Annotated[int, Field(ge=1, strict=True, description="Maximum number of reasons.")] = 5
    with_: list[Filter] = Field([], alias="with", description=WITH, fail_fast=True)
    exclude: list[Id] = Field([], description=EXCLUDE, fail_fast=True)
    weights: Weights = None
    run: StrictStr | None = Field(None, description=RUN)


def shared_arguments(request: RecommendRequest | ExplainRequest) -> dict[str, Any]:
    """Arguments that ``Service.recommend`` and ``Service.explain`` share, from a request's body."""
    names = ("user", "history", "exclude", "weights", "skip_unknown", "run")
    return {"filters": [f.condition() for f in request.with_], **{name: getattr(request, name) for name in names}}

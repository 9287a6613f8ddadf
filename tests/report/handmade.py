"""Study results made by hand: one like goodbooks, one with planted truth, a crowded and an empty one."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import polars as pl

from relrank.study.result import FORMAT, StudyResult

USERS = 2668
MARGIN = 0.0014
KINDS = ("held", "drop", "alone", "placebo")
LISTS = ("novelty@10", "popularity lift@10", "intra-list similarity@10", "miscalibration@10")
TYPES = {"s": pl.String, "i": pl.Int64, "f": pl.Float64, "b": pl.Boolean}
SCHEMAS = {
    "leaderboard": "model:s arm:s n_seeds:i n_users:i mean:f low:f high:f below_ease:b mrr:f "
    "hit@10:f recall@10:f precision@10:f map@10:f hit@50:f coverage@10:f gini@10:f novelty@10:f "
    "popularity~lift@10:f intra-list~similarity@10:f miscalibration@10:f "
    "users~without~truth:f seconds:f peak_mb:f",
    "effects": "model:s relation:s kind:s other:s arm_a:s arm_b:s mean:f low:f high:f p:f p_holm:f effect_size:f "
    "standard_error:f degrees_of_freedom:f detectable_effect:f n_users:i n_seeds:i",
    "verdicts": "model:s relation:s verdict:s sentence:s interchangeable_with:s p:f held:f held_low:f held_high:f "
    "drop:f drop_low:f drop_high:f alone:f alone_low:f alone_high:f placebo:f placebo_low:f placebo_high:f unused:f "
    "detectable_effect:f margin:f true_verdict:s",
    "groups": "model:s relation:s kind:s other:s group:s label:s order:i mean:f low:f high:f n_users:i",
    "group_metrics": "model:s arm:s group:s label:s order:i n_users:i mrr:f hit@10:f ndcg@10:f recall@50:f",
    "list_effects": "model:s relation:s kind:s other:s measure:s mean:f low:f high:f n_users:i n_seeds:i",
    "metric_effects": "model:s relation:s kind:s other:s measure:s mean:f low:f high:f n_users:i n_seeds:i",
    "curves": "model:s arm:s seed:i epoch:i loss:f metric:f",
    "tuning": "model:s arm:s seed:i trial:i metric:f config:s chosen:b",
    "notes": "model:s arm:s seed:i note:s key:s value:f sd:f count:i",
}


class Study:
    """Collects rows; every interval is mean ± half, so that expected figures are easy to name."""

    def __init__(self, half: float, seeds: tuple[int, ...] = (0,)) -> None:
        self.seeds = seeds
        self.half = half
        self.visible = 1.4 * half
        self.rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in SCHEMAS}

    def around(self, mean: float, half: float | None = None) -> tuple[float, float, float]:
        return mean, mean - (half or self.half), mean + (half or self.half)

    def arm(self, model: str, arm: str, mean: float, seconds: float, mb: float, *, below: bool = False) -> None:
        figures = (mean, max(mean - 2.2 * self.half, 0.0), mean + 2.2 * self.half, below)
        hit, mrr = 1.72 * mean, 0.81 * mean
        lists = (0.35 + mean, 0.9 - mean, 9 + 8 * mean, 0.8 - 9 * mean, 0.2 + mean, 2.5 - 7 * mean)
        others = (mrr, hit, hit, hit / 10, mrr, 2.9 * mean, *lists, 0.0)
        self.rows["leaderboard"].append((model, arm, len(self.seeds), USERS, *figures, *others, seconds, mb))

    def effect(
        self,
        model: str,
        relation: str | None,
        kind: str,
        arms: tuple[str, str],
        mean: float,
        other: str | None = None,
    ) -> None:
        p, p_holm = (0.0002, 0.001) if abs(mean) > self.half else (0.41, 1.0)
        row = (model, relation, kind, other, *arms, *self.around(mean), p, p_holm, mean / 0.25)
        self.rows["effects"].append((*row, self.half / 1.96, 99.0, self.visible, USERS, len(self.seeds)))

    def relation(
        self,
        model: str,
        relation: str,
        verdict: str,
        means: tuple[float, float, float],
        instead: str | None = None,
        truth: str | None = None,
    ) -> None:
        """The effects and the verdict of one relation; "held" is as large as "drop"."""
        arms = [
            ("all", f"all without {relation}, settings held"),
            ("all", f"all without {relation}"),
            (f"interactions + {relation}", "interactions"),
            ("all", f"all, {relation} rewired"),
        ]
        means = (means[0], *means)
        for kind, pair, mean in zip(KINDS, arms, means, strict=True):
            self.effect(model, relation, kind, pair, mean)
        said = {
            "helps": f"Without {relation}, NDCG@10 falls by {means[0]:.4f}; alone it adds {means[2]:.4f}.",
            "interchangeable": f"Alone {relation} adds {means[2]:.4f}, but nothing is lost without it.",
            "hurts": f"With {relation}, NDCG@10 falls by {-means[0]:.4f}.",
            "negligible": f"{relation} adds less than {MARGIN}.",
            "undecided": f"No effect of {relation} was seen; one of {self.visible:.4f} would have been.",
        }[verdict]
        figures = [figure for mean in means for figure in self.around(mean)]
        p = None if verdict in ("negligible", "undecided") else 0.001
        row = (model, relation, verdict, said, instead, p, *figures, 0.0, self.visible, MARGIN, truth)
        self.rows["verdicts"].append(row)

    def lists(
        self, model: str, relation: str | None, kind: str, means: tuple[float, ...], other: str | None = None
    ) -> None:
        """What one pair of arms changes in the lists, in the order of ``LISTS``."""
        for measure, mean in zip(LISTS, means, strict=True):
            row = (model, relation, kind, other, measure, *self.around(mean, 0.05), USERS, len(self.seeds))
            self.rows["list_effects"].append(row)

    def metric(self, model: str, relation: str | None, kind: str, measure: str, mean: float) -> None:
        """What one pair of arms changes in another metric of accuracy."""
        row = (model, relation, kind, None, measure, *self.around(mean), USERS, len(self.seeds))
        self.rows["metric_effects"].append(row)

    def result(self, **card: Any) -> StudyResult:
        frames = {}
        for name, text in SCHEMAS.items():
            schema = {
                column.replace("~", " "): TYPES[kind]
                for column, kind in (word.rsplit(":", 1) for word in text.split())
            }
            frames[name] = pl.DataFrame(self.rows[name], schema=schema, orient="row")
        frames["leaderboard"] = frames["leaderboard"].sort("mean", descending=True, maintain_order=True)
        return StudyResult(card=make_card(list(self.seeds)) | card, **frames)


def make_card(seeds: list[int]) -> dict[str, Any]:
    nodes = {"user": USERS, "book": 7770, "tag": 7121, "author": 4209, "language": 25, "period": 7}
    relations = [
        ("has_tag", "tag", 331_902, 0.9997, "link"),
        ("written_by", "author", 10_377, 1.0, "list"),
        ("similar_text", "book", 118_220, 0.973, "text"),
        ("in_language", "language", 7770, 1.0, "attribute"),
        ("published_in", "period", 7770, 1.0, "bins"),
    ]
    keys = ("name", "source", "target", "edges", "covered", "kind")
    audit = [
        ("ok", "test rows in the graph", "none", 0),
        ("ok", "duplicate rows across parts", "none", 0),
        ("warning", "time", "no timestamps: the split is random, not a forecast", 2668),
    ]
    notices = [
        ("book_tags.csv", "tags with a count below 1 left out", 6),
        ("ratings_v2_users5pct.csv", "ratings below 4 left out by the protocol", 88_402),
    ]
    return {
        "format": FORMAT,
        "name": "goodbooks-loo",
        "title": "Which relations of books make recommendations better?",
        "description": "Ratings of 4 and 5 stars by 5 % of the readers, with what is known of the books.",
        "protocol": "goodbooks-loo",
        "fingerprints": [hashlib.sha256(str(seed).encode()).hexdigest() for seed in seeds],
        "seeds": seeds,
        "metric": "ndcg@10",
        "trials": 8,
        "n_users": USERS,
        "n_items": 7770,
        "n_train": 192_104,
        "n_valid": USERS,
        "n_test": USERS,
        "nodes": [{"type": name, "count": n} for name, n in nodes.items()],
        "relations": [dict(zip(keys, (name, "book", *rest), strict=True)) for name, *rest in relations],
        "notices": [dict(zip(("where", "message", "count"), row, strict=True)) for row in notices],
        "audit": [dict(zip(("level", "check", "message", "count"), row, strict=True)) for row in audit],
        "machine": dict(
            zip(
                ("cpu", "cores", "memory_gb", "python", "torch", "relrank"),
                ("Some CPU 3000", 2, 24, "3.11.9", "2.13.0", "0.1.0"),
                strict=True,
            )
        ),
        "planted": None,
        "smoke": False,
    }


GOODBOOKS = {
    # relation: means of relational EASE, its verdict, means of relational LightGCN, its verdict
    "has_tag": ((0.0072, 0.0231, 0.0083), "helps", (0.0051, 0.0088, 0.0057), "helps"),
    "written_by": ((0.0048, 0.0214, 0.0061), "helps", (0.0063, 0.0107, 0.0068), "helps"),
    "similar_text": ((0.0041, 0.0226, 0.0049), "helps", (0.0009, 0.0061, 0.0012), "interchangeable"),
    "in_language": ((0.0004, 0.0014, 0.0002), "undecided", (-0.0003, 0.0006, -0.0001), "negligible"),
    "published_in": ((-0.0006, 0.0010, -0.0003), "undecided", (-0.0002, 0.0003, 0.0001), "negligible"),
}


def baselines(study: Study, ease: float) -> None:
    for model, share in [("random", 0.005), ("popularity", 0.22), ("item-knn", 0.72), ("ease", 1.0)]:
        study.arm(model, "interactions", share * ease, 0.4 + 20 * share, 210 + 1000 * share, below=share < 1)


def goodbooks() -> StudyResult:
    """Six models, five relations, three seeds."""
    study = Study(half=0.0027, seeds=(0, 1, 2))
    baselines(study, ease=0.1440)
    for model, base, gain, seconds, at in [
        ("relational-ease", 0.1443, 0.0172, 31.0, 0),
        ("relational-lightgcn", 0.1061, 0.0119, 412.0, 2),
    ]:
        below = base < 0.14
        study.arm(model, "all", base + gain, 2.6 * seconds, 2310, below=below)
        study.arm(model, "interactions", base, seconds, 1240, below=below)
        study.effect(model, None, "gain", ("all", "interactions"), gain)
        study.lists(model, None, "gain", (0.41, -0.3, 0.02, -0.7))
        for i, (name, told) in enumerate(GOODBOOKS.items()):
            means, verdict = told[at : at + 2]
            less, more = (2.6 - 0.3 / (i + 1)) * seconds, (1 + 0.5 / (i + 1)) * seconds
            study.arm(model, f"all without {name}", base + gain - means[0], less, 2310 - 400 / (i + 1), below=below)
            study.arm(model, f"interactions + {name}", base + means[1], more, 1240 + 500 / (i + 1), below=below)
            study.arm(model, f"all, {name} rewired", base + gain - means[2], 2.6 * seconds, 2310, below=below)
            study.relation(model, name, verdict, means, instead="has_tag" if verdict == "interchangeable" else None)
            add_groups(study, model, name, means)
            for kind, mean in zip(KINDS[1:3], means, strict=False):
                study.lists(model, name, kind, (20 * mean, -9 * mean, 3 * mean, -30 * mean))
        for name, other, mean in [
            ("similar_text", "has_tag", 0.0011),
            ("has_tag", "similar_text", 0.0036),
            ("written_by", "has_tag", 0.0052),
        ]:
            arms = (f"interactions + {other} + {name}", f"interactions + {other}")
            study.effect(model, name, "beside", arms, mean, other)
    for i, arm in enumerate([row[1] for row in study.rows["leaderboard"] if row[0] == "relational-lightgcn"]):
        top = {"all": 0.124, "interactions": 0.111}.get(arm, 0.119 - 0.0003 * i)
        for seed in study.seeds:
            add_training(study, "relational-lightgcn", arm, seed, top + 0.002 * seed)
    plan = make_plan(
        "relational-ease", 0.1443, 0.0172, [("has_tag", 0.0101), ("written_by", 0.0152), ("similar_text", 0.016)]
    )
    return study.result(plan=plan)


def make_plan(model: str, base: float, gain: float, steps: list[tuple[str, float]]) -> dict[str, Any]:
    """The plan; (relation, what all relations up to it add)."""
    rows, before = [], 0.0
    for at, (relation, total) in enumerate(steps):
        row: dict[str, Any] = {
            "relation": relation,
            "arm": "interactions",
            "alternatives": ["text"] if at == 1 else [],
        }
        for name, mean in (("adds", total - before), ("total", total), ("left", gain - total)):
            row |= {name: mean, f"{name}_low": mean - 0.002, f"{name}_high": mean + 0.002}
        row |= {"share": total / gain, "confirmed": total - before > 0.002, "rows": 10_377, "nodes": 4209}
        rows.append({**row, "seconds": 1.5, "peak_mb": 400.0})
        before = total
    build = sum(row["confirmed"] for row in rows)
    return {"model": model, "steps": rows, "build": build, "enough": None, "margin": MARGIN, "base": base,
            "ends": "no further relation is better on validation"}  # fmt: skip


def add_groups(study: Study, model: str, relation: str, means: tuple[float, ...]) -> None:
    columns = {
        "history length": ["≤ 30", "31–60", "61–100", "> 100"],
        "item popularity": ["rarest third", "middle third", "most popular third"],
    }
    for column, labels in columns.items():
        for kind, mean in zip(KINDS[1:], means, strict=True):
            for order, label in enumerate(labels):
                here = study.around(mean * (1.6 - 0.45 * order) + 0.0006 * math.sin(7 * order), 0.0051)
                study.rows["groups"].append(
                    (model, relation, kind, None, column, label, order, *here, USERS // len(labels))
                )


def add_training(study: Study, model: str, arm: str, seed: int, top: float, epochs: int = 60) -> None:
    for epoch in range(1, epochs + 1):
        metric = top * (1 - math.exp(-epoch / 14)) - 6e-5 * max(0, epoch - 45) ** 2
        loss = 4.1 + 2.6 * math.exp(-epoch / 9) - top
        study.rows["curves"].append((model, arm, seed, epoch, loss, metric if epoch % 5 == 0 else None))
    for trial in range(8):
        config = json.dumps({"dim": 128, "weight.has_tag": 0.4 + trial})
        study.rows["tuning"].append((model, arm, seed, trial, top - 0.001 * trial, config, trial == 0))


def planted() -> StudyResult:
    """A drives choices, B is a copy of A, C and D are noise."""
    study = Study(half=0.006, seeds=(0, 1))
    truth = {"A": "helps", "B": "interchangeable", "C": "negligible", "D": "negligible"}
    means = {"A": (0.031, 0.082, 0.034), "B": (0.002, 0.055, 0.003), "C": (-0.001,) * 3, "D": (0.003, -0.002, 0.001)}
    baselines(study, ease=0.12)
    study.arm("relational-ease", "all", 0.205, 2.4, 260)
    study.arm("relational-ease", "interactions", 0.12, 1.1, 220)
    study.effect("relational-ease", None, "gain", ("all", "interactions"), 0.085)
    for name, verdict in truth.items():
        study.relation("relational-ease", name, verdict, means[name], "A" if name == "B" else None, verdict)
    keys = {"source": "item", "edges": 4000, "covered": 1.0, "kind": "link"}
    relations = [{"name": name, "target": name.lower(), **keys} for name in truth]
    return study.result(name="planted", title="A planted database", planted=truth, relations=relations)


def judged(*rows: tuple[str, ...], visible: float = 0.004, best: dict[str, float] | None = None) -> StudyResult:
    """A study of bare verdicts: (model, relation, verdict[, interchangeable with]); ``best``: leaderboard means."""
    study = Study(half=visible / 1.4)
    mean = {"helps": 0.02, "interchangeable": 0.001, "hurts": -0.02, "negligible": 0.0001, "undecided": 0.0005}
    for model, relation, verdict, *other in rows:
        study.relation(model, relation, verdict, (mean[verdict],) * 3, other[0] if other else None)
    for model, value in (best or {}).items():
        study.arm(model, "all", value, 1.0, 100)
    return study.result()


def crowded() -> StudyResult:
    """Thirty relations with long names, three models, one seed, a leak, a smoke run."""
    study = Study(half=0.004)
    words = {"helps": 0.021, "interchangeable": 0.001, "hurts": -0.013, "undecided": 0.0004, "negligible": 0.0001}
    names = [f"relation_{i:02d}" + "_with_a_rather_long_name_of_its_own" * (i % 3 == 0) for i in range(30)]
    for m, model in enumerate(("relational-ease", "relational-lightgcn", "gf-cf")):
        study.arm(model, "all", 0.15 - 0.02 * m, 12.0, 900)
        study.arm(model, "interactions", 0.12 - 0.02 * m, 3.0, 400)
        study.effect(model, None, "gain", ("all", "interactions"), 0.03)
        for i, name in enumerate(names):
            word, mean = list(words.items())[(i + m * (i % 2)) % 5]
            verdict = word
            study.relation(model, name, verdict, (mean,) * 3, names[0] if verdict == "interchangeable" else None)
            for arm in (f"all without {name}", f"interactions + {name}", f"all, {name} rewired"):
                study.arm(model, arm, 0.14 - 0.02 * m, 11.0, 850)
    keys = {"source": "item", "target": "x", "edges": 10, "covered": 0.5, "kind": "link"}
    leak = {"level": "leak", "check": "test rows in the graph", "message": "12 test rows are edges", "count": 12}
    return study.result(relations=[{"name": name, **keys} for name in names], audit=[leak], smoke=True)


def empty() -> StudyResult:
    """A study without a single row in any table."""
    lists: dict[str, Any] = {"relations": [], "notices": [], "audit": [], "nodes": [], "fingerprints": []}
    return Study(half=0.01).result(**lists)

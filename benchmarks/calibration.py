"""Do verdicts keep what they promise? Worthless relations, independent ones, near copies, power and coverage.

    python benchmarks/calibration.py run FOLDER --data planted [--study FILE] [--kind placebos] [--first 0]
                                                [--studies 30] [--splits 1] [--starts 1] [--model sparse-ease]
                                                [--minutes 30] [--keep]
    python benchmarks/calibration.py tables FOLDER RUN [--samples 400]
    python benchmarks/calibration.py fresh FOLDER [--samples 200] [--minutes 30]
    python benchmarks/calibration.py starts [--effects 4000]
    python benchmarks/calibration.py few [--effects 1500]
    python benchmarks/calibration.py report FOLDER [--write docs/calibration.md]

``run`` makes studies with relations of which the truth is known, and adds a line per study to FOLDER/studies.jsonl; a
study that is there is not made again. With ``--keep`` their folders stay under FOLDER/kept: take a line out of
studies.jsonl, and today's rule judges the same cells anew. Kinds:

* ``placebos``: five worthless relations on real or planted interactions: random categories of 5, 50 or 500 values, a
  real relation with items permuted (planted: its driver), bins of popularity plus noise, random groups of users, and
  a near copy of the categories (one value in ten is another);
* ``independent``: two halves of what drives planted choices, each useful, neither in place of the other, and noise;
* ``copies``: three copies of what drives planted choices, each with one value in a hundred drawn anew;
* ``loose-copies``: the same with one in twenty, so that a second copy mends what the first one has wrong.

With one split and several ``--starts`` a trained model is fitted that often on the same split, as in a study of given
test rows.

``tables`` takes the per-user tables of a finished study as a population: how often intervals over so many users and
splits cover its mean, and how often an effect of the size that "would have been seen" is claimed.
``fresh`` draws a planted population of users, 1,200 for each of so many samples, all of one shop. Each sample is a
data set of its own: five splits, models of fixed settings fitted on it. Intervals from 100 or 1,000 of its users, who
shaped the models, too, are held against the mean over the users of all other samples.
``starts`` draws effects that are not there, on the same test rows with three starts of training, which differ, and
shake each user, by 0 to 4 times the variance of users: how often p is small, and how far z spreads, with what the
effect's own starts say and with what a dozen arms say.
``few`` draws effects that few of 400 users show, each another one: how often intervals hold the truth.
``report`` prints rates with 95 % binomial intervals (Clopper–Pearson).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.special import betaincinv

from relrank.evaluation.comparison import Effect, RestartVariance, effect_from_differences
from relrank.evaluation.evaluate import user_metric
from relrank.graph.construction.build_graph import build_graph
from relrank.graph.construction.relation_config import Attribute
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models.closed_form.sparse_ease import SparseEASE, SparseEASEConfig
from relrank.parallel.machine import machine
from relrank.study.config import ModelSection, StudyConfig, read_study
from relrank.study.prepare import StudyData, prepare
from relrank.study.run import run_study
from relrank.study.verdicts import Evidence, decide_verdicts
from relrank.tables.ids import IdMap
from relrank.tables.protocols import make_split
from relrank.tables.synthetic import PlantedConfig, planted
from relrank.tables.tables import Tables

ROOT = Path(__file__).resolve().parent.parent
STUDIES = {
    "planted": "planted.toml",
    "ml-100k": "ml-100k-loo.toml",
    "goodbooks": "goodbooks-loo.toml",
    "beauty": "beauty.toml",
}
SETTINGS: dict[str, Any] = {
    "relational-lightgcn": {
        "config": {
            "dim": 64,
            "layers": 2,
            "loss": "full-softmax",
            "similarity": "cosine",
            "temperature": 0.1,
            "ridge": 0.0,
        },
        "train": {"epochs": 20, "batch": 2048, "lr": 0.01, "decay": "linear", "every": 5},
    }
}
"""Of trained models; closed forms are tuned."""
CLAIMS = ("helps", "hurts", "interchangeable")


def categories(n: int, values: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, values, n)


def near_copy(column: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The same values, a share of them drawn anew."""
    drawn = rng.permutation(column)
    return np.where(rng.random(column.size) < share, drawn, column)


def relation(name: str, node: str, column: np.ndarray) -> tuple[Relation, IdMap]:
    values, codes = np.unique(column, return_inverse=True)
    ids = IdMap(name, pl.Series(range(values.size)))
    return Relation.of(name, node, name, np.arange(column.size), codes), ids


def placebos(graph: Graph, real: list[str], seed: int) -> dict[str, tuple[str, Any]]:
    """Five worthless relations: name → (node type, value of every node, or edges as they are)."""
    rng = np.random.default_rng([seed, 1])
    n = graph.n_items
    values = (5, 50, 500)[seed % 3]
    random = categories(n, values, rng)
    popularity = np.bincount(graph.interactions.dst, minlength=n).astype(float)
    order = np.argsort(np.argsort(popularity + rng.random(n)))
    noisy = np.argsort(np.argsort(order + rng.normal(0, 0.2 * n, n))) * 10 // n
    made: dict[str, tuple[str, Any]] = {
        f"random_{values}": (graph.item, random),
        "popularity_bins": (graph.item, noisy),
        "user_groups": (graph.user, categories(graph.n_users, 8, rng)),
        "near_copy": (graph.item, near_copy(random, 0.1, rng)),
    }
    r = graph.relation(real[seed % len(real)])
    moved = rng.permutation(n)[r.src]
    order = np.lexsort((r.dst, moved))
    made["permuted"] = (
        graph.item,
        replace(r, src=moved[order].astype(r.src.dtype), dst=r.dst[order], weight=r.weight[order]),
    )
    return made


def with_relations(material: StudyData, config: StudyConfig, made: Any) -> tuple[StudyData, StudyConfig]:
    """The study with these relations alone; ``made`` gives those of a graph."""
    split_contexts, names = [], {}
    for split_context in material.split_contexts:
        graph = split_context.graph
        nodes = {t: graph.nodes[t] for t in (graph.user, graph.item)}
        relations: dict[str, Relation] = {}
        for name, (node, column) in made(graph).items():
            if isinstance(column, Relation):
                relations[name] = Relation.of(name, node, name, column.src, column.dst, column.weight)
                nodes[name] = IdMap(name, graph.nodes[column.target].keys)
            else:
                relations[name], nodes[name] = relation(name, node, column)
            names[name] = Attribute(kind="attribute", node=node, column=name)
        split_contexts.append(
            replace(
                split_context, graph=replace(graph, nodes=nodes, relations=relations, features={}), attributes=None
            )
        )
    return replace(material, split_contexts=tuple(split_contexts), findings=()), config.model_copy(
        update={"relations": names}
    )


def driver_of(graph: Graph) -> np.ndarray:
    """What decides who chooses which planted item, by item row."""
    r = graph.relation("driver")
    column = np.empty(graph.n_items, np.int64)
    column[r.src] = r.dst
    return column


def known_truth(kind: str, driver: np.ndarray, item: str, seed: int) -> dict[str, tuple[str, np.ndarray]]:
    rng = np.random.default_rng([seed, 2])
    if kind == "independent":
        side = int(np.ceil(np.sqrt(driver.max() + 1)))
        noise = categories(driver.size, side, rng)
        return {"first_half": (item, driver // side), "second_half": (item, driver % side), "noise": (item, noise)}
    share = 0.01 if kind == "copies" else 0.05
    return {f"copy_{i}": (item, near_copy(driver, share, rng)) for i in range(3)}


def one_study(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """A study with relations of which the truth is known, as a row."""
    path = given.study or ROOT / "studies" / STUDIES[given.data]
    config = read_study(path)
    seeds = tuple(range(seed * 10, seed * 10 + given.splits * given.starts))
    study = config.study.model_copy(
        update={
            "seeds": seeds[: given.splits],
            "attribute": None,
            "user_groups": (),
            "item_groups": (),
            "versus": None,
            "ks": (10,),
        }
    )
    data = config.data
    if data.dataset == "planted":
        data = data.model_copy(update={"planted": replace(data.planted or PlantedConfig(), seed=seed)})
    model = ModelSection(name=given.model, **SETTINGS.get(given.model, {}))
    config = config.model_copy(update={"study": study, "data": data, "features": {}, "models": (model,)})
    real = [name for name, r in config.relations.items() if getattr(r, "node", None) != "user"]
    material = prepare(config, path.parent)
    if given.starts > 1:  # a bench's seed is that of its models' start, too
        again = tuple(replace(material.split_contexts[0], seed=seed) for seed in seeds)
        material = replace(material, split_contexts=again)
        config = config.model_copy(update={"study": study.model_copy(update={"seeds": seeds})})
    real = [
        name
        for name in real
        if material.split_contexts[0].graph.relation(name).source == material.split_contexts[0].graph.item
    ]
    if given.data == "planted":
        real = ["driver"]

    def made(graph: Graph) -> dict[str, tuple[str, Any]]:
        if given.kind == "placebos":
            return placebos(graph, real, seed)
        return known_truth(given.kind, driver_of(graph), graph.item, seed)

    material, config = with_relations(material, config, made)
    began = time.perf_counter()
    name = f"{given.data}-{given.kind}-{seed}-{given.splits}-{given.starts}-{given.model}"
    with nullcontext(given.folder / "kept" / name) if given.keep else tempfile.TemporaryDirectory() as folder:
        result = run_study(config, material, Path(folder))
    seconds = time.perf_counter() - began
    board = {r["arm"]: r["valid"] for r in result.leaderboard.iter_rows(named=True)}
    below = [arm for arm, valid in board.items() if "rewired" not in arm and valid > board["all"] + 1e-6]
    effects = {(e["kind"], e["relation"]): e for e in result.effects.iter_rows(named=True)}
    rows = []
    for row in result.verdicts.iter_rows(named=True):
        name = row["relation"]
        held, drop = effects.get(("held", name), effects["drop", name]), effects["drop", name]
        rows.append(
            {
                "relation": name, "verdict": row["verdict"], "p": row["p"],
                "interchangeable_with": row["interchangeable_with"],
                "unused": row["unused"], "detectable_effect": row["detectable_effect"], "margin": row["margin"],
                **{f"held_{key}": held[key] for key in ("mean", "standard_error")},
                **{f"drop_{key}": drop[key] for key in ("mean", "standard_error")},
            }
        )  # fmt: skip
    plan = result.card["plan"]
    return {
        "data": given.data, "kind": given.kind, "seed": seed, "splits": given.splits, "starts": given.starts,
        "model": given.model,
        "relations": rows, "arms_above_all": below, "arms": len(board), "seconds": round(seconds, 1),
        "build": [s["relation"] for s in plan["steps"][: plan["build"]]] if plan else None,
    }  # fmt: skip


def rows_of(lines: list[str]) -> list[dict[str, Any]]:
    """Studies that were made, of one start each where a line names none."""
    return [{"starts": 1, **json.loads(line)} for line in lines]


def run(given: argparse.Namespace) -> None:
    given.folder.mkdir(parents=True, exist_ok=True)
    file, began = given.folder / "studies.jsonl", time.perf_counter()
    lines = file.read_text().splitlines() if file.is_file() else []
    there = {tuple(row[k] for k in ("data", "kind", "seed", "splits", "starts", "model")) for row in rows_of(lines)}
    for seed in range(given.first, given.first + given.studies):
        if (given.data, given.kind, seed, given.splits, given.starts, given.model) in there:
            continue
        if time.perf_counter() - began > 60 * given.minutes:
            print("time is up; the rest is made by the next call")
            break
        row = one_study(given, seed)
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")
        print(row["data"], row["kind"], seed, {r["relation"]: r["verdict"] for r in row["relations"]}, row["build"],
              f"{row['seconds']} s", flush=True)  # fmt: skip


def binomial(k: int, n: int) -> str:
    """A rate with its 95 % interval."""
    low = betaincinv(k, n - k + 1, 0.025) if k else 0.0
    high = betaincinv(k + 1, n - k, 0.975) if k < n else 1.0
    return f"{k} of {n}, {k / n:.1%} ({low:.1%} to {high:.1%})" if n else "none"


def spread(z: list[list[float]]) -> str:
    """Standard deviation with its 95 % interval; whole studies are resampled, whose effects share an arm."""
    rng, some = np.random.default_rng(0), [np.array(one) for one in z if one]
    drawn = [np.concatenate([some[i] for i in rng.integers(0, len(some), len(some))]).std() for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{np.concatenate(some).std():.2f} ({low:.2f} to {high:.2f})"


def tables(given: argparse.Namespace) -> None:
    """Coverage and power, with the per-user differences of a finished study as the population."""
    from relrank.study.result import StudyResult

    result = StudyResult.load(given.run)
    metric = result.card["metric"]
    by_arm: dict[str, dict[int, pl.DataFrame]] = {}
    lead = result.card["model_strength"][0]["model"]
    for cell in sorted((given.run / "cells").glob("*/cell.json")):
        note = json.loads(cell.read_text())
        if note["model"] == lead:
            table = pl.read_parquet(cell.parent / "users.parquet").select("user", metric)
            by_arm.setdefault(note["arm"], {})[note["seed"]] = table
    rng, rows = np.random.default_rng(given.seed), []
    for effect in result.effects.filter((pl.col("model") == lead) & (pl.col("kind") == "alone")).iter_rows(
        named=True
    ):
        a, b = by_arm[effect["arm_a"]], by_arm[effect["arm_b"]]
        pool = np.concatenate([(a[s].join(b[s], on="user")).select(pl.col(metric) - pl.col(f"{metric}_right"))
                               .to_numpy().ravel() for s in a])  # fmt: skip
        if not pool.any():
            continue
        for users in (100, 1000):
            for splits in (1, 3, 5):
                for apart in (0.0, 1.0, 3.0) if splits > 1 else (0.0,):
                    rows.append(_of_population(pool, users, splits, apart, given.samples, rng, effect["relation"]))
                    print(rows[-1], flush=True)
    (given.folder / "population.json").write_text(json.dumps(rows, indent=1))


def _of_population(
    pool: np.ndarray, users: int, splits: int, apart: float, samples: int, rng: np.random.Generator, name: str
) -> dict[str, Any]:
    """Coverage of intervals and power at the visible effect, users drawn from a pool of differences."""
    truth, error = pool.mean(), pool.std() / np.sqrt(users * splits)

    def draw(mean: float) -> np.ndarray:
        values = pool[rng.integers(pool.size, size=(users, splits))] - truth + mean
        drawn: np.ndarray = values + apart * error * rng.normal(size=(1, splits)) * np.sqrt(splits)
        return drawn

    found = [effect_from_differences(draw(truth)) for _ in range(samples)]
    covered = sum(bool(e.low <= truth <= e.high) for e in found)

    def evidence(mean: float) -> Evidence:
        e = effect_from_differences(draw(mean))
        return Evidence(e, e, e)

    others = {f"other {i}": Evidence(*(effect_from_differences(draw(0.0)),) * 3) for i in range(4)}
    detectable_effect = float(
        np.mean([decide_verdicts({"it": evidence(0.0), **others}, 1e-9)["it"].detectable_effect for _ in range(20)])
    )
    claimed = sum(
        decide_verdicts({"it": evidence(detectable_effect), **others}, 1e-9)["it"].verdict == "helps"
        for _ in range(samples)
    )
    return {
        "relation": name, "users": users, "splits": splits, "apart": apart, "samples": samples, "covered": covered,
        "claimed": claimed, "detectable_effect": detectable_effect,
    }  # fmt: skip


RESAMPLES = 2_000
FRESH = 1200
"""Users of a sample of the population."""
FRESH_WEIGHTS = (0.5, 2.0)
"""Of each planted relation beside the interactions: with the second, worthless ones cost something."""


def fresh(given: argparse.Namespace) -> None:
    """Differences of every user of every sample, float32 [relations × weights, users, splits], a file per sample."""
    folder, began = given.folder / "fresh", time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    config = read_study(ROOT / "studies" / "planted.toml")
    config = config.model_copy(
        update={"study": config.study.model_copy(update={"seeds": tuple(range(5)), "attribute": None})}
    )
    whole = planted(PlantedConfig(users=FRESH * given.samples, seed=given.seed))
    for number in range(given.samples):
        if (folder / f"{number}.npy").is_file():
            continue
        if time.perf_counter() - began > 60 * given.minutes:
            print("time is up; the rest is made by the next call")
            break
        here = pl.col("user").is_between(number * FRESH, (number + 1) * FRESH - 1)
        tables = replace(whole, interactions=whole.interactions.filter(here))
        differences = np.stack([_differences(config, tables, seed) for seed in config.study.seeds], 2)
        np.save(folder / f"{number}.npy", differences.astype(np.float32))
        print(number, differences.mean((1, 2)).round(4), flush=True)


def _differences(config: StudyConfig, tables: Tables, seed: int) -> np.ndarray:
    """What each relation at each weight adds to the interactions for every user: [relations × weights, users]."""
    split = make_split(tables, config.protocol, seed)
    graph = build_graph(tables, split, config.relations, config.features, config.interactions)

    def ndcg(*names: str, weight: float = 0.0) -> np.ndarray:
        settings = SparseEASEConfig(neighbours=50, l2=5.0, weights=dict.fromkeys(names, weight))
        return user_metric(SparseEASE(graph.only(*names), settings).solve(), split, "ndcg@10", "test")

    base = ndcg()
    return np.stack([ndcg(name, weight=weight) - base for name in config.relations for weight in FRESH_WEIGHTS])


STARTS, ARMS, USERS = 3, 12, 400


def starts(given: argparse.Namespace) -> None:
    """Effects of zero, with what their own starts say of starts and with what all arms of a model say."""
    rng = np.random.default_rng(given.seed)
    base = rng.normal(size=USERS)
    base = np.sqrt(USERS) * (base - base.mean()) / base.std(ddof=1)  # the variance of their mean is 1
    for apart, shaken in product((0.0, 1.0, 4.0), (0.0, 1.0, 3.0)):
        found: dict[str, list[Effect]] = {"own starts": [], "all arms": []}
        for _ in range(given.effects):
            of_starts = rng.normal(size=(1, STARTS)) * np.sqrt(STARTS * apart)
            rest = rng.normal(size=(USERS, STARTS)) * np.sqrt(shaken * USERS * STARTS)
            values = base[:, None] + rng.normal() + of_starts + rest
            freedom = (ARMS - 1.0) * (STARTS - 1)
            known = RestartVariance(float((apart + shaken) * rng.chisquare(freedom) / freedom), freedom)
            found["own starts"].append(effect_from_differences(values))
            found["all arms"].append(effect_from_differences(values, starts=known))
        for who, effects in found.items():
            p = np.array([e.p for e in effects])
            z = np.std([e.mean / e.standard_error for e in effects])
            rates = ", ".join(f"p < {level:g}: {np.mean(p < level):.2%}" for level in (0.05, 0.01, 0.001))
            print(f"starts {apart:g}, users x starts {shaken:g}, {who}: SD of z {z:.2f}, {rates}", flush=True)


def few(given: argparse.Namespace) -> None:
    """Coverage of 95 % intervals where few users differ, by something between shift/2 − .5 and shift/2 + .5."""
    rng = np.random.default_rng(given.seed)
    for differ, shift in product((0.5, 1.0, 2.0, 4.0, 8.0), (0.0, 0.5, 1.0)):
        truth, covered, n = differ / USERS * shift / 2, 0, 0
        for _ in range(given.effects):
            values = np.where(rng.random(USERS) < differ / USERS, (2 * rng.random(USERS) - 1 + shift) / 2, 0.0)
            if values.any():
                effect = effect_from_differences(values[:, None])
                covered, n = covered + int(effect.low <= truth <= effect.high), n + 1
        print(f"{differ:g} of {USERS} users differ, shift {shift:g}: covered {binomial(covered, n)}", flush=True)


GROUPS = 4
"""Groups of users of a sample, no user in two of them, whose intervals are counted."""


def fresh_coverage(folder: Path, users: int, splits: int) -> tuple[int, int]:
    """How many intervals hold the mean over all other samples, and of how many; one per effect and group of users."""
    samples = np.stack([np.load(file) for file in sorted(folder.glob("*.npy"))])
    means = samples.mean((2, 3))
    covered, groups = 0, max(1, min(GROUPS, samples.shape[2] // users))
    for number, sample in enumerate(samples):
        truth = np.delete(means, number, 0).mean(0)
        for group in range(groups):
            some = sample[:, group * users : (group + 1) * users, :splits].astype(np.float64)
            found = [effect_from_differences(rows) for rows in some]
            covered += sum(bool(e.low <= true <= e.high) for e, true in zip(found, truth, strict=True))
    return covered, means.size * groups


def _place(study: dict[str, Any]) -> str:
    """Data, splits, starts and model of a study, for tables."""
    splits, starts = study["splits"], study["starts"]
    of_starts = f" and {starts} starts" if starts > 1 else ""
    return f"{study['data']}, {splits} split{'s' * (splits > 1)}{of_starts}, {study['model']}"


def report(given: argparse.Namespace) -> None:
    studies = rows_of((given.folder / "studies.jsonl").read_text().splitlines())
    lines = ["| | measured | wanted |", "|---|---|---|"]

    def add(what: str, k: int, n: int, wanted: str) -> None:
        lines.append(f"| {what} | {binomial(k, n)} | {wanted} |")

    worthless = [s for s in studies if s["kind"] == "placebos"]
    named: dict[str, list[dict[str, Any]]] = {"all": worthless}
    for study in sorted(worthless, key=_place):
        named.setdefault(_place(study), []).append(study)
    for label, some in named.items():
        rows = [r for s in some for r in s["relations"]]
        add(f"worthless relations that help, {label}", sum(r["verdict"] == "helps" for r in rows), len(rows), "≤ 1 %")
        add(f"studies with any false verdict, {label}",
            sum(any(r["verdict"] in CLAIMS for r in s["relations"]) for s in some), len(some), "≤ 5 %")  # fmt: skip
        add(
            f"studies whose plan builds a worthless relation, {label}",
            sum(bool(s["build"]) for s in some),
            len(some),
            "≤ 5 %",
        )
        add(f"shown to be negligible, {label}", sum(r["verdict"] == "negligible" for r in rows), len(rows), "–")
    for model in sorted({s["model"] for s in studies}):
        of_model = [s for s in worthless if s["model"] == model]
        for kind, place in product(("held", "drop"), sorted({(s["splits"] > 1, s["starts"]) for s in of_model})):
            z = [
                [
                    r[f"{kind}_mean"] / r[f"{kind}_standard_error"]
                    for r in s["relations"]
                    if r[f"{kind}_standard_error"]
                ]
                for s in of_model
                if (s["splits"] > 1, s["starts"]) == place
            ]
            if any(z):
                several = "several splits" if place[0] else f"one split, {place[1]} start{'s' * (place[1] > 1)}"
                what = f"SD of z of worthless effects that are not 0, {kind}, {model}, {several} ({sum(map(len, z))})"
                lines.append(f"| {what} | {spread(z)} | .9–1.1 |")
        some = [s for s in studies if s["model"] == model]
        add(f'arms that validate above "all", {model}', sum(len(s["arms_above_all"]) for s in some),
            sum(s["arms"] for s in some), "0")  # fmt: skip
    halves = [r for s in studies if s["kind"] == "independent" for r in s["relations"] if "half" in r["relation"]]
    add("independent relations called interchangeable", sum(r["verdict"] == "interchangeable" for r in halves),
        len(halves), "≤ 5 %")  # fmt: skip
    add("independent relations that help", sum(r["verdict"] == "helps" for r in halves), len(halves), "–")
    for kind, what in (("copies", "one value in 100 another"), ("loose-copies", "one in 20")):
        copies = [s for s in studies if s["kind"] == kind]
        grouped = sum(sum(r["verdict"] == "interchangeable" for r in s["relations"]) >= 2 for s in copies)
        one = sum(len(s["build"] or []) == 1 for s in copies)
        add(f"studies whose near copies are grouped, {what}", grouped, len(copies), "≥ 90 %")
        add(f"studies whose plan builds one of the copies, {what}", one, len(copies), "–")
    population = given.folder / "population.json"
    if population.is_file():
        rows = json.loads(population.read_text())
        for users in (100, 1000):
            for splits in (1, 3, 5):
                here = [r for r in rows if (r["users"], r["splits"]) == (users, splits)]
                n = sum(r["samples"] for r in here)
                what = f"{users:,} users, {splits} split{'s' * (splits > 1)}"
                add(f"coverage, {what}", sum(r["covered"] for r in here), n, "93–97 %")
                add(f"power at the visible effect, {what}", sum(r["claimed"] for r in here), n, "73–87 %")
    if (given.folder / "fresh").is_dir():
        for users in (100, 1000):
            for splits in (1, 3, 5):
                what = f"coverage, fresh population, {users:,} users, {splits} split{'s' * (splits > 1)}"
                add(what, *fresh_coverage(given.folder / "fresh", users, splits), "93–97 %")
    text = "\n".join(lines)
    print(text)
    if given.write:
        seconds = sum(s["seconds"] for s in studies)
        given.write.write_text(
            "# Calibration\n\nDo verdicts keep what they promise? Relations of which the truth is known, in studies "
            f"like anybody's.\n\n{text}\n\n{len(studies)} studies, {seconds / 3600:.1f} hours of wall time, "
            f"{time.strftime('%Y-%m-%d')}. Machine: {machine()}.\n\n```\n{__doc__.strip()}\n```\n"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    make = commands.add_parser("run")
    make.add_argument("folder", type=Path)
    make.add_argument("--data", choices=STUDIES, default="planted")
    make.add_argument("--study", type=Path, help="a study file with the data elsewhere")
    make.add_argument("--kind", choices=("placebos", "independent", "copies", "loose-copies"), default="placebos")
    make.add_argument("--model", default="sparse-ease")
    for name, default in (("first", 0), ("studies", 30), ("splits", 1), ("starts", 1), ("minutes", 30)):
        make.add_argument(f"--{name}", type=int, default=default)
    make.add_argument("--keep", action="store_true", help="keep the folders of the studies")
    make.set_defaults(do=run)
    pool = commands.add_parser("tables")
    pool.add_argument("folder", type=Path)
    pool.add_argument("run", type=Path)
    pool.add_argument("--samples", type=int, default=400)
    pool.add_argument("--seed", type=int, default=0)
    pool.set_defaults(do=tables)
    population = commands.add_parser("fresh")
    population.add_argument("folder", type=Path)
    for name, default in (("samples", 200), ("seed", 0), ("minutes", 30)):
        population.add_argument(f"--{name}", type=int, default=default)
    population.set_defaults(do=fresh)
    for simulation, effects in ((starts, 4000), (few, 1500)):
        drawn = commands.add_parser(simulation.__name__)
        for name, default in (("effects", effects), ("seed", 0)):
            drawn.add_argument(f"--{name}", type=int, default=default)
        drawn.set_defaults(do=simulation)
    said = commands.add_parser("report")
    said.add_argument("folder", type=Path)
    said.add_argument("--write", type=Path)
    said.set_defaults(do=report)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()

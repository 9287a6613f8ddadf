"""Messy shops of ten files and more, whose truth is known: what a careful person would write for them.

One shop is drawn; dialects give its tables and columns other names, keys, notations and kinds of file. Traps: an
index column, an e-mail address, two dates of an order, order lines that name customers only through their order, a
price list, a column that is nearly constant, remarks, suppliers two hops away, numeric keys with another meaning, and
columns that are computed from the orders.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


START = datetime(2023, 1, 1)
MINUTES = 2 * 365 * 24 * 60
WORDS = words("""
soft warm light strong round flat deep wide narrow bright dark smooth rough modern classic simple rich fresh
dry cool cotton wool steel wood glass paper stone silk leather rubber for home garden kitchen office travel
sport winter summer children daily evening morning made with care by hand and easy to clean long lasting
design
""")
CATEGORIES = {
    "Home": {"Kitchen": ["Pots", "Knives", "Plates"], "Living": ["Lamps", "Rugs"], "Bath": ["Towels", "Mirrors"]},
    "Sport": {"Running": ["Shoes", "Shirts"], "Cycling": ["Helmets", "Lights", "Locks"]},
    "Garden": {"Tools": ["Spades", "Shears"], "Plants": ["Seeds", "Pots and soil"]},
}


@dataclass(frozen=True, slots=True)
class Truth:
    """What a careful person would write.

    Attributes:
        interactions: table, user, item and time.
        relations: origins: ``table.column`` of values or keys, ``table`` of links and texts, ``text:table``.
        keys: ``(table.column, table.key)`` of every join that is right.
        leaks: what has to be named as a leak.
    """

    interactions: tuple[str, str, str, str]
    relations: frozenset[str]
    keys: frozenset[tuple[str, str]]
    leaks: frozenset[str]


@dataclass(slots=True)
class Shop:
    """Tables by name, and the truth in their names."""

    tables: dict[str, pl.DataFrame]
    truth: Truth
    options: dict[str, object] = field(default_factory=dict)


def plain_shop(customers: int = 900, products: int = 500, seed: int = 0) -> Shop:
    """The shop with English names in lower case."""
    rng = np.random.default_rng(seed)
    tables = {**_catalogue(rng, products), **_people(rng, customers)}
    tables |= _behaviour(rng, customers, products)
    _leaks(tables)
    truth = Truth(
        ("order_lines", "customer_id", "product_id", "ordered_at"),
        frozenset(words("""
products.brand_id products.category products.colour products.material products.price products.weight
products.features text:products brands.country brands.supplier_id suppliers.region customers.gender
customers.age customers.city_id cities.state views reviews product_tags similar_products
""")),
        frozenset(
            {
                ("products.brand_id", "brands.brand_id"), ("brands.supplier_id", "suppliers.supplier_id"),
                ("customers.city_id", "cities.city_id"), ("order_lines.order_id", "orders.order_id"),
                ("orders.customer_id", "customers.customer_id"), ("order_lines.product_id", "products.product_id"),
                ("views.customer_id", "customers.customer_id"), ("views.product_id", "products.product_id"),
                ("reviews.product_id", "products.product_id"), ("reviews.customer_id", "customers.customer_id"),
                ("product_tags.product_id", "products.product_id"), ("product_tags.tag_id", "tags.tag_id"),
                ("similar_products.product_id", "products.product_id"),
                ("similar_products.other_product_id", "products.product_id"),
            }
        ),
        frozenset(words("""
products.average_rating products.times_sold products.last_sold_at customers.number_of_orders wishlist
""")),
    )  # fmt: skip
    return Shop(tables, truth)


def _catalogue(rng: np.random.Generator, n: int) -> dict[str, pl.DataFrame]:
    brands, suppliers, tags = 40, 25, 30
    paths = [f"{a} > {b} > {c}" for a, below in CATEGORIES.items() for b, last in below.items() for c in last]
    colours = ["red", "green", "blue", "black", "white"]
    features = ["waterproof", "recycled", "foldable", "wireless", "washable", "handmade"]
    start = [START - timedelta(days=int(d)) for d in rng.integers(30, 90, n)]
    products = pl.DataFrame(
        {
            "Unnamed: 0": range(n),
            "product_id": [f"P{i:05}" for i in range(n)],
            "name": [f"{WORDS[rng.integers(30)].title()} {WORDS[rng.integers(30)]} {i}" for i in range(n)],
            "description": [" ".join(rng.choice(WORDS, rng.integers(12, 40))) for _ in range(n)],
            "brand_id": rng.integers(1, brands + 1, n),
            "category": rng.choice(paths, n),
            "colour": [c.upper() if rng.random() < 0.2 else c for c in rng.choice(colours, n)],
            "material": [None if rng.random() < 0.1 else m for m in rng.choice(["wood", "steel", "cotton"], n)],
            "features": ["|".join(rng.choice(features, rng.integers(1, 4), replace=False)) for _ in range(n)],
            "price": np.round(rng.lognormal(3, 1, n), 2),
            "weight": np.round(rng.lognormal(0, 1, n), 3),
            "warehouse_id": rng.integers(1, 6, n),
            "status": ["active"] * (n - 2) + ["retired"] * 2,
            "created_at": [s.isoformat() for s in start],
            "remarks": [" ".join(rng.choice(WORDS, 8)) if rng.random() < 0.1 else None for _ in range(n)],
            "image_url": [f"https://shop.example/{i}.jpg" for i in range(n)],
        }
    )
    linked = [(p, int(t)) for p in range(n) for t in rng.choice(tags, rng.integers(1, 4), replace=False)]
    alike = [(p, int(q)) for p in range(n) for q in rng.choice(n, 2, replace=False) if p != q]
    return {
        "products": products,
        "brands": pl.DataFrame(
            {
                "brand_id": range(1, brands + 1),
                "brand_name": [f"Brand {i}" for i in range(brands)],
                "country": rng.choice(["DE", "FR", "IT", "SE"], brands),
                "supplier_id": [f"S{i:03}" for i in rng.integers(0, suppliers, brands)],
            }
        ),
        "suppliers": pl.DataFrame(
            {
                "supplier_id": [f"S{i:03}" for i in range(suppliers)],
                "supplier_name": [f"Supplier {i}" for i in range(suppliers)],
                "region": rng.choice(["North", "South", "East"], suppliers),
            }
        ),
        "tags": pl.DataFrame({"tag_id": range(100, 100 + tags), "tag": [f"tag {i}" for i in range(tags)]}),
        "product_tags": pl.DataFrame(
            {"product_id": [f"P{p:05}" for p, _ in linked], "tag_id": [100 + t for _, t in linked]}
        ),
        "similar_products": pl.DataFrame(
            {"product_id": [f"P{p:05}" for p, _ in alike], "other_product_id": [f"P{q:05}" for _, q in alike]}
        ),
        "price_list": pl.DataFrame(
            {
                "product_id": [f"P{p:05}" for p in range(n) for _ in range(2)],
                "valid_from": ["2023-01-01", "2024-01-01"] * n,
                "list_price": np.round(rng.lognormal(3, 1, 2 * n), 2),
            }
        ),
    }


def _people(rng: np.random.Generator, n: int) -> dict[str, pl.DataFrame]:
    cities = 60
    customers = pl.DataFrame(
        {
            "customer_id": [f"C-{i}" for i in range(1, n + 1)],
            "email": [f"person{i}@mail.example" for i in range(n)],
            "gender": [None if rng.random() < 0.1 else g for g in rng.choice(["f", "m"], n)],
            "age": rng.integers(18, 80, n),
            "city_id": rng.integers(1, cities + 1, n),
            "signup_date": [(START - timedelta(days=int(d))).date().isoformat() for d in rng.integers(1, 900, n)],
        }
    )
    states = rng.choice(["Bavaria", "Hesse", "Saxony", "Berlin"], cities)
    table = pl.DataFrame({"city_id": range(1, cities + 1), "city": [f"City {i}" for i in range(cities)]})
    return {"customers": customers, "cities": table.with_columns(state=pl.Series(states))}


def _behaviour(rng: np.random.Generator, customers: int, products: int) -> dict[str, pl.DataFrame]:
    """Orders of one to three products each, and what surrounds them."""
    weight = 1 / np.arange(1, products + 1) ** 0.5
    chance = rng.permutation(weight / weight.sum())
    orders: list[tuple[int, str, datetime, datetime]] = []
    lines: list[tuple[int, str, int]] = []
    for customer in range(1, customers + 1):
        for moment in sorted(rng.integers(0, MINUTES, rng.integers(3, 9))):
            order = len(orders) + 10_001
            at = START + timedelta(minutes=int(moment))
            orders.append((order, f"C-{customer}", at, at + timedelta(days=int(rng.integers(1, 9)))))
            bought = rng.choice(products, rng.integers(1, 4), replace=False, p=chance)
            lines += [(order, f"P{p:05}", int(rng.integers(1, 4))) for p in bought]
    seen = [
        (f"C-{rng.integers(1, customers + 1)}", f"P{p:05}", START + timedelta(minutes=int(t)))
        for p, t in zip(rng.choice(products, 6000, p=chance), rng.integers(0, MINUTES, 6000), strict=True)
    ]
    said = [lines[i] for i in rng.choice(len(lines), 1200, replace=False)]
    of = {order: (customer, at) for order, customer, at, _ in orders}
    wished = [(f"C-{rng.integers(1, customers + 1)}", f"P{p:05}") for p in rng.choice(products, 1500, p=chance)]
    return {
        "orders": pl.DataFrame(
            {
                "order_id": [o[0] for o in orders],
                "customer_id": [o[1] for o in orders],
                "shipped_at": [o[3].isoformat() for o in orders],
                "ordered_at": [o[2].isoformat() for o in orders],
                "payment": rng.choice(["card", "invoice"], len(orders)),
            }
        ),
        "order_lines": pl.DataFrame(
            {
                "line_no": range(1, len(lines) + 1),
                "order_id": [line[0] for line in lines],
                "product_id": [line[1] for line in lines],
                "quantity": [line[2] for line in lines],
                "unit_price": np.round(rng.lognormal(3, 1, len(lines)), 2),
            }
        ),
        "views": pl.DataFrame(
            {
                "customer_id": [s[0] for s in seen],
                "product_id": [s[1] for s in seen],
                "viewed_at": [s[2].isoformat() for s in seen],
            }
        ),
        "reviews": pl.DataFrame(
            {
                "review_id": range(1, len(said) + 1),
                "product_id": [s[1] for s in said],
                "customer_id": [of[s[0]][0] for s in said],
                "stars": rng.integers(1, 6, len(said)),
                "review_text": [" ".join(rng.choice(WORDS, rng.integers(8, 30))) for _ in said],
                "written_at": [(of[s[0]][1] + timedelta(days=20)).isoformat() for s in said],
            }
        ),
        "wishlist": pl.DataFrame({"customer_id": [w[0] for w in wished], "product_id": [w[1] for w in wished]}),
    }


def _leaks(tables: dict[str, pl.DataFrame]) -> None:
    """Columns that are computed from all orders and reviews."""
    rows = tables["order_lines"].join(tables["orders"], on="order_id")
    by_product = rows.group_by("product_id").agg(times_sold=pl.len(), last_sold_at=pl.col("ordered_at").max())
    stars = tables["reviews"].group_by("product_id").agg(average_rating=pl.col("stars").mean().round(2))
    by_customer = tables["orders"].group_by("customer_id").agg(number_of_orders=pl.len())
    products = tables["products"].join(by_product, on="product_id", how="left", maintain_order="left")
    tables["products"] = products.join(stars, on="product_id", how="left", maintain_order="left")
    tables["customers"] = tables["customers"].join(by_customer, on="customer_id", how="left", maintain_order="left")


GERMAN = {
    "order_lines": "Bestellpositionen", "orders": "Bestellungen", "customers": "Kunden", "products": "Artikel",
    "brands": "Marken", "suppliers": "Lieferanten", "tags": "Schlagworte", "product_tags": "ArtikelSchlagworte",
    "similar_products": "AehnlicheArtikel", "price_list": "Preisliste", "cities": "Orte", "views": "Seitenaufrufe",
    "reviews": "Rezensionen", "wishlist": "Merkzettel",
    "customer_id": "KundenNr", "product_id": "ArtikelNr", "order_id": "BestellNr", "line_no": "Pos", "brand_id":
    "MarkeNr", "supplier_id": "LieferantNr", "tag_id": "SchlagwortNr", "city_id": "OrtNr", "other_product_id":
    "AehnlicheArtikelNr", "name": "Bezeichnung", "description": "Beschreibung", "category": "Warengruppe", "colour":
    "Farbe", "material": "Material", "features": "Merkmale", "price": "Preis", "weight": "Gewicht", "warehouse_id":
    "LagerNr", "status": "Status", "created_at": "AngelegtAm", "remarks": "Bemerkung", "image_url": "BildUrl",
    "brand_name": "Markenname", "country": "Land", "supplier_name": "Firma", "region": "Region", "tag": "Schlagwort",
    "valid_from": "GueltigAb", "list_price": "Listenpreis", "email": "EMail", "gender": "Geschlecht", "age": "Alter",
    "signup_date": "RegistriertAm", "city": "Ort", "state": "Bundesland", "shipped_at": "VersandtAm", "ordered_at":
    "BestelltAm", "payment": "Zahlungsart", "quantity": "Menge", "unit_price": "Einzelpreis", "viewed_at":
    "AufgerufenAm", "review_id": "RezensionNr", "stars": "Sterne", "review_text": "Rezensionstext", "written_at":
    "VerfasstAm", "times_sold": "AnzahlVerkaeufe", "last_sold_at": "LetzterVerkauf", "average_rating":
    "DurchschnittBewertung", "number_of_orders": "AnzahlBestellungen",
}  # fmt: skip


def renamed(shop: Shop, names: dict[str, str]) -> Shop:
    """The shop under other names."""

    def new(path: str) -> str:
        if path.startswith("text:"):
            return f"text:{new(path[5:])}"
        return ".".join(names.get(part, part) for part in path.split("."))

    tables = {new(table): frame.rename({c: new(c) for c in frame.columns}) for table, frame in shop.tables.items()}
    old = shop.truth
    table, user, item, time = map(new, old.interactions)
    truth = Truth(
        (table, user, item, time),
        frozenset(map(new, old.relations)),
        frozenset((new(a), new(b)) for a, b in old.keys),
        frozenset(map(new, old.leaks)),
    )
    return Shop(tables, truth, shop.options)


def camel(name: str) -> str:
    """``order_lines`` as ``OrderLines``."""
    return "".join(part.title() for part in name.split("_")) if name.islower() else name


def english(folder: Path) -> Truth:
    """CSV files, English, lower case."""
    shop = plain_shop()
    for name, frame in shop.tables.items():
        frame.write_csv(folder / f"{name}.csv")
    return shop.truth


def german(folder: Path) -> Truth:
    """CSV files as a German spreadsheet writes them: semicolons, decimal commas, dates like 31.12.2024."""
    shop = renamed(plain_shop(seed=1), GERMAN)
    for name, frame in shop.tables.items():
        frame = frame.with_columns(
            pl.col(pl.Float64).map_elements(lambda x: f"{x:.2f}".replace(".", ","), return_dtype=pl.String)
        )
        dated = [c for c in frame.columns if frame[c].dtype == pl.String and c.endswith(("Am", "Ab", "Verkauf"))]
        shown = [
            pl.col(c).str.slice(0, 19).str.to_datetime(strict=False).dt.strftime("%d.%m.%Y %H:%M") for c in dated
        ]
        frame = frame.with_columns(shown)
        text = frame.write_csv(separator=";").replace("wood", "Büro")
        (folder / f"{name}.csv").write_bytes(text.encode("cp1252"))
    return shop.truth


def database(folder: Path) -> Truth:
    """CamelCase in a SQLite file, with JSON lists and times in milliseconds; products as Parquet parts."""
    shop = plain_shop(seed=2)
    lists = pl.col("features").str.split("|").map_elements(lambda x: json.dumps(list(x)), return_dtype=pl.String)
    shop.tables["products"] = shop.tables["products"].with_columns(lists)
    for table, column in (("orders", "ordered_at"), ("orders", "shipped_at"), ("views", "viewed_at")):
        millis = pl.col(column).str.to_datetime().dt.timestamp("ms")
        shop.tables[table] = shop.tables[table].with_columns(millis)
    everything = {c for frame in shop.tables.values() for c in frame.columns} | shop.tables.keys()
    shop = renamed(shop, {name: camel(name) for name in everything})
    products = shop.tables.pop("Products")
    (folder / "Products").mkdir()
    for part in range(3):
        products[part::3].write_parquet(folder / "Products" / f"part-{part}.parquet")
    with sqlite3.connect(folder / "shop.sqlite") as connection:
        for name, frame in shop.tables.items():
            columns = ", ".join(f'"{c}"' for c in frame.columns)
            connection.execute(f'create table "{name}" ({columns})')
            marks = ", ".join("?" * frame.width)
            connection.executemany(f'insert into "{name}" values ({marks})', frame.rows())
    return shop.truth


def meaningless(folder: Path) -> Truth:
    """Tables t1, t2 … with columns c1, c2 …, TSV: values alone say what they are."""
    shop = plain_shop(seed=3)
    drop = {"products": ["average_rating"], "price_list": ["list_price"]}
    tables = {n: f.drop(drop.get(n, [])) for n, f in shop.tables.items() if n != "price_list"}
    columns = sorted({c for frame in tables.values() for c in frame.columns})
    names = {c: f"c{i}" for i, c in enumerate(columns, 1)} | {t: f"t{i}" for i, t in enumerate(sorted(tables), 1)}
    truth = shop.truth
    hidden = Truth(truth.interactions, truth.relations, truth.keys, truth.leaks - {"products.average_rating"})
    shop = renamed(Shop(tables, hidden), names)
    for name, frame in shop.tables.items():
        frame.write_csv(folder / f"{name}.tsv", separator="\t")
    return shop.truth


def films(folder: Path) -> Truth:
    """Ratings of films with times in seconds, genres as lists, people as a link table; keys are whole numbers."""
    rng = np.random.default_rng(4)
    users, n = 700, 400
    genres = ["Drama", "Comedy", "Action", "Horror", "Romance", "Thriller"]
    rows = [(u, int(f)) for u in range(1, users + 1) for f in rng.choice(n, rng.integers(8, 25), replace=False)]
    times = rng.integers(1_500_000_000, 1_600_000_000, len(rows))
    stars = rng.choice([1, 2, 3, 4, 5], len(rows), p=[0.05, 0.1, 0.25, 0.35, 0.25])
    pl.DataFrame(
        {"userId": [r[0] for r in rows], "movieId": [r[1] + 1 for r in rows], "rating": stars, "timestamp": times}
    ).write_csv(folder / "ratings.csv")
    pl.DataFrame(
        {
            "movieId": range(1, n + 1),
            "title": [f"The {WORDS[i % 30]} {WORDS[i % 17]} ({1950 + i % 70})" for i in range(n)],
            "genres": [", ".join(rng.choice(genres, rng.integers(1, 4), replace=False)) for _ in range(n)],
            "year": 1950 + np.arange(n) % 70,
            "language": rng.choice(["en", "fr", "EN"], n),
            "budget": ["" if rng.random() < 0.3 else str(int(x)) for x in rng.lognormal(15, 1, n)],
            "overview": [" ".join(rng.choice(WORDS, 25)) for _ in range(n)],
            "imdb_id": [f"tt{i:07}" for i in range(n)],
            "vote_average": rng.random(n).round(1),
            "vote_count": rng.integers(0, 900, n),
        }
    ).write_csv(folder / "movies.csv")
    people = 150
    cast = [(m, int(p)) for m in range(1, n + 1) for p in rng.choice(people, 4, replace=False)]
    pl.DataFrame({"movieId": [c[0] for c in cast], "personId": [7_000 + c[1] for c in cast]}).write_csv(
        folder / "cast.csv"
    )
    pl.DataFrame(
        {
            "personId": range(7_000, 7_000 + people),
            "person": [f"Person {i}" for i in range(people)],
            "birthplace": rng.choice(["Paris", "London", "Rome"], people),
        }
    ).write_csv(folder / "people.csv")
    pl.DataFrame(
        {
            "userId": range(1, users + 1),
            "gender": rng.choice(["F", "M"], users),
            "age": rng.integers(15, 80, users),
            "occupation": rng.choice(["student", "artist", "nurse", "?"], users),
            "zip": rng.integers(10_000, 99_999, users),
        }
    ).write_csv(folder / "users.csv")
    friends = [
        (u, int(v) + 1) for u in range(1, users + 1) for v in rng.choice(users, 3, replace=False) if u != v + 1
    ]
    pl.DataFrame({"userId": [f[0] for f in friends], "friendId": [f[1] for f in friends]}).write_csv(
        folder / "friends.csv"
    )
    return Truth(
        ("ratings", "userId", "movieId", "timestamp"),
        frozenset(words("""
movies.genres movies.year movies.language movies.budget text:movies cast people.birthplace users.gender
users.age users.occupation friends
""")),
        frozenset(
            {
                ("ratings.userId", "users.userId"), ("ratings.movieId", "movies.movieId"),
                ("cast.movieId", "movies.movieId"), ("cast.personId", "people.personId"),
                ("friends.userId", "users.userId"), ("friends.friendId", "users.userId"),
            }
        ),
        frozenset(["movies.vote_average", "movies.vote_count"]),
    )  # fmt: skip


def flat(folder: Path) -> Truth:
    """One row per purchase, keys in other notations than in the node tables, brands by name, anonymous views."""
    rng = np.random.default_rng(5)
    n, people = 450, 800
    skus = [f"SKU-{i:04}" for i in range(n)]
    bought = [(c, int(p)) for c in range(people) for p in rng.choice(n, rng.integers(5, 14), replace=False)]
    moments = rng.integers(0, MINUTES, len(bought))
    at = [START + timedelta(minutes=int(m)) for m in moments]
    _flat_events(folder, rng, bought, at, skus)
    rows = pl.DataFrame({"c": [b[0] for b in bought], "p": [b[1] for b in bought], "at": at})
    by_product = rows.group_by("p").agg(pl.len(), pl.col("at").max()).sort("p")
    by_person = rows.group_by("c").agg(pl.len(), pl.col("at").max()).sort("c")
    sold = dict(zip(by_product["p"], by_product["len"], strict=True))
    marks = [f"{a} {b}" for a in ("North", "Blue", "Old") for b in ("River", "Stone", "Oak", "Fox", "Mill")]
    pl.DataFrame(
        {
            "index": range(n),
            "sku": skus,
            "title": [f"{WORDS[i % 30]} {WORDS[i % 23]} {WORDS[i % 7]} No {i}" for i in range(n)],
            "brand": [m.upper() if rng.random() < 0.1 else m for m in rng.choice(marks, n)],
            "category_id": rng.integers(10, 40, n),
            "labels": ["; ".join(rng.choice(["new", "sale", "eco", "kids"], rng.integers(1, 3), replace=False))
                       for _ in range(n)],
            "price": [f"€ {x:.2f}" for x in rng.lognormal(3, 1, n)],
            "size": rng.choice(["S", "M", "L", "n/a"], n),
            "long_text": [" ".join(rng.choice(WORDS, 30)) for _ in range(n)],
            "vat_rate": [19] * n,
            "popularity": [sold.get(i, 0) + 3 for i in range(n)],
            "released": [f"{2005 + i % 18}-03-01" for i in range(n)],
        }
    ).write_csv(folder / "products.csv")  # fmt: skip
    pl.DataFrame(
        {
            "name": marks,
            "country": rng.choice(["DE", "FR", "IT"], len(marks)),
            "founded": rng.integers(1900, 2010, len(marks)),
        }
    ).write_csv(folder / "brands.csv")
    pl.DataFrame(
        {
            "id": range(10, 40),
            "name": [f"Category {i}" for i in range(30)],
            "parent_id": [None] * 6 + [10 + i % 6 for i in range(24)],
        }
    ).write_csv(folder / "categories.csv")
    pl.DataFrame(
        {
            "customer": [f"{c:06}" for c in range(people)],
            "mail": [f"p{c}@mail.example" for c in range(people)],
            "segment": rng.choice(["gold", "silver", "basic"], people),
            "newsletter": rng.choice(["yes", "no"], people),
            "birth_year": rng.integers(1940, 2005, people),
            "postcode": [f"{x:05}" for x in rng.integers(1000, 1060, people)],
            "last_purchase": by_person["at"].dt.strftime("%Y-%m-%d"),
            "lifetime_orders": by_person["len"],
        }
    ).write_csv(folder / "customers.csv")
    return Truth(
        ("purchases", "customer", "sku", "bought_at"),
        frozenset(words("""
            products.brand products.category_id products.labels products.price products.size text:products
            products.released brands.country brands.founded categories.parent_id customers.segment
            customers.newsletter customers.birth_year customers.postcode page_views cart_events product_suppliers
            suppliers.country
        """)),
        frozenset(
            {
                ("purchases.customer", "customers.customer"), ("purchases.sku", "products.sku"),
                ("products.brand", "brands.name"), ("products.category_id", "categories.id"),
                ("categories.parent_id", "categories.id"), ("page_views.visitor", "customers.customer"),
                ("page_views.product", "products.sku"), ("cart_events.customer", "customers.customer"),
                ("cart_events.sku", "products.sku"), ("product_suppliers.sku", "products.sku"),
                ("product_suppliers.supplier", "suppliers.code"), ("returns.sku", "products.sku"),
                ("returns.customer", "customers.customer"),
            }
        ),
        frozenset(words("products.popularity customers.last_purchase customers.lifetime_orders")),
    )  # fmt: skip


def _flat_events(
    folder: Path, rng: np.random.Generator, bought: list[tuple[int, int]], at: list[datetime], skus: list[str]
) -> None:
    """Purchases, views, carts, returns, suppliers and old prices."""
    people, n = max(b[0] for b in bought) + 1, len(skus)
    pl.DataFrame(
        {
            "purchase_id": range(5_000, 5_000 + len(bought)),
            "customer": [str(b[0]) for b in bought],
            "sku": [skus[b[1]].lower() if rng.random() < 0.3 else skus[b[1]] for b in bought],
            "qty": rng.integers(1, 4, len(bought)),
            "bought_at": [t.isoformat(sep=" ") for t in at],
            "delivered_on": [(t + timedelta(days=3)).date().isoformat() for t in at],
            "store": rng.integers(1, 9, len(bought)),
        }
    ).write_csv(folder / "purchases.csv")
    seconds = [int((START + timedelta(minutes=int(m)) - datetime(1970, 1, 1)).total_seconds())
               for m in rng.integers(0, MINUTES, 7000)]  # fmt: skip
    pl.DataFrame(
        {
            "session": [f"s{x}" for x in rng.integers(0, 4000, 7000)],
            "visitor": [None if rng.random() < 0.3 else f"{x:06}" for x in rng.integers(0, people, 7000)],
            "product": [skus[p] for p in rng.integers(0, n, 7000)],
            "ts": seconds,
        }
    ).write_csv(folder / "page_views.csv")
    pl.DataFrame(
        {
            "customer": [f"{x:06}" for x in rng.integers(0, people, 2500)],
            "sku": [skus[p] for p in rng.integers(0, n, 2500)],
            "added": [(START + timedelta(minutes=int(m))).isoformat() for m in rng.integers(0, MINUTES, 2500)],
        }
    ).write_csv(folder / "cart_events.csv")
    back = rng.choice(len(bought), 300, replace=False)
    pl.DataFrame(
        {
            "customer": [f"{bought[i][0]:06}" for i in back],
            "sku": [skus[bought[i][1]] for i in back],
            "returned_on": [(at[i] + timedelta(days=9)).date().isoformat() for i in back],
        }
    ).write_csv(folder / "returns.csv")
    supplied = [(s, f"V{x}") for s in skus for x in rng.choice(30, rng.integers(1, 3), replace=False)]
    pl.DataFrame({"sku": [s[0] for s in supplied], "supplier": [s[1] for s in supplied]}).write_csv(
        folder / "product_suppliers.csv"
    )
    pl.DataFrame(
        {"code": [f"V{x}" for x in range(30)], "country": rng.choice(["CN", "DE", "PL"], 30), "rank": range(30)}
    ).write_csv(folder / "suppliers.csv")
    pl.DataFrame(
        {"sku": skus * 2, "date": ["2022-01-01"] * n + ["2023-01-01"] * n, "old_price": rng.random(2 * n)}
    ).write_csv(folder / "price_history.csv")


def log(folder: Path) -> Truth:
    """One log of views, carts and purchases, whose rows repeat the attributes of their products."""
    rng = np.random.default_rng(6)
    n, people = 300, 600
    paths = [f"{a}.{b}".lower() for a, below in CATEGORIES.items() for b in below]
    category, brand = rng.choice(paths, n), rng.choice([f"brand {i}" for i in range(25)], n)
    prices = np.round(rng.lognormal(3, 1, n), 2)
    rows = []
    for visitor in range(people):
        for product in rng.choice(n, rng.integers(6, 12), replace=False):
            at = START + timedelta(minutes=int(rng.integers(0, MINUTES)))
            rows.append((at, "view", int(product), visitor))
            if rng.random() < 0.8:
                rows.append((at + timedelta(minutes=3), "cart", int(product), visitor))
                rows.append((at + timedelta(minutes=9), "purchase", int(product), visitor))
    pl.DataFrame(
        {
            "event_time": [f"{r[0]:%Y-%m-%d %H:%M:%S} UTC" for r in rows],
            "event_type": [r[1] for r in rows],
            "product_id": [1_000_000 + r[2] for r in rows],
            "category_code": [category[r[2]] for r in rows],
            "brand": [brand[r[2]] for r in rows],
            "price": prices[[r[2] for r in rows]],
            "user_id": [500_000_000 + r[3] for r in rows],
            "user_session": [f"{r[3]}-{i // 9}" for i, r in enumerate(rows)],
        }
    ).write_csv(folder / "events.csv")
    made, items = "events-purchase", "events-purchase-items"
    return Truth(
        (made, "user_id", "product_id", "event_time"),
        frozenset([*(f"{items}.{c}" for c in ("category_code", "brand", "price")), "events-view", "events-cart"]),
        frozenset(
            {
                (f"{made}.user_id", ""), (f"{made}.product_id", f"{items}.product_id"),
                ("events-view.user_id", ""), ("events-view.product_id", f"{items}.product_id"),
                ("events-cart.user_id", ""), ("events-cart.product_id", f"{items}.product_id"),
            }
        ),
        frozenset(),
    )  # fmt: skip


def articles(folder: Path) -> Truth:
    """Whole numbers as keys everywhere, dates like 31/12/2023, makers and families by name, stock by shop."""
    rng = np.random.default_rng(11)
    n, people = 480, 850
    days = rng.integers(0, 800, (people, 20))
    drawn = [rng.choice(n, rng.integers(4, 15), replace=False) + 1 for _ in range(people)]
    rows = [
        (c + 1, int(a), START + timedelta(days=int(d)))
        for c in range(people)
        for a, d in zip(drawn[c], days[c], strict=False)
    ]
    sold = dict(pl.Series([r[1] for r in rows]).value_counts().iter_rows())
    families, makers = [f"family {i}" for i in range(20)], [f"Maker {chr(65 + i)}" for i in range(26)]
    shades = ["red", "blue", "green", "grey"]
    tables: dict[str, dict[str, Any]] = {
        "sales": {
            "date": [r[2].strftime("%d/%m/%Y") for r in rows],
            "client_ref": [r[0] for r in rows],
            "article_ref": [r[1] for r in rows],
            "units": rng.integers(1, 5, len(rows)),
            "shop_ref": rng.integers(1, 9, len(rows)),
        },
        "articles": {
            "ref": range(1, n + 1),
            "label": [f"{' '.join(rng.choice(WORDS, 3))} {i}" for i in range(n)],
            "family": rng.choice(families, n),
            "maker": [m if rng.random() < 0.9 else m.lower() for m in rng.choice(makers, n)],
            "ean": rng.integers(4_000_000_000_000, 4_999_999_999_999, n),
            "retail": np.round(rng.lognormal(3, 1, n), 2),
            "launched": [f"{rng.integers(2005, 2022)}-0{rng.integers(1, 9)}-15" for _ in range(n)],
            "blurb": [" ".join(rng.choice(WORDS, 20)) for _ in range(n)],
            "units_sold_total": [sold.get(i, 0) for i in range(1, n + 1)],
            "active": ["Y"] * (n - 1) + ["N"],
            "colours": ["/".join(rng.choice(shades, rng.integers(1, 4), replace=False)) for _ in range(n)],
        },
        "clients": {
            "ref": range(1, people + 1),
            "mail": [f"x{i}@mail.example" for i in range(people)],
            "sex": rng.choice(["M", "F", "X"], people),
            "dob": [f"{rng.integers(1940, 2005)}-01-0{rng.integers(1, 9)}" for _ in range(people)],
            "town": rng.choice([f"Town {i}" for i in range(40)], people),
            "club_card": rng.choice([0, 1], people),
        },
        "shops": {"ref": range(1, 9), "town": [f"Town {i}" for i in range(8)], "lat": rng.random(8)},
        "makers": {"maker": makers, "nation": rng.choice(["DE", "IT", "PL"], 26)},
        "families": {"family": families, "department": rng.choice(["home", "garden", "food"], 20)},
        "stock": {
            "article_ref": np.repeat(np.arange(1, n + 1), 8),
            "shop_ref": np.tile(np.arange(1, 9), n),
            "on_hand": rng.integers(0, 50, n * 8),
        },
        "promotions": {
            "promo_id": range(300),
            "article_ref": rng.integers(1, n + 1, 300),
            "from": ["2023-01-01"] * 300,
            "percent": rng.integers(5, 50, 300),
        },
        "wishes": {"client_ref": rng.integers(1, people + 1, 900), "article_ref": rng.integers(1, n + 1, 900)},
        "browsing": {
            "client_ref": rng.integers(1, people + 1, 5000),
            "article_ref": rng.integers(1, n + 1, 5000),
            "ts": [1_672_531_200_000 + 86_400_000 * int(d) for d in rng.integers(0, 800, 5000)],
        },
    }
    for name, columns in tables.items():
        pl.DataFrame(columns).write_csv(folder / f"{name}.csv")
    return Truth(
        ("sales", "client_ref", "article_ref", "date"),
        frozenset(words("""
            articles.family articles.maker articles.retail articles.launched articles.colours text:articles
            families.department makers.nation clients.sex clients.dob clients.town clients.club_card browsing
        """)),
        frozenset(
            {
                ("sales.client_ref", "clients.ref"), ("sales.article_ref", "articles.ref"),
                ("browsing.client_ref", "clients.ref"), ("browsing.article_ref", "articles.ref"),
                ("articles.family", "families.family"), ("articles.maker", "makers.maker"),
            }
        ),
        frozenset(["articles.units_sold_total", "wishes"]),
    )  # fmt: skip


SHOPS: dict[str, Callable[[Path], Truth]] = {
    "english": english,
    "german": german,
    "database": database,
    "meaningless": meaningless,
    "films": films,
    "flat": flat,
    "log": log,
    "articles": articles,
}


def write_shop(name: str, folder: Path) -> Truth:
    """Write the files of a shop into an empty folder; returns its truth."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return SHOPS[name](folder)

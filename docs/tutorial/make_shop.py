"""Write the tables of a small shop into the folder shop/. The same tables every time; needs nothing but Python.

How customers choose is known: each has two favourite brands, and buys four of five products from them. A collection
mostly belongs to one brand. Colour and price have no bearing on taste.
"""

import csv
import random
import sys
from datetime import date, timedelta
from pathlib import Path

CUSTOMERS = int(sys.argv[1]) if len(sys.argv) > 1 else 1100
PRODUCTS, BRANDS, PURCHASES = 300, 20, 8
COLOURS = ["black", "blue", "green", "grey", "red", "white", "yellow"]
COUNTRIES = ["Denmark", "France", "Italy", "Japan", "Portugal", "Spain"]
KINDS = ["Shoes > Boots", "Shoes > Sandals", "Bags > Backpacks", "Bags > Totes", "Coats > Rain"]
WORDS = ["Alpine", "Canvas", "Cork", "Ember", "Fern", "Harbour", "Linen", "Maple"]
WORDS += ["Moss", "Pebble", "Ridge", "Slate", "Tide", "Umber", "Willow", "Wool"]
START = date(2024, 1, 1)

draw = random.Random(1)
shop = Path("shop")
shop.mkdir(exist_ok=True)


def write(name: str, *rows: object) -> None:
    """Write a CSV file; the first row has the names of its columns."""
    with (shop / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


brand_of = [n % BRANDS for n in range(PRODUCTS)]
products, descriptions = [], []
for n, brand in enumerate(brand_of):
    style = brand if draw.random() < 0.85 else draw.randrange(BRANDS)
    price = round(draw.lognormvariate(4, 0.5), 2)
    kind = KINDS[draw.randrange(len(KINDS))]
    words = draw.choices([WORDS[brand % 16], WORDS[(5 * brand + 3) % 16]], k=3) + draw.choices(WORDS, k=3)
    title = f"{words[0]} {kind.split(' > ')[1].lower()} {n}"
    products.append((f"SKU-{n}", title, f"Brand {brand}", f"Collection {style}", draw.choice(COLOURS), kind, price))
    descriptions.append((f"SKU-{n}", "description", " ".join(words).lower()))

popularity = [1 / (1 + draw.randrange(6)) for _ in range(PRODUCTS)]
popularity[-6:] = [0] * 6  # new products: nobody has bought them yet
purchases, views = [], []
for c in range(CUSTOMERS):
    favourites = draw.sample(range(BRANDS), 2)
    day, bought = START + timedelta(draw.randrange(90)), set()
    while len(bought) < PURCHASES:
        loyal = draw.random() < 0.8
        weights = [p * (not loyal or b in favourites) for p, b in zip(popularity, brand_of, strict=True)]
        n = draw.choices(range(PRODUCTS), weights)[0]
        if n in bought:
            weights = [p * (k not in bought) for k, p in enumerate(popularity)]
            n = draw.choices(range(PRODUCTS), weights)[0]
        bought.add(n)
        day += timedelta(1 + draw.randrange(20))
        purchases.append((f"C-{1000 + c}", f"SKU-{n}", day))
        seen = draw.choice([k for k in range(PRODUCTS) if brand_of[k] == brand_of[n]])
        views.append((f"C-{1000 + c}", f"SKU-{seen}", day - timedelta(1)))

write("purchases.csv", ("customer_id", "sku", "bought_at"), *purchases)
write("views.csv", ("customer_id", "sku", "viewed_at"), *dict.fromkeys(views))
write("products.csv", ("sku", "name", "brand", "collection", "colour", "category", "price"), *products)
write("descriptions.csv", ("sku", "kind", "text"), *descriptions)
write("brands.csv", ("brand", "country"), *((f"Brand {b}", COUNTRIES[b % 6]) for b in range(BRANDS)))
print(f"shop/: {CUSTOMERS:,} customers, {PRODUCTS} products, {len(purchases):,} purchases, {len(views):,} views")

"""A shop's study file up to its sales; a test goes on with the columns that its sales have."""

SHOP = """
name = "shop"
[data]
user = "customer"
item = "product"
[data.interactions]
file = "sales.csv"
user = "customer"
item = "product"
"""

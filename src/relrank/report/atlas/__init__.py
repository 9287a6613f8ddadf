"""The page of an atlas, in Markdown, and its pictures."""

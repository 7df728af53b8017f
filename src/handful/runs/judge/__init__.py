"""How a trained run does on given rows: scores in detail, the worst rows, and what its page shows of them."""

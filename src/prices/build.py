#!/usr/bin/env python3
"""Makes `table.tsv`, the price table that the gateway carries, from a list of price facts.

    python3 src/prices/build.py prices.jsonl > src/prices/table.tsv

What goes in: one JSON object per line with `provider`, `name`, `mode`, `context`, `max_output` and
prices as exact decimals: token prices in USD per million tokens. The facts of the committed table were
taken on 2026-11-20 from LiteLLM 1.109.1 (`model_prices_and_context_window.json`, MIT licence).

What comes out: one line per model, columns separated by tabs, sorted by kind and lower-case name:
kind, name, mode, context window, longest answer, price. A price is a list of `field=USD per million`
for the usual rate; then, after `;`, the rates that differ under a condition: `batch`, `priority`,
`flex`, `ultrafast` (the service tier) and `@N` (prompts of N tokens or more), e.g.

    in=2 out=12 read=0.2;batch in=1 out=6;@200001 in=4 out=18

What is left out, so that a price is never a silent zero:
- rows that are not models (sizes and qualities of images, commitments, size classes);
- the price, but not the model, of rows that price no input token, or whose token prices are all zero
  while something else (a query, a second, an image) costs money.
"""

import json
import re
import sys
from decimal import Decimal

KINDS = {
    "azure_ai": "azure",
    "bedrock_converse": "bedrock",
    "cohere_chat": "cohere",
    "fireworks_ai": "fireworks",
    "together_ai": "together",
}

FIELDS = {
    "input_cost_per_token": "in",
    "output_cost_per_token": "out",
    "cache_read_input_token_cost": "read",
    "cache_creation_input_token_cost": "write",
    "cache_creation_input_token_cost_above_1hr": "write1h",
    "output_cost_per_reasoning_token": "reason",
    "input_cost_per_audio_token": "audio_in",
    "output_cost_per_audio_token": "audio_out",
    "input_cost_per_image_token": "image_in",
    "output_cost_per_image_token": "image_out",
}
TIERS = {"batches": "batch", "priority": "priority", "flex": "flex", "ultrafast": "ultrafast"}
KEY = re.compile(
    r"^(?P<base>%s)(_above_(?P<above>\d+)k_tokens)?(_(?P<tier>%s))?$"
    % ("|".join(sorted(FIELDS, key=len, reverse=True)), "|".join(TIERS))
)
NOT_A_MODEL = re.compile(r"(^|/)(\d+|max)-x-(\d+|max)(/|$)|-month-commitment/|^fireworks-ai-|^together-ai-")
MODES = {
    "audio_speech", "audio_transcription", "chat", "completion", "embedding", "image_edit",
    "image_generation", "moderation", "ocr", "realtime", "rerank", "responses", "video_generation",
}  # fmt: skip
# Per million tokens, six decimals are 10^-12 USD per token: the finest money the gateway knows.
FINEST = Decimal("0.000001")


def kind(provider):
    if provider in KINDS:
        return KINDS[provider]
    return "vertex" if provider.startswith("vertex_ai") else provider


def bare(row):
    """The name the provider itself uses: without the price list's own prefix."""
    provider, name = row["provider"], row["name"]
    for prefix in (provider.split("-")[0] + "/", kind(provider) + "/"):
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


def rates(row):
    """{(tier, first prompt size): {field: price}} of the token prices that the gateway knows."""
    found = {}
    for key, value in row.items():
        match = KEY.match(key)
        if not match or value is None:
            continue
        price = Decimal(value)
        if price % FINEST or price < 0:
            sys.exit(f"{row['name']}: {key} = {value} is no whole number of 10^-12 USD per token")
        start = 0
        if match["above"]:
            # Dearer above N tokens; xAI's own price list says from N tokens on.
            start = int(match["above"]) * 1000 + (0 if row["provider"] == "xai" else 1)
        tier = TIERS.get(match["tier"], "")
        found.setdefault((start, tier), {})[FIELDS[match["base"]]] = price
    return found


def priced(row, found):
    usual = found.get((0, ""), {})
    if "in" not in usual:
        return False
    if any(price for part in found.values() for price in part.values()):
        return True
    return not any(
        "cost" in key and isinstance(value, str) and Decimal(value) for key, value in row.items()
    )


def text(price):
    return format(price.normalize(), "f")


def price(row):
    found = rates(row)
    if not priced(row, found):
        return ""
    usual = found[0, ""]
    if "out" not in usual and "image_out" in usual:
        usual["out"] = usual["image_out"]
    parts = []
    for (start, tier), fields in sorted(found.items()):
        head = [tier] if tier else []
        head += [f"@{start}"] if start else []
        parts.append(" ".join(head + [f"{f}={text(fields[f])}" for f in FIELDS.values() if f in fields]))
    return ";".join(parts)


def table(rows):
    models = {}
    # A model that two of the list's providers name alike keeps the plain name for the row that has
    # no other (a bare name), then for the list's main provider; the other keeps its full name.
    for row in sorted(rows, key=lambda row: (row["name"] != bare(row), row["provider"], row["name"])):
        line = price(row)
        if NOT_A_MODEL.search(row["name"]) or row["mode"] not in MODES and not line:
            continue
        facts = (row["mode"] or "", str(row.get("context") or ""), str(row.get("max_output") or ""), line)
        key = (kind(row["provider"]), bare(row).lower())
        if key in models and models[key][1][3] == line:
            continue
        name = bare(row)
        if key in models:
            name = row["name"]
            key = (key[0], name.lower())
        if key in models:
            sys.exit(f"two rows are called {key}")
        models[key] = (name, facts)
    for (of, _), (name, facts) in sorted(models.items()):
        yield "\t".join((of, name) + facts)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    for line in table(rows):
        print(line)


if __name__ == "__main__":
    main()

"""The model cards in the repository: their figures, metadata and links."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard


ROOT = Path(__file__).parents[1]
CARDS = sorted((ROOT / "model_cards").rglob("*.md"))


def links(text):
    return re.findall(r"\]\((?!https?:)([^)]+)\)", text)


def test_metadata_of_the_mosi_card_is_its_table():
    card = ModelCard.load(ROOT / "model_cards" / "mosi_csd.md")
    header, _, row = re.search(r"\| modalities \|(.*)\|\n(.*)\n\| text, acoustic(.*)\|\n", card.text).groups()
    names = [name.strip().lower().replace("-", "").replace(" ", "_") for name in header.split("|")]
    means = [float(value.split("±")[0]) for value in row.split("|")[1:]]
    assert {result.metric_name: result.metric_value for result in card.data.eval_results} == dict(
        zip(names, means, strict=True)
    )


@pytest.mark.parametrize("path", CARDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_cards_of_the_models_trained_here_are_whole(path):
    card = ModelCard.load(path)
    assert card.data.library_name == "transformers"
    assert card.data.eval_results
    assert all((path.parent / target.partition("#")[0]).exists() for target in links(card.text))
    assert not re.search(r"(?<![\w.:/`])/(?:work|home|root|tmp|usr)/", card.content)

"""The sample corpus with labels of each kind, made of its sentiments."""

from datasets import ClassLabel, List, Value

from data_builders.labels import noted_number


CLASSES = ("negative", "neutral", "positive")
SEVERAL = ("happy", "sad", "strong")
NUMBERS = ("sentiment", "intensity")

# By the name of a kind: what `label` holds, and the label of a sentiment.
KINDS = {
    "number": (Value("float32", id=noted_number("sentiment", (-1.0, 1.0))), lambda value: value / 3),
    "class": (ClassLabel(names=list(CLASSES)), lambda value: 0 if value < -0.5 else 2 if value > 0.5 else 1),
    "classes": (
        List(ClassLabel(names=list(SEVERAL))),
        lambda value: [place for place, has in enumerate((value > 0.5, value < -0.5, abs(value) > 1.5)) if has],
    ),
    "numbers": (
        {name: Value("float32") for name in NUMBERS},
        lambda value: dict(zip(NUMBERS, (value, abs(value)), strict=True)),
    ),
}


def relabelled(corpus, kind):
    """A corpus in the row format with labels of a kind; as it is for `sentiment`."""
    if kind == "sentiment":
        return corpus
    feature, label_of = KINDS[kind]
    features = corpus["train"].features.copy()
    features["label"] = feature
    return corpus.map(lambda row: {"label": label_of(row["label"])}, features=features)

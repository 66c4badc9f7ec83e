"""Scores: the numbers everybody quotes must mean what they say."""

import json

import numpy as np
import pytest

from peel4d.engine.train import metrics


def pictures(seed=0, noise=0.1, size=(48, 64)):
    random = np.random.default_rng(seed)
    truth = random.uniform(0, 1, (*size, 3))
    picture = np.clip(truth + random.normal(0, noise, truth.shape), 0, 1)
    return picture, truth


def test_psnr_of_a_known_error():
    truth = np.zeros((10, 10, 3))
    assert metrics.psnr(truth + 0.1, truth) == pytest.approx(20.0)
    assert metrics.psnr(truth, truth) == metrics.PSNR_LIMIT


def test_psnr_counts_the_region_only():
    picture, truth = pictures()
    region = np.zeros(truth.shape[:2], bool)
    region[5:20, 5:20] = True
    spoiled = picture.copy()
    spoiled[~region] = 0
    assert metrics.psnr(spoiled, truth, region) == metrics.psnr(picture, truth, region)


def test_ssim_agrees_with_scikit_image():
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    picture, truth = pictures()
    _, expected = structural_similarity(
        picture,
        truth,
        data_range=1.0,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    ours = metrics.ssim_map(picture, truth)
    # Borders are padded alike but the window is truncated alike only to float rounding.
    np.testing.assert_allclose(ours, expected.mean(axis=2), atol=1e-6)


def test_ssim_does_not_see_beyond_the_region():
    picture, truth = pictures()
    region = np.zeros(truth.shape[:2], bool)
    region[10:30, 10:30] = True
    spoiled = np.where(region[..., None], picture, 1 - truth)
    assert metrics.ssim(spoiled, truth, region) == pytest.approx(
        metrics.ssim(picture, truth, region), abs=1e-12
    )
    assert metrics.ssim(truth, truth, region) == pytest.approx(1.0)


def test_region_is_the_mask_dilated_by_three_pixels():
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    region = metrics.region_of(mask)
    assert region[17, 30] and not region[16, 30]
    assert region[30, 42] and not region[30, 43]


def test_small_masks_are_skipped():
    mask = np.zeros((60, 60), bool)
    mask[30, 30] = True  # 29 px after dilation
    assert metrics.region_of(mask) is None


def test_summary_is_json_and_averages_per_image():
    scores = [metrics.Score("a", 0, 30.0, 0.9), metrics.Score("b", 0, 20.0, 0.7)]
    summary = json.loads(json.dumps(metrics.summarize(scores, "mask", note=1), allow_nan=False))
    assert summary["mean"] == {"psnr": 25.0, "ssim": pytest.approx(0.8), "lpips": None}
    assert summary["views"][1] == {
        "view": "b",
        "frame": 0,
        "psnr": 20.0,
        "ssim": 0.7,
        "lpips": None,
    }
    assert summary["region"] == "mask" and summary["note"] == 1

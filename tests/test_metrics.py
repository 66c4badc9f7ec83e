"""Scores: the numbers everybody quotes must mean what they say."""

import json

import numpy as np
import pytest

from peel4d.engine.train import metrics
from peel4d.engine.train.perceptual import flip_error


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


def detailed(seed=0, size=(48, 64)):
    """A picture with detail of all sizes, and noise for it."""
    import cv2

    random = np.random.default_rng(seed)
    noise = random.normal(0, 1, (*size, 3))
    coarse = sum(cv2.GaussianBlur(noise, (0, 0), s) * s for s in (0.7, 1.5, 3.0))
    return np.clip(0.5 + 0.15 * coarse / coarse.std(), 0, 1), random.normal(0, 0.1, noise.shape)


def test_gradients_of_the_truth_itself():
    truth, _ = detailed()
    assert metrics.gradients(truth, truth) == (pytest.approx(1), pytest.approx(1))
    # A gain changes the energy by its square, an offset changes nothing.
    energy, correlation = metrics.gradients(0.5 * truth + 0.2, truth)
    assert energy == pytest.approx(0.25) and correlation == pytest.approx(1)
    assert metrics.gradients(1 - truth, truth) == (pytest.approx(1), pytest.approx(-1))


def test_blur_lowers_both_and_noise_raises_the_energy():
    import cv2

    truth, noise = detailed()
    values = [metrics.gradients(cv2.GaussianBlur(truth, (0, 0), s), truth) for s in (0.8, 1.5, 3)]
    energies, correlations = zip(*values, strict=True)
    assert 0.9 > energies[0] > energies[1] > energies[2] > 0
    assert 0.99 > correlations[0] > correlations[1] > correlations[2] > 0
    energy, correlation = metrics.gradients(truth + noise, truth)
    assert energy > 1.2 and correlation < 0.9
    # The noise has twice its variance in every difference.
    expected = 1 + 2 * 0.1**2 / np.mean((truth[:-1, 1:] - truth[:-1, :-1]) ** 2)
    assert energy == pytest.approx(expected, rel=0.15)


def test_gradients_of_flat_pictures():
    truth, _ = detailed()
    assert metrics.gradients(truth, np.full_like(truth, 0.5)) == (None, None)
    assert metrics.gradients(np.full_like(truth, 0.5), truth) == (0.0, 0.0)


def test_gradients_stay_inside_the_region():
    truth, noise = detailed()
    picture = truth + noise
    region = np.zeros(truth.shape[:2], bool)
    region[10:30, 12:40] = True
    region[20, 20] = False  # the stencils of three pixels need it
    spoiled = np.where(region[..., None], picture, 1 - truth)
    assert metrics.gradients(spoiled, truth, region) == metrics.gradients(picture, truth, region)
    # One line of pixels has no whole stencil.
    line = np.zeros_like(region)
    line[20] = True
    assert metrics.gradients(picture, truth, line) == (None, None)


def test_flip_error():
    pytest.importorskip("flip_evaluator")
    import cv2

    truth, noise = detailed()
    assert flip_error(truth, truth) == 0
    black = np.zeros_like(truth)
    assert flip_error(black + 1, black) > 0.9
    blurred = [cv2.GaussianBlur(truth, (0, 0), s) for s in (0.8, 3)]
    errors = [flip_error(picture, truth) for picture in blurred]
    assert 0 < errors[0] < errors[1] < 1
    assert flip_error(truth + 0.2 * noise, truth) < flip_error(truth + noise, truth)


def test_flip_does_not_see_beyond_the_region():
    pytest.importorskip("flip_evaluator")
    truth, noise = detailed(size=(80, 96))
    picture = np.clip(truth + noise, 0, 1)
    for window in (np.s_[30:45, 40:60], np.s_[0:20, 0:15]):  # amid the picture, in its corner
        region = np.zeros(truth.shape[:2], bool)
        region[window] = True
        value = flip_error(picture, truth, region)
        spoiled = np.where(region[..., None], picture, 1 - truth)
        assert flip_error(spoiled, truth, region) == value
        # What is cut out of the picture is all that its filters see.
        import flip_evaluator

        equal = np.where(region[..., None], picture, truth)
        pair = (image.astype(np.float32) for image in (truth, equal))
        whole = flip_evaluator.evaluate(*pair, "LDR", applyMagma=False)[0][..., 0]
        assert value == pytest.approx(whole[region].mean(), abs=1e-6)


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
    assert list(summary["mean"]) == list(metrics.MEASURES)
    means = {name: value for name, value in summary["mean"].items() if value is not None}
    assert means == {"psnr": 25.0, "ssim": pytest.approx(0.8)}
    assert summary["views"][1] == {
        "view": "b",
        "frame": 0,
        "psnr": 20.0,
        "ssim": 0.7,
        "lpips": None,
        "flip": None,
        "gradient_energy": None,
        "gradient_correlation": None,
    }
    assert summary["region"] == "mask" and summary["note"] == 1

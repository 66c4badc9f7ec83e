"""The codec "residual": its field, its rate model, its streams, and training on the small ball."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ball import write_ball_capture
from chunk_header import with_header
from test_cli import QUICK, fails, peel4d

from peel4d.engine.clip.dictionary import FieldState, Grid, evaluate, make_layout
from peel4d.engine.clip.envelope import unwrap
from peel4d.engine.clip.field_points import decode_field_points
from peel4d.engine.clip.lattice import Grid as PositionGrid
from peel4d.engine.clip.reader import ClipReader
from peel4d.engine.clip.residual import (
    MAGIC,
    MAX_DIFFERENCE,
    decode_residual,
    encode_residual,
)
from peel4d.engine.clip.symbol_tables import TOTAL, SymbolTable, fitted_table
from peel4d.engine.clip.target import Target, clip_psnr
from peel4d.engine.clip.writer import write_clip
from peel4d.engine.errors import CaptureError, ClipError, ReconstructionError
from peel4d.engine.model.dictionary_field import DictionaryField, laplace_bits
from peel4d.engine.model.points import bounded_radius
from peel4d.engine.render.splats import Splats
from peel4d.engine.train.own_values import OwnValues
from peel4d.engine.train.plan import Folder
from peel4d.engine.train.residual import TrainedFragment, train_fragment
from peel4d.engine.train.residual_clip import (
    encoder_of,
    merged,
    pack_residual,
    source_footage,
    source_frame,
)
from peel4d.engine.train.residual_settings import PRESETS, ResidualSettings

BOUNDS = np.array([[-1.0, -0.5, -1.0], [1.0, 0.5, 1.0]])
LAYOUT = make_layout(BOUNDS, 0.04, 1, (-1.0, 1.5))
FEW = replace(PRESETS["small"], first_steps=40, steps=20, fit_steps=40, gop=2)


def made_differences(seed: int, frames: int = 4) -> list[list[np.ndarray]]:
    """Sparse ones, as frames have them, up to the largest; a grid of the second frame has none."""
    random = np.random.default_rng(seed)
    result = []
    for number in range(frames):
        frame = []
        for grid in (LAYOUT.coefficient, *LAYOUT.basis):
            values = np.rint(random.laplace(0, 1.5, (grid.corners, grid.channels)))
            values[random.random(grid.corners) < (0.3 if number == 0 else 0.9)] = 0
            frame.append(np.clip(values, -MAX_DIFFERENCE, MAX_DIFFERENCE).astype(np.int16))
        result.append(frame)
    result[1][2][:] = 0
    result[0][1][3, 0] = MAX_DIFFERENCE
    return result


def made_network(seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = LAYOUT.network_shapes
    return [np.rint(random.normal(0, 20, shape)).astype(np.int8) for shape in shapes]


@pytest.fixture(scope="module")
def member():
    return encode_residual(LAYOUT, made_network(0), made_differences(0))


@pytest.fixture(scope="module")
def folder(ball_capture, tmp_path_factory):
    root = tmp_path_factory.mktemp("residual") / "ball"
    result = peel4d("reconstruct", ball_capture, "-o", root, *QUICK)
    assert result.returncode == 0, result.stderr
    return root


@pytest.fixture(scope="module")
def run(folder):
    return source_footage(Folder(folder)).open()


@pytest.fixture(scope="module")
def fragment(run) -> TrainedFragment:
    return trained(run, FEW)


def trained(run, settings: ResidualSettings, labels=None) -> TrainedFragment:
    sources = [source_frame(run, label, settings) for label in labels or run.plan.frames]
    images, plan = run.images, run.plan
    return train_fragment(sources, run.spacing, run.color, images, plan.settings, settings)


# ---- the field ------------------------------------------------------------------------------


def test_a_periodic_grid_repeats_itself_and_is_continuous():
    grid = Grid((5, 5, 5), 0.1, 1, periodic=True)
    values = np.random.default_rng(0).normal(size=grid.corners)

    def at(position):
        index, weight = grid.interpolation(np.float32(position), (0, 0, 0))
        return (values[index] * weight).sum(axis=1)

    position = np.random.default_rng(1).uniform(-2, 2, (50, 3)).astype(np.float32)
    np.testing.assert_allclose(at(position), at(position + np.float32(0.5)), atol=2e-5)
    seam = np.array([[0.5 - 1e-5, 0.13, 0.2], [0.5 + 1e-5, 0.13, 0.2]])
    assert abs(np.diff(at(seam))[0]) < 1e-3
    corner = at(np.array([[0.1, 0.2, 0.3]]))[0]
    assert corner == pytest.approx(values[1 + 5 * 2 + 25 * 3], abs=1e-4)


def test_a_plain_grid_holds_linear_functions_and_its_rim_outside():
    grid = Grid((4, 3, 5), 0.5, 1, periodic=False)
    x, y, z = (
        axis.ravel(order="F") for axis in np.meshgrid(*map(np.arange, (4, 3, 5)), indexing="ij")
    )
    values = 2.0 * x - 3 * y + 5 * z
    position = np.array([[0.3, 0.7, 1.9], [1.5, 1.0, 2.0], [-9, 0.5, 99]], dtype=np.float32)
    index, weight = grid.interpolation(position, (0, 0, 0))
    found = (values[index] * weight).sum(axis=1)
    wanted = [2 * 0.6 - 3 * 1.4 + 5 * 3.8, 2 * 3 - 3 * 2 + 5 * 4, -3 * 1 + 5 * 4]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_what_training_sees_is_what_a_player_sees():
    random = np.random.default_rng(3)
    position = random.uniform(-1.2, 1.2, (300, 3)).astype(np.float32)
    before = FieldState(*_state(made_differences(1)[0]))
    field = DictionaryField(LAYOUT, before, made_network(1))
    with torch.no_grad():
        for difference in field.differences:
            difference.uniform_(-3, 3)
        output = field(field.sample(position))
    start = LAYOUT.start
    radius, density, sh = evaluate(LAYOUT, field.state(), field.network_integers(), position)
    wanted = bounded_radius(output[:, 0] + start[0], LAYOUT.spacing)
    np.testing.assert_allclose(radius, wanted, rtol=1e-4)
    np.testing.assert_allclose(density, torch.sigmoid(output[:, 1] + start[1]), atol=1e-4)
    np.testing.assert_allclose(sh.reshape(300, -1), output[:, 2:], rtol=1e-4, atol=1e-4)


def test_gradients_reach_every_number_that_is_coded():
    position = np.random.default_rng(4).uniform(-1, 1, (400, 3)).astype(np.float32)
    field = DictionaryField(LAYOUT)
    sample = field.sample(position)
    torch.manual_seed(0)
    field.start(sample)
    cells = np.random.default_rng(5).integers(0, 50, (400, 3))
    own = OwnValues(cells, torch.rand(400, 3), torch.rand(400), FEW)
    color, factor = own(True)
    (field(sample).square().sum() + color.sum() + factor.sum()).backward()
    for difference, touched in zip(field.differences, sample.touched, strict=True):
        assert (difference.grad[touched].abs().sum(dim=1) > 0).float().mean() > 0.95
        assert (difference.grad[~touched] == 0).all()
    assert all((weight.grad != 0).any() for weight in field.network)
    assert (own.colors.grad != 0).all() and (own.radii.grad != 0).all()
    field.zero_grad()
    (field.bits(sample) + own.bits()).backward()
    assert all((difference.grad != 0).any() for difference in field.differences)
    assert all((scale.grad != 0).all() for scale in field.log_scales)
    assert (own.log_scales.grad != 0).all()


# ---- the rate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("log_scale", [-2.0, -0.5, 0.7, 3.0])
def test_laplace_bits_are_those_of_a_distribution(log_scale):
    scale = torch.tensor([log_scale], dtype=torch.float64)
    whole = torch.arange(-600, 601, dtype=torch.float64)[:, None]
    mass = torch.exp2(-laplace_bits(whole, scale))
    assert float(mass.sum()) == pytest.approx(1, abs=1e-6)
    density = torch.distributions.Laplace(0.0, float(scale.exp()))
    for value in (0.0, 0.3, 0.5, 2.0, 4.5):
        wanted = density.cdf(torch.tensor(value + 0.5, dtype=torch.float64)) - density.cdf(
            torch.tensor(value - 0.5, dtype=torch.float64)
        )
        found = torch.exp2(-laplace_bits(torch.tensor([value], dtype=torch.float64), scale))
        assert float(found) == pytest.approx(float(wanted), rel=1e-6, abs=1e-9)
    value = torch.tensor([0.2, 0.8, 7.0], dtype=torch.float64, requires_grad=True)
    wide = torch.tensor([log_scale] * 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(laplace_bits, (value, wide), atol=1e-4)


def test_tables_are_whole_and_leave_nothing_out():
    for zero in (1, 7, 128, 254, 255):
        for ratio in (0, 1, 90, 200, 255):
            for highest in (0, 1, 2, 31, 127, 255):
                table = SymbolTable(zero, ratio, highest)
                frequencies = table.frequencies.astype(np.int64)
                assert len(frequencies) == 2 * highest + 1
                assert frequencies.min() > 0 and frequencies.sum() == TOTAL
                assert (frequencies == frequencies[::-1]).all()
                assert SymbolTable.from_bytes(table.to_bytes()) == table


@pytest.mark.parametrize("scale", [0.2, 0.8, 3.0])
def test_a_fitted_table_is_near_the_entropy(scale):
    values = np.clip(np.rint(np.random.default_rng(0).laplace(0, scale, 20_000)), -31, 31)
    counts = np.unique(values, return_counts=True)[1] / len(values)
    entropy = -(counts * np.log2(counts)).sum() * len(values)
    bits = fitted_table(values.astype(int)).bits(values.astype(int))
    assert entropy <= bits < 1.03 * entropy


# ---- the stream -------------------------------------------------------------------------------


def _state(frame):
    return frame[0], tuple(frame[1:])


def test_a_fragment_comes_back_as_sums_of_its_differences(member):
    decoded = decode_residual(member.data, None, "here")
    assert decoded.layout == LAYOUT
    for mine, theirs in zip(made_network(0), decoded.network, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    total = None
    for frame, state in zip(made_differences(0), decoded.states, strict=True):
        total = frame if total is None else [a + b for a, b in zip(total, frame, strict=True)]
        for mine, theirs in zip(total, (state.coefficient, *state.basis), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_shares_add_up_to_the_stream(member):
    header = len(member.data) - sum(member.nbytes.values())
    assert all(nbytes > 0 for nbytes in member.nbytes.values())
    assert 8 < header < 1200


def test_damaged_fragments_are_errors_or_whole_numbers(member):
    """What no checksum has caught must not crash, take long or give what is no field."""
    random = np.random.default_rng(0)
    position = random.uniform(-1, 1, (20, 3)).astype(np.float32)
    refused = 0
    for trial in range(300):
        data = bytearray(member.data)
        if trial % 3 == 0:
            del data[int(random.integers(len(data))) :]
        else:
            for _ in range(1 + trial % 4):
                data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
        try:
            decoded = decode_residual(bytes(data), None, "fragments/0000.bin")
        except ClipError as error:
            assert error.where and "fragments/0000.bin" in str(error.where)
            refused += 1
            continue
        for step in range(len(decoded.states)):
            assert all(np.isfinite(values).all() for values in decoded.evaluate(step, position))
    assert refused > 150


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 0},
        {"frames": 10**6},
        {"hidden": 10**9},
        {"sh_degree": 4},
        {"steps": [0, 1]},
        {"start": [1e300, 0]},
        {"spacing": 0},
        {"origin": [0, 0]},
        {"coefficient": {"shape": [1 << 17, 1 << 17, 4], "cell": 0.1}},
        {"coefficient": {"shape": [1, 4, 4], "cell": 0.1}},
        {"basis": []},
        {"basis": [{"period": 8, "cell": 0, "channels": 4}]},
        {"basis": [{"period": 1000, "cell": 0.1, "channels": 4}]},
        {"bytes": [[1, 2, 3]]},
        {"bytes": "none"},
    ],
)
def test_absurd_headers_are_refused(member, change):
    with pytest.raises(ClipError) as error:
        decode_residual(with_header(member.data, lambda h: h.update(change)), None, "here")
    assert error.value.hint


def test_large_coordinates_are_finite(member):
    decoded = decode_residual(member.data, None, "here")
    far = np.array([[1e12, -1e12, 3e11], [0, 0, 0]], dtype=np.float32)
    for values in decoded.evaluate(3, far):
        assert np.isfinite(values).all() and len(values) == 2
    assert len(decoded.evaluate(0, far[:0])[0]) == 0


# ---- points -----------------------------------------------------------------------------------


def test_points_of_one_cell_become_their_mean():
    splats = Splats(
        np.zeros((3, 3)), [0.1, 0.2, 0.3], [0.5, 0.5, 0.9], np.arange(9).reshape(3, 1, 3)
    )
    one, weight = merged(splats, np.array([1.0, 3.0, 2.0]), np.array([0, 2]))
    np.testing.assert_allclose(weight, [4, 2])
    np.testing.assert_allclose(one.density, [0.75, 0.9])
    np.testing.assert_allclose(one.radius, [np.sqrt(0.25 * 0.01 + 0.75 * 0.04), 0.3], rtol=1e-6)
    np.testing.assert_allclose(one.sh[:, 0], [[2.25, 3.25, 4.25], [6, 7, 8]])


def test_no_two_points_share_a_cell(run):
    coarse = replace(FEW, position=2.0)
    source = source_frame(run, run.plan.frames[0], coarse)
    assert len(np.unique(source.cells, axis=0)) == len(source.cells)
    fine = source_frame(run, run.plan.frames[0], replace(FEW, position=0.05))
    assert len(source.cells) < 0.7 * len(fine.cells)
    again = PositionGrid.of(source.splats.position, source.grid_step)
    np.testing.assert_array_equal(again.cells, source.cells)


# ---- training ---------------------------------------------------------------------------------


def test_the_loop_is_closed(fragment, tmp_path):
    """A player has exactly the trainer's integers, and so its points."""
    encoder = encoder_of([fragment])
    decoded = decode_residual(encoder.shared.fragments[0].member.data, None, "here")
    for frame, state in zip(fragment.frames, decoded.states, strict=True):
        np.testing.assert_array_equal(frame.state.coefficient, state.coefficient)
        for mine, theirs in zip(frame.state.basis, state.basis, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    path = tmp_path / "clip.p4d"
    steps = range(len(fragment.frames))
    write_clip(path, (fragment.splats(step) for step in steps), fps=24, encoder=encoder)
    with ClipReader(path) as reader:
        for step in steps:
            shown = reader.packed(step)[0].unpack()
            for name in ("position", "radius", "density", "sh"):
                np.testing.assert_array_equal(
                    getattr(shown, name), getattr(fragment.splats(step), name)
                )


def test_the_rate_model_is_near_the_coded_bytes(run):
    """Of a field the numbers: its tables and masks are beside them, and no density knows these."""
    settings = replace(FEW, rate_weight=1e-6, field_size=0.2, color=1 / 60, fit_steps=150)
    fragment = trained(run, settings, run.plan.frames[:1])
    (frame,) = fragment.frames
    encoder = encoder_of([fragment])
    chunk = encoder.encode(fragment.splats(0), "frame", frame=0)
    own = 8 * (chunk.nbytes["sh"] + chunk.nbytes["radius"])
    assert frame.own_bits == pytest.approx(own, rel=0.1)
    member = encoder.shared.fragments[0].member
    (sizes,) = unwrap(member.data, MAGIC, "residual", "here")[0].values["bytes"]
    network = member.nbytes["network"] - 3 * len(LAYOUT.network_shapes)
    assert frame.field_bits == pytest.approx(8 * (sizes[2] - network), rel=0.1)


def test_lambda_trades_bytes_for_pictures(run):
    labels = run.plan.frames[:1]
    sizes = []
    for weight in (1e-5, 3e-3):
        fragment = trained(run, replace(FEW, rate_weight=weight), labels)
        encoder = encoder_of([fragment])
        chunk = encoder.encode(fragment.splats(0), "frame", frame=0)
        member = encoder.shared.fragments[0].member
        sizes.append((len(member.data), chunk.nbytes["sh"], chunk.nbytes["radius"]))
    assert all(small < large for large, small in zip(*sizes, strict=True))


def test_later_frames_cost_less_than_the_first(fragment):
    alone = encode_residual(fragment.layout, fragment.network, [fragment.frames[0].differences])
    every = [frame.differences for frame in fragment.frames]
    whole = encode_residual(fragment.layout, fragment.network, every)
    later = (len(whole.data) - len(alone.data)) / (len(every) - 1)
    assert later < 0.7 * len(alone.data)


def test_the_same_seed_gives_the_same_integers(run, fragment):
    again = trained(run, FEW)
    for mine, theirs in zip(fragment.frames, again.frames, strict=True):
        np.testing.assert_array_equal(mine.colors, theirs.colors)
        np.testing.assert_array_equal(mine.state.coefficient, theirs.state.coefficient)


@pytest.mark.parametrize(
    "radius", [[0.25, 0, 10**6], [0, 0, 3], [5.0, -9, 3], [0.25, 0.5, 3], [0.25, 0, 0], None]
)
def test_absurd_radii_of_a_frame_are_refused(fragment, radius):
    encoder = encoder_of([fragment])
    chunk = encoder.encode(fragment.splats(0), "frame", frame=0)
    field = decode_residual(encoder.shared.fragments[0].member.data, None, "fragment")
    data = with_header(chunk.data, lambda header: header.update(radius=radius))
    with pytest.raises(ClipError):
        decode_field_points(data, field, 0, chunk.points, chunk.sh_degree, "frame")


# ---- the product ------------------------------------------------------------------------------


def test_a_packed_clip_plays_from_any_frame(folder, run, tmp_path):
    path = tmp_path / "packed.p4d"
    packed = pack_residual(folder, path, FEW)
    assert packed.info.codec == "residual" and packed.nbytes == path.stat().st_size
    assert [(f.first, f.frames) for f in packed.info.fragments] == [(0, 2), (2, 1)]
    assert packed.nbytes < 0.5 * packed.source_nbytes
    with ClipReader(path, cache_frames=1) as reader:
        in_turn = [reader.packed(index)[0].unpack() for index in range(3)]
    for order in ((2, 0, 1), (1, 2, 0)):
        with ClipReader(path, cache_frames=1) as reader:
            for index in order:
                shown = reader.packed(index)[0].unpack()
                for name in ("position", "radius", "density", "sh"):
                    np.testing.assert_array_equal(
                        getattr(shown, name), getattr(in_turn[index], name)
                    )


def test_the_command_packs_and_scores(folder, tmp_path):
    packed = tmp_path / "packed.p4d"
    options = ("--codec", "residual", "--lambda", "high", "--gop", "3")
    result = peel4d("pack", folder, "-o", packed, *options, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["codec"] == "residual"
    information = json.loads(peel4d("info", packed, "--json").stdout)
    assert set(information["shared_bytes"]) == {"coefficient", "basis", "network"}
    scores = []
    for clip in (folder / "clip.p4d", packed):
        result = peel4d("evaluate", folder, "--clip", clip, "--json")
        assert result.returncode == 0, result.stderr
        scores.append(json.loads(result.stdout)["mean"]["psnr"])
    assert scores[1] > scores[0] - 0.7


def test_processes_make_the_same_clip(folder, tmp_path):
    files = [tmp_path / f"{jobs}.p4d" for jobs in (1, 2)]
    for jobs, file in enumerate(files, 1):
        pack_residual(folder, file, FEW, jobs=jobs)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_size_and_a_psnr_are_met(folder, tmp_path):
    plain = pack_residual(folder, tmp_path / "plain.p4d", FEW)
    for share in (0.8, 1.2):
        target = round(share * plain.nbytes)
        packed = pack_residual(folder, tmp_path / "sized.p4d", FEW, target=Target(nbytes=target))
        # The last fragment has one frame only, which the one in the middle knows nothing of.
        assert 0.75 * target < packed.nbytes <= target
        assert packed.nbytes == (tmp_path / "sized.p4d").stat().st_size
        assert (packed.coarseness > 1) == (share < 1)
    with ClipReader(folder / "clip.p4d") as original:
        with ClipReader(tmp_path / "plain.p4d") as coded:
            before = clip_psnr(original, coded)
        target = Target(psnr=before - 2)
        smaller = pack_residual(folder, tmp_path / "worse.p4d", FEW, target=target)
        with ClipReader(tmp_path / "worse.p4d") as coded:
            assert target.psnr - 1 < clip_psnr(original, coded) < before
    assert smaller.nbytes < plain.nbytes
    assert not list(tmp_path.glob(".*"))


def test_what_cannot_be_packed_says_why(folder, tmp_path):
    out = tmp_path / "out.p4d"
    clip = folder / "clip.p4d"
    fails(peel4d("pack", clip, "-o", out, "--codec", "residual"), "reconstruction")
    options = ("--codec", "residual", "--gop", "2", "--target-size", "2k")
    fails(peel4d("pack", folder, "-o", out, *options), "larger file")
    with pytest.raises(ReconstructionError, match="frame 99 was not reconstructed"):
        pack_residual(folder, out, FEW, frames=[99])
    other = write_ball_capture(tmp_path / "other", frames=2)
    with pytest.raises(CaptureError, match="no frame 2"):
        pack_residual(folder, out, FEW, capture=other)
    with pytest.raises(ClipError, match="onto itself"):
        pack_residual(folder, clip, FEW)
    assert not out.exists()

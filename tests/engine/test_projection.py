import numpy as np
import pytest

from scgeneformer._engine.statistics.projection import project, smooth


@pytest.fixture
def plane():
    """Cells on a grid of 20 × 20, laid as a plane into 12 dimensions; the last axes of that space lie across it."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    positions = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), axis=-1).reshape(-1, 2)
    positions += rng.uniform(-0.2, 0.2, positions.shape)
    return positions, 3 * positions @ axes[:2], axes


def inner(positions):
    return ((positions > 3) & (positions < 16)).all(axis=1)


@pytest.mark.parametrize("angle", [0, 60, 200])
@pytest.mark.parametrize("length", [1e-3, 5])
def test_arrows_point_along_vectors_in_the_plane(plane, angle, length):
    positions, points, axes = plane
    direction = np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
    arrows = project(np.tile(length * direction @ axes[:2], (400, 1)), points, positions, 24, 0.1)
    unit = arrows[inner(positions)] / np.linalg.norm(arrows[inner(positions)], axis=1, keepdims=True)
    assert (unit @ direction).min() > 0.95
    assert np.linalg.norm(arrows[inner(positions)], axis=1).max() < 1.1


def test_a_field_that_turns_is_followed_and_smoothed(plane):
    positions, points, axes = plane
    field = np.stack([-(positions[:, 1] - 10), positions[:, 0] - 10], axis=1)
    arrows = project(field @ axes[:2], points, positions, 24, 0.1)
    grid, means = smooth(positions, arrows, 12)
    turn = np.stack([-(grid[:, 1] - 10), grid[:, 0] - 10], axis=1)
    some = (np.abs(grid - 10) < 7).all(axis=1) & (np.linalg.norm(turn, axis=1) > 2)
    cosines = (turn * means).sum(axis=1) / np.linalg.norm(turn, axis=1) / np.linalg.norm(means, axis=1)
    assert some.sum() > 40
    assert cosines[some].min() > 0.9


def test_vectors_across_the_plane_and_equal_neighbours_give_no_direction(plane):
    positions, points, axes = plane
    across = project(np.tile(axes[5], (400, 1)), points, positions, 24, 0.1)
    along = project(np.tile(axes[0], (400, 1)), points, positions, 24, 0.1)
    assert np.abs(across).max() < 1e-6
    assert np.linalg.norm(along, axis=1).mean() > 0.4


def test_it_is_the_formula_cell_by_cell():
    rng = np.random.default_rng(0)
    points, positions, vectors = rng.normal(size=(30, 5)), rng.normal(size=(30, 2)), rng.normal(size=(30, 5))
    vectors[3], vectors[4] = np.nan, 0
    arrows = project(vectors, points, positions, 6, 0.2)
    for i in range(30):
        if i in (3, 4):
            assert np.isnan(arrows[i]).all()
            continue
        near = np.argsort(np.linalg.norm(points - points[i], axis=1))[1:7]
        ways = points[near] - points[i]
        cosines = ways @ vectors[i] / np.linalg.norm(ways, axis=1) / np.linalg.norm(vectors[i])
        weights = np.exp(cosines / 0.2) / np.exp(cosines / 0.2).sum()
        steps = positions[near] - positions[i]
        expected = ((weights - 1 / 6)[:, None] * steps / np.linalg.norm(steps, axis=1)[:, None]).sum(axis=0)
        np.testing.assert_allclose(arrows[i], expected)


def test_cells_at_one_place_and_blocks_change_nothing(monkeypatch):
    from scgeneformer._engine.statistics import projection

    rng = np.random.default_rng(0)
    points = np.repeat(rng.normal(size=(10, 4)), 5, axis=0)
    positions, vectors = np.repeat(rng.normal(size=(10, 2)), 5, axis=0), rng.normal(size=(50, 4))
    arrows = project(vectors, points, positions, 8, 0.1)
    assert np.isfinite(arrows).all()
    smoothed = smooth(positions, arrows, 5)
    monkeypatch.setattr(projection, "BLOCK", 300)
    np.testing.assert_allclose(project(vectors, points, positions, 8, 0.1), arrows)
    for one, other in zip(smooth(positions, arrows, 5), smoothed, strict=True):
        np.testing.assert_allclose(one, other)


def test_the_grid_covers_cells_only():
    positions = np.concatenate([np.random.default_rng(0).normal(size=(100, 2)), [[50.0, 50.0]]])
    arrows = np.ones((101, 2))
    arrows[5] = np.nan
    grid, means = smooth(positions[:100], arrows[:100], 10)
    assert (np.abs(grid) < 5).all()
    np.testing.assert_allclose(means, 1)
    assert smooth(positions, np.full((101, 2), np.nan), 10)[0].shape == (0, 2)
